"""All cells that are to be run, several at a time; one that fails ends nothing but itself."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detection.ablation.launchers import Job, Launcher


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
class Watch:
    """Who is told what happens, by the name of the task.

    Attributes:
        started: it was handed to the launcher.
        ended: it has ended, with its exit code.
        waited: called over and over in between, with the names of what is at work.
    """

    started: Callable[[str], None]
    ended: Callable[[str, int], None]
    waited: Callable[[Sequence[str]], None]


def run_all(tasks: Sequence[Task], launcher: Launcher, watch: Watch) -> None:
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
