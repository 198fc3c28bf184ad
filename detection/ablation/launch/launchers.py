"""Launchers of runs. Each run is a separate process, so that a crash ends this run and nothing else."""

import contextlib
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.training.preemption import postponed, requested

STOP_SECONDS = 60
"""In which an interrupted run ends its update and saves its state."""


_KILL = getattr(signal, "SIGKILL", 9)
"""Number of the signal that ends a process at once, also where signals have no such name."""


class RunningProcess(ABC):
    """A process that a launcher has started."""

    @abstractmethod
    def poll(self) -> int | None:
        """Return its exit code, None while it runs or waits."""

    @abstractmethod
    def interrupt(self, number: int) -> None:
        """Hand a signal on, on which a training saves its state and ends; without waiting for that."""

    @abstractmethod
    def stop(self) -> None:
        """End it and all its children, if it has not ended yet; one that was interrupted gets the time to save."""


class Launcher(ABC):
    """Starts processes.

    Attributes:
        slots: most processes at the same time.
        pause: seconds between two polls.
    """

    slots: int
    pause: float

    @abstractmethod
    def start(self, command: Sequence[str], log: Path) -> RunningProcess:
        """Start a command with its output in `log`, which is overwritten; a `UserError` where that fails."""


class LocalLauncher(Launcher):
    """Processes on this machine, which share its cores and its GPUs evenly.

    Args:
        workers: processes at the same time.
        cores: cores to share; each process gets at least one thread.
        gpus: number of GPUs, of which each process sees one; 0: processes see what we see.
        held: open files that processes inherit, such as the lock of the ablation's folder.
    """

    pause = 0.2

    def __init__(self, workers: int, cores: int, gpus: int = 0, held: Sequence[int] = ()) -> None:
        self.slots, self.threads, self.gpus, self.held = workers, max(1, cores // workers), gpus, tuple(held)
        self.processes: dict[int, LocalProcess] = {}

    def start(self, command: Sequence[str], log: Path) -> "LocalProcess":
        """Start a command in the first free slot."""
        slot = next(s for s in range(self.slots) if s not in self.processes or self.processes[s].poll() is not None)
        environment = {**os.environ, **self.environment(slot)}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            # A separate session: Ctrl-C reaches us alone, and we end the process together with its children.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                **_separate(self.held),
            )
        self.processes[slot] = LocalProcess(process)
        return self.processes[slot]

    def environment(self, slot: int) -> dict[str, str]:
        """Environment variables of a slot: its GPU, and threads that sleep when idle, since others need the core."""
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        gpu = {"CUDA_VISIBLE_DEVICES": _visible_gpus(self.gpus)[slot % self.gpus]} if self.gpus else {}
        return {**threads, "OMP_WAIT_POLICY": "PASSIVE", "DETECTION_CORES": str(self.threads), **gpu}


class LocalProcess(RunningProcess):
    """A process in a separate session."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.interrupted = process, False

    def poll(self) -> int | None:
        """Return its exit code, None while it runs."""
        return self.process.poll()

    def interrupt(self, number: int) -> None:
        """Send a signal to all processes of the session."""
        self.interrupted = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, number)
            elif number == _KILL:
                self.process.kill()
            else:  # Windows hands nothing else to a group of processes
                self.process.send_signal(signal.CTRL_BREAK_EVENT)  # pyright: ignore[reportAttributeAccessIssue]

    def stop(self) -> None:
        """Terminate the session unless it was interrupted, and kill it if it does not end in time."""
        try:
            if not self.interrupted:
                self.interrupt(signal.SIGTERM)
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.interrupt(_KILL)  # what is left of the session, such as its loading processes
            self.process.wait()


def _separate(held: Sequence[int]) -> dict[str, Any]:
    """Arguments of `Popen` for a separate group of processes that inherits open files."""
    if hasattr(os, "killpg"):
        return {"start_new_session": True, "pass_fds": held}
    return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}


def _visible_gpus(number: int) -> list[str]:
    """Names of the GPUs that this process may use."""
    # A scheduler's need not begin at 0, and may be UUIDs.
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return names.split(",") if names else [str(index) for index in range(number)]


@dataclass(frozen=True)
class QueuedCommand:
    """A command to run, its name in callbacks, and the file of its output."""

    name: str
    command: Sequence[str]
    log: Path


@dataclass(frozen=True)
class Callbacks:
    """Functions that are called with the names of commands.

    Attributes:
        started: a command was handed to the launcher.
        ended: a command has ended, with its exit code.
        waited: called after each poll, with the names of the running commands.
    """

    started: Callable[[str], object] = lambda name: None
    ended: Callable[[str, int], object] = lambda name, code: None
    waited: Callable[[Sequence[str]], object] = lambda names: None


def run_all(commands: Sequence[QueuedCommand], launcher: Launcher, callbacks: Callbacks) -> None:
    """Run each command once, without retries.

    Whatever ends this early (a signal, an exception) ends all running commands, which get the time to save their state.
    """
    waiting, running = list(commands), dict[str, RunningProcess]()
    try:
        while waiting or running:
            while waiting and len(running) < launcher.slots:
                queued = waiting.pop(0)
                running[queued.name] = launcher.start(queued.command, queued.log)
                callbacks.started(queued.name)
            for name, process in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[name]
                    callbacks.ended(name, code)
            callbacks.waited(list(running))
            if running:
                time.sleep(launcher.pause)
    finally:
        _stop(running.values())


def _stop(processes: Collection[RunningProcess]) -> None:
    """End processes, all at the same time, with the signal that this one has received if it has."""
    # All are asked before one is waited for. Postponed, as a signal in between would leave some running.
    with postponed():
        for process in processes:
            process.interrupt(requested() or signal.SIGTERM)
        for process in processes:
            process.stop()
