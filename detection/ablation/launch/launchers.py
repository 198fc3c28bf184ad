"""What starts runs. Each is a process of its own, so that a crash ends one cell and nothing else."""

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

STOP_SECONDS = 10


class Job(ABC):
    """A run at work."""

    @abstractmethod
    def poll(self) -> int | None:
        """Its exit code, None while it works or waits."""

    @abstractmethod
    def stop(self) -> None:
        """End it and all that it started, if it has not ended yet."""


class Launcher(ABC):
    """Starts jobs.

    Attributes:
        slots: jobs at the same time.
        pause: seconds between two looks at them.
    """

    slots: int
    pause: float

    @abstractmethod
    def start(self, command: Sequence[str], log: Path) -> Job:
        """Start a command whose output goes to `log`, which is written again; a `UserError` where that cannot be."""


class LocalLauncher(Launcher):
    """Processes on this machine, which share its cores and its GPUs evenly.

    Args:
        workers: jobs at the same time.
        cores: that they share; each gets at least one thread.
        gpus: as many devices, of which each job sees one; 0: jobs see what we see.
        held: open files that jobs keep open with us, such as the lock of the folder that they write into.
    """

    pause = 0.2

    def __init__(self, workers: int, cores: int, gpus: int = 0, held: Sequence[int] = ()) -> None:
        self.slots, self.threads, self.gpus, self.held = workers, max(1, cores // workers), gpus, tuple(held)
        self.jobs: dict[int, LocalJob] = {}

    def start(self, command: Sequence[str], log: Path) -> "LocalJob":
        """See `Launcher`."""
        slot = next(s for s in range(self.slots) if s not in self.jobs or self.jobs[s].poll() is not None)
        environment = {**os.environ, **self.environment(slot)}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            # A session of its own: Ctrl-C reaches us alone, and we end what the job started together with it.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                pass_fds=self.held,
            )
        self.jobs[slot] = LocalJob(process)
        return self.jobs[slot]

    def environment(self, slot: int) -> dict[str, str]:
        """What a job is told: threads that sleep when idle, since others wait for the core, and its GPU."""
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        gpu = {"CUDA_VISIBLE_DEVICES": _visible_gpus(self.gpus)[slot % self.gpus]} if self.gpus else {}
        return {**threads, "OMP_WAIT_POLICY": "PASSIVE", **gpu}


class LocalJob(Job):
    """A process in a session of its own."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process = process

    def poll(self) -> int | None:
        """See `Job`."""
        return self.process.poll()

    def stop(self) -> None:
        """See `Job`."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(STOP_SECONDS)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _visible_gpus(number: int) -> list[str]:
    """The devices that we are allowed to see, by the names that we know them by."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return names.split(",") if names else [str(index) for index in range(number)]


@dataclass(frozen=True)
class Task:
    """A command to be run.

    Attributes:
        name: what it is called.
        command: the program and its arguments.
        log: where its output goes.
    """

    name: str
    command: Sequence[str]
    log: Path


@dataclass(frozen=True)
class Callbacks:
    """Who is told what happens, by the name of the task.

    Attributes:
        started: it was handed to the launcher.
        ended: it has ended, with its exit code.
        waited: called over and over in between, with the names of what is at work.
    """

    started: Callable[[str], None]
    ended: Callable[[str, int], None]
    waited: Callable[[Sequence[str]], None]


def run_all(tasks: Sequence[Task], launcher: Launcher, watch: Callbacks) -> None:
    """Run each task once; none is tried again.

    Whatever ends this early (Ctrl-C, an error of ours) ends all that is at work.
    """
    waiting, working = list(tasks), dict[str, Job]()
    try:
        while waiting or working:
            while waiting and len(working) < launcher.slots:
                task = waiting.pop(0)
                working[task.name] = launcher.start(task.command, task.log)
                watch.started(task.name)
            for name, job in list(working.items()):
                code = job.poll()
                if code is not None:
                    del working[name]
                    watch.ended(name, code)
            watch.waited(list(working))
            if working:
                time.sleep(launcher.pause)
    finally:
        for job in working.values():
            job.stop()
