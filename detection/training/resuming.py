"""Going on with a run: whether its folder has something to go on from, and the command that does."""

import os
import shlex
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING

from detection.config.parts import trust_arguments
from detection.runs.checkpoint import newest_complete
from detection.runs.folder import new_run_folder

if TYPE_CHECKING:
    from detection.training.loop import TrainingRun

_RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "DETECTION_RESTARTS")
"""Set by `torchrun --max-restarts`, and by the ablation launcher for a job that is queued again."""

_OWN = {"config.json", "environment.json", "log.jsonl", "tensorboard", "checkpoints"}
"""Entries of the folder of a run that was ended before its first checkpoint."""


def is_restarted() -> bool:
    """Whether this process does again what another one began, by the environment."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in _RESTARTS)


def choose_folder(output: Path | None, name: str, *, go_on: bool) -> tuple[Path, bool]:
    """Choose the folder of a run, and whether it goes on from a checkpoint there.

    Args:
        output: the folder asked for; None for one under `runs/`.
        name: of its config.
        go_on: go on with `output` or the newest `runs/NAME`, `runs/NAME-2` …, and begin there without a checkpoint.

    Raises:
        UserError: a folder that holds something other than a run that was stopped.
    """
    if not go_on:
        return new_run_folder(output, name), False
    folder = output or _newest_run_folder(name)
    if has_checkpoint(folder):
        return folder, True
    if folder.is_dir() and all(path.name in _OWN or path.name.startswith(".") for path in folder.iterdir()):
        return folder, False
    return new_run_folder(folder, name), False


def _newest_run_folder(name: str) -> Path:
    runs = Path("runs")
    numbered = [
        (int(end), path) for path in runs.glob(f"{escape(name)}-*") if (end := path.name[len(name) + 1 :]).isdecimal()
    ]
    return max(numbered, default=(1, runs / name))[1]


def has_checkpoint(folder: Path) -> bool:
    """Whether a run can be resumed; a damaged checkpoint counts, which resuming it reports."""
    return newest_complete(folder / "checkpoints" / "last").exists()


def resume_command(run: "TrainingRun") -> str:
    """The command that goes on with a run, on as many processes and the same kind of device."""
    import torch

    accelerator, number = run.accelerator, run.accelerator.num_processes
    start = ["detection", run.command]
    if number > 1:
        start = ["torchrun", "--nproc-per-node", str(number), "-m", f"detection.cli.{run.command}"]
    device = ["--device", "cpu"] if accelerator.device.type == "cpu" and torch.cuda.is_available() else []
    return shlex.join([*start, "--output", str(run.folder), "--resume", *device, *trust_arguments()])
