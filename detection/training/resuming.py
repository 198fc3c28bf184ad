"""Going on with a run: whether its folder has something to go on from, what must stay, and the command that does."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from glob import escape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.config import to_plain
from detection.config.differences import differences
from detection.config.parts import trust_arguments
from detection.data.coco_index import Category
from detection.errors import UserError
from detection.runs.folder import (
    has_checkpoint,
    holds_no_checkpoint_yet,
    new_run_folder,
    read_config,
    read_environment,
)
from detection.runs.records import data_difference

if TYPE_CHECKING:
    from detection.training.state import TrainingRun

_RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "DETECTION_RESTARTS")
"""Set by `torchrun --max-restarts`, and by the ablation launcher for a job that is queued again."""


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
    if holds_no_checkpoint_yet(folder):
        return folder, False
    return new_run_folder(folder, name), False


def _newest_run_folder(name: str) -> Path:
    runs = Path("runs")
    numbered = [
        (int(end), path)
        for path in runs.glob(f"{escape(name)}-*")
        if (end := path.name[len(name) + 1 :]).isdecimal() and not _is_of_another_config(path, name)
    ]
    return max(numbered, default=(1, runs / name))[1]


def _is_of_another_config(folder: Path, name: str) -> bool:
    """Whether runs/NAME-2 is the first run of a config of that name, by the command that began it."""
    command = read_environment(folder).get("command", ())
    after_output = [text for before, text in pairwise(("", *command)) if before != "--output"]
    stems = {Path(text).stem for text in after_output if "=" not in text}
    return folder.name in stems and name not in stems


def resume_command(run: "TrainingRun") -> str:
    """The command that goes on with a run, on as many processes and the same kind of device."""
    import torch

    accelerator, number = run.accelerator, run.accelerator.num_processes
    start = ["detection", run.command]
    if number > 1:
        start = ["torchrun", "--nproc-per-node", str(number), "-m", f"detection.cli.{run.command}"]
    kind = accelerator.device.type
    device = ["--device", kind] if kind == "mps" or (kind == "cpu" and torch.cuda.is_available()) else []
    return shlex.join([*start, "--output", str(run.folder), "--resume", *device, *trust_arguments()])


# Keys that a resumed run may change; paths may, as the content is compared, and batches, as their product is.
_MAY_CHANGE = (
    "schedule", "optimizer.lr", "optimizer.reference_batch", "data.workers", "eval_batch_size", "evaluate_every",
    "best_metric", "early_stopping", "samples", "validation_loss", "note", "detector.inference", "batch_size",
    "gradient_accumulation_steps", "data.train.annotations", "data.train.images", "data.val.annotations",
    "data.val.images", "data.test", "data.root", "data.scenes", "checkpoint_minutes",
    "data.cache_megabytes", "trackers", "compile", "deterministic", "checkpoint_backbone",
)  # fmt: skip


def require_resumable(run: "TrainingRun", state: Mapping[str, Any], categories: Sequence[Category]) -> None:
    """Check that a run goes on with the settings, categories and images an update that it was trained with.

    Raises:
        UserError: naming the first that differs.
    """
    # What a run of before a setting existed has not written is at its default.
    before = to_plain(read_config(run.folder, type(run.config)))
    for change in differences(before, to_plain(run.config)):
        key = change.partition("=")[0]
        if not any(key == name or key.startswith(f"{name}.") for name in _MAY_CHANGE):
            raise UserError(
                f"{run.folder}: was trained with {change}; a resumed run may change epochs, learning rate, workers and "
                "evaluation only: leave the rest as it is, or start a new run."
            )
    epochs, updates = (state["progress"][name] for name in ("epoch", "updates"))
    if updates and run.config.schedule.epochs <= epochs:
        raise UserError(
            f"{run.folder}: is {updates} updates into epoch {epochs + 1}, and the weights of the end of epoch {epochs} "
            f"are no longer there: give schedule.epochs={epochs + 1} or more."
        )
    if [(c.id, c.name) for c in categories] != [(c.id, c.name) for c in run.categories]:
        old, new = (", ".join(c.name for c in names) for names in (categories, run.categories))
        raise UserError(f"{run.folder}: was trained on the categories {old}, not {new}: resume with its own data.")
    if state["images_per_update"] != run.requested_images_per_update:
        raise UserError(
            f"{run.folder}: was trained with {state['images_per_update']} images an update, not "
            f"{run.requested_images_per_update}: choose batch_size, gradient_accumulation_steps and the number of "
            "processes so that their product stays."
        )


def require_same_data(folder: Path, data: Mapping[str, Any]) -> None:
    """Check that a run goes on with the data that its folder has on record.

    Raises:
        UserError: naming the split, and what differs.
    """
    record = folder / "environment.json"
    if not record.exists():
        print(f"note: {record}: missing; whether its data are those of before is not known.", file=sys.stderr)
    recorded = read_environment(folder).get("data", {})
    for name, split in data.items():
        if what := data_difference(recorded.get(name, {}), split):
            raise UserError(
                f"{folder}: data.{name} is not what it was trained with, its {what} differ: resume with its own data, "
                "or start a new run."
            )
