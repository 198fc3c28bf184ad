"""Runs as Slurm jobs, through submitit."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detection.ablation.launch.launchers import STOP_SECONDS, Launcher, RunningProcess
from detection.errors import UserError

MANY = 10_000  # jobs at a time, where nobody limits them: Slurm holds back what its users may not run yet


@dataclass(frozen=True)
class SlurmOptions:
    """Resources of each job; an empty partition or account is the cluster's or user's default."""

    partition: str = ""
    gpus: int = 1
    cpus: int = 4
    hours: float = 4.0
    memory_gb: float = 16.0
    account: str = ""

    def parameters(self) -> dict[str, Any]:
        """Return submitit's parameters."""
        named = {"slurm_partition": self.partition, "slurm_account": self.account}
        return {
            "gpus_per_node": self.gpus,
            "cpus_per_task": self.cpus,
            "timeout_min": max(1, round(self.hours * 60)),
            "mem_gb": self.memory_gb,
            **{key: value for key, value in named.items() if value},
        }


@dataclass
class SlurmCommand:
    """A command that a node runs in this process's folder, with its output in a file.

    Attributes:
        restarts: how often the job was queued again; the command then goes on with its run.
    """

    command: tuple[str, ...]
    folder: str
    log: str
    threads: int
    restarts: int = 0
    process: subprocess.Popen | None = field(default=None, init=False, repr=False, compare=False)

    def __call__(self) -> int:
        """Run it; the exit code is the result, so that a failed run is no failed job."""
        # Slurm counts, too, where it queues a job again without asking for a checkpoint.
        restarts = self.restarts or int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "DETECTION_RESTARTS": str(restarts),
        }
        # A command that goes on keeps what it wrote before.
        with Path(self.log).open("ab" if restarts else "wb") as output:
            self.process = subprocess.Popen(
                self.command, cwd=self.folder, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            with self.process:
                return self.process.wait()

    def checkpoint(self) -> Any:
        """Have the command save its state and end; submitit calls this before Slurm ends the job.

        Returns:
            submitit's submission of the command that goes on, for the job when it is queued again.
        """
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            _interrupt(self.process)
        return DelayedSubmission(dataclasses.replace(self, restarts=self.restarts + 1))


def _interrupt(process: subprocess.Popen) -> None:
    """End a process by SIGTERM, and kill it if it does not end in time; without the lock of its `wait`.

    A signal handler calls this, in the middle of that `wait`.
    """
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5)):
        until = time.monotonic() + seconds
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        while time.monotonic() < until:
            try:
                # WNOWAIT leaves the exit status to the `wait` that this interrupts.
                if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    return
            except ChildProcessError:
                return
            time.sleep(0.05)


class SlurmQueue:
    """The user's jobs in Slurm's queue, polled for all at once.

    submitit polls the accounting (`sacct`), which not every cluster keeps; without it, it would wait forever for a job
    that was cancelled.
    """

    seconds = 15.0
    """Between two polls."""

    def __init__(self) -> None:
        self.polled = -float("inf")
        self.ids: frozenset[str] | None = None

    def holds(self, job: Any) -> bool:
        """Return whether a job waits or runs; True where Slurm does not answer, as nothing is known then."""
        if time.monotonic() - self.polled >= self.seconds:
            command = ["squeue", "--me", "--noheader", "--format=%A"]
            queue = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            self.polled = time.monotonic()
            self.ids = None if queue.returncode else frozenset(queue.stdout.split())
        return self.ids is None or job.job_id in self.ids


class SlurmLauncher(Launcher):
    """Jobs of a cluster, which schedules them.

    Args:
        options: resources of each job.
        logs: folder for the files of submitit and Slurm.
        workers: most jobs that are submitted at the same time; None for all.
        executor: submitit's executor; None for Slurm's.
        queue: holds the jobs that have not ended; None for Slurm's.

    Raises:
        UserError: submitit or Slurm is missing.
    """

    pause = 5.0

    def __init__(
        self,
        options: SlurmOptions,
        logs: Path,
        workers: int | None = None,
        executor: Any | None = None,
        queue: SlurmQueue | None = None,
    ) -> None:
        self.slots, self.threads = workers or MANY, options.cpus
        self.executor, self.queue = executor or _slurm_executor(logs, options), queue or SlurmQueue()

    def start(self, command: Sequence[str], log: Path) -> "SlurmJob":
        """Submit a command; a `UserError` with Slurm's message where it refuses the job."""
        log.parent.mkdir(parents=True, exist_ok=True)
        work = SlurmCommand(tuple(command), os.getcwd(), str(log.absolute()), self.threads)
        try:
            return SlurmJob(self.executor.submit(work), log, self.queue)
        except Exception as error:
            if type(error).__name__ != "FailedJobError":  # of submitit, which need not be installed
                raise
            message = [line for line in str(error).splitlines() if line.strip()][-1].strip()
            raise UserError(f"--launcher slurm: sbatch refused a job: {message}") from None


class SlurmJob(RunningProcess):
    """A job of submitit."""

    patience = 30.0
    """Seconds that a result may need to become visible on this machine after the job has left Slurm's queue."""

    def __init__(self, job: Any, log: Path, queue: SlurmQueue) -> None:
        self.job, self.log, self.queue = job, log, queue
        self.left: float | None = None
        self.code: int | None = None

    def poll(self) -> int | None:
        """Return its exit code; a job without a result (out of time or memory, cancelled) is noted in the log."""
        if self.code is None:
            self.code = self._exit_code()
        return self.code

    def interrupt(self, number: int) -> None:
        """Do nothing: Slurm sends SIGTERM to what runs in a job that is cancelled."""

    def stop(self) -> None:
        """Cancel it if it has not ended."""
        if self.poll() is None:
            self.job.cancel(check=False)

    def _exit_code(self) -> int | None:
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
        errors = [line.strip() for line in (self.job.stderr() or "").splitlines() if line.strip()]
        return self._failed(errors[-1] if errors else "it has left the queue and wrote nothing")

    def _failed(self, reason: str) -> int:
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\nSlurm job {self.job.job_id} ended without a result: {reason}\n")
        return 1


def _refresh(folder: Path) -> None:
    """Invalidate a network file system's cache of a folder."""
    with contextlib.suppress(OSError):
        folder.chmod(folder.stat().st_mode)


def _slurm_executor(logs: Path, options: SlurmOptions) -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError(
            "--launcher slurm needs submitit: pip install 'context-detection[slurm]', or use --launcher local."
        ) from None
    try:
        executor = submitit.AutoExecutor(logs, cluster="slurm")
    except RuntimeError as error:
        raise UserError(f"--launcher slurm: {error}; run this where `sbatch` is, or use --launcher local.") from None
    executor.update_parameters(name="ablation", **options.parameters())
    return executor
