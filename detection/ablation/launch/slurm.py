"""Runs as Slurm jobs, through submitit."""

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.ablation.launch.launchers import Job, Launcher
from detection.errors import UserError

MANY = 10_000


@dataclass(frozen=True)
class SlurmOptions:
    """What each job asks for.

    Attributes:
        partition: where it runs; the cluster's default if empty.
        gpus: devices.
        cpus: cores, which are its threads.
        hours: longest time.
        memory_gb: main memory.
        account: who pays; the user's default if empty.
    """

    partition: str = ""
    gpus: int = 1
    cpus: int = 4
    hours: float = 4.0
    memory_gb: float = 16.0
    account: str = ""

    def parameters(self) -> dict[str, Any]:
        """The same in submitit's words."""
        named = {"slurm_partition": self.partition, "slurm_account": self.account}
        return {
            "gpus_per_node": self.gpus,
            "cpus_per_task": self.cpus,
            "timeout_min": max(1, round(self.hours * 60)),
            "mem_gb": self.memory_gb,
            **{key: value for key, value in named.items() if value},
        }


@dataclass(frozen=True)
class Command:
    """What a job does on its node: a command in our own folder, its output in a file of ours."""

    command: tuple[str, ...]
    folder: str
    log: str
    threads: int

    def __call__(self) -> int:
        """Run it; its exit code is the result, so that a run that fails is no failure of Slurm."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        with Path(self.log).open("wb") as output:
            done = subprocess.run(
                self.command, cwd=self.folder, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
            )
        return done.returncode


class Queue:
    """The user's jobs that Slurm still holds: asked for all at once, and seldom.

    submitit asks the accounting (`sacct`), which not every cluster keeps, and would wait forever for a job that was
    cancelled where there is none.
    """

    seconds = 15.0
    """Between two questions."""

    def __init__(self) -> None:
        self.asked = -float("inf")
        self.held: frozenset[str] | None = None

    def holds(self, job: Any) -> bool:
        """Whether a job waits or works; also where Slurm does not answer, as nothing is known then."""
        if time.monotonic() - self.asked >= self.seconds:
            command = ["squeue", "--me", "--noheader", "--format=%A"]
            asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            self.asked = time.monotonic()
            self.held = None if asked.returncode else frozenset(asked.stdout.split())
        return self.held is None or job.job_id in self.held


class SlurmLauncher(Launcher):
    """Jobs of a cluster; it decides how many run at the same time.

    Args:
        options: what each job asks for.
        logs: folder for what submitit and Slurm write.
        workers: most jobs that are submitted at the same time; None for all.
        executor: of submitit; None for Slurm's, or a stand-in.
        queue: that says whether a job is over; None for Slurm's, or a stand-in.

    Raises:
        UserError: submitit or Slurm is not there.
    """

    pause = 5.0

    def __init__(
        self,
        options: SlurmOptions,
        logs: Path,
        workers: int | None = None,
        executor: Any | None = None,
        queue: Queue | None = None,
    ) -> None:
        self.slots, self.threads = workers or MANY, options.cpus
        self.executor, self.queue = executor or _slurm_executor(logs, options), queue or Queue()

    def start(self, command: Sequence[str], log: Path) -> "SlurmJob":
        """See `Launcher`; a `UserError` with Slurm's words where it refuses the job."""
        log.parent.mkdir(parents=True, exist_ok=True)
        work = Command(tuple(command), os.getcwd(), str(log.absolute()), self.threads)
        try:
            return SlurmJob(self.executor.submit(work), log, self.queue)
        except Exception as error:
            if type(error).__name__ != "FailedJobError":  # of submitit, which need not be there
                raise
            said = [line for line in str(error).splitlines() if line.strip()]
            raise UserError(f"--launcher slurm: sbatch refused a job: {said[-1].strip()}") from None


class SlurmJob(Job):
    """A job of submitit."""

    patience = 30.0
    """Seconds that a result may need to be seen on this machine after the job has left Slurm's queue."""

    def __init__(self, job: Any, log: Path, queue: Queue) -> None:
        self.job, self.log, self.queue = job, log, queue
        self.left: float | None = None
        self.code: int | None = None

    def poll(self) -> int | None:
        """See `Job`; a job that ended without a result (out of time or memory, cancelled) is told in the log."""
        if self.code is None:
            self.code = self._look()
        return self.code

    def stop(self) -> None:
        """See `Job`."""
        if self.poll() is None:
            self.job.cancel(check=False)

    def _look(self) -> int | None:
        _refresh(self.job.paths.folder)
        if self.job.paths.result_pickle.exists():
            try:
                return self.job.result()
            except Exception as error:
                return self._failed(str(error).splitlines()[0])
        if self.queue.holds(self.job):
            self.left = None
            return None
        self.left = self.left or time.monotonic()
        if time.monotonic() - self.left < self.patience:
            return None
        said = [line.strip() for line in (self.job.stderr() or "").splitlines() if line.strip()]
        return self._failed(said[-1] if said else "it has left the queue and wrote nothing")

    def _failed(self, words: str) -> int:
        with self.log.open("a") as log:
            log.write(f"\nSlurm job {self.job.job_id} ended without a result: {words}\n")
        return 1


def _refresh(folder: Path) -> None:
    """Have a network's file system look at a folder again, instead of remembering what it held."""
    with contextlib.suppress(OSError):
        folder.chmod(folder.stat().st_mode)


def _slurm_executor(logs: Path, options: SlurmOptions) -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError(
            "--launcher slurm needs submitit: pip install 'detection[slurm]', or use --launcher local."
        ) from None
    try:
        executor = submitit.AutoExecutor(logs, cluster="slurm")
    except RuntimeError as error:
        raise UserError(f"--launcher slurm: {error}; run this where `sbatch` is, or use --launcher local.") from None
    executor.update_parameters(name="ablation", **options.parameters())
    return executor
