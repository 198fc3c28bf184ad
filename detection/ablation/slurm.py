"""Runs as Slurm jobs, through submitit."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.ablation.launchers import Job, Launcher
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


class SlurmLauncher(Launcher):
    """Jobs of a cluster; it decides how many run at the same time.

    Args:
        options: what each job asks for.
        logs: folder for what submitit and Slurm write.
        workers: most jobs that are submitted at the same time; None for all.
        executor: of submitit; None for Slurm's, or a stand-in.

    Raises:
        UserError: submitit or Slurm is not there.
    """

    pause = 5.0

    def __init__(
        self, options: SlurmOptions, logs: Path, workers: int | None = None, executor: Any | None = None
    ) -> None:
        self.slots, self.threads = workers or MANY, options.cpus
        self.executor = executor or _slurm_executor(logs, options)

    def start(self, command: Sequence[str], log: Path) -> "SlurmJob":
        """See `Launcher`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        work = Command(tuple(command), os.getcwd(), str(log.absolute()), self.threads)
        return SlurmJob(self.executor.submit(work), log)


class SlurmJob(Job):
    """A job of submitit."""

    def __init__(self, job: Any, log: Path) -> None:
        self.job, self.log = job, log

    def poll(self) -> int | None:
        """See `Job`; a job that ended without a result (out of time or memory, cancelled) is told in the log."""
        if not self.job.done():
            return None
        try:
            return self.job.result()
        except Exception as error:
            with self.log.open("a") as log:
                log.write(f"\nSlurm job {self.job.job_id} ended as {self.job.state}: {str(error).splitlines()[0]}\n")
            return 1

    def stop(self) -> None:
        """See `Job`."""
        if not self.job.done():
            self.job.cancel()


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
