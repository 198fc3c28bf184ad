"""A run folder: where a new one goes, its `config.json`, and the detector that is rebuilt from it."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from detection.atomic_write import make_folders, make_free, numbered, remove_empty, write_json
from detection.channels_last import to_channels_last
from detection.config import Config, from_plain, override, to_plain
from detection.config.differences import differences
from detection.config.parts import trusting
from detection.data.coco_index import Category
from detection.detector import Detector, build_detector, require_buildable
from detection.errors import UserError
from detection.heads import name_classes
from detection.runs.checkpoint import load_meta, load_weights, newest_complete, require_fitting_weights
from detection.runs.environment import environment
from detection.runs.lock import LOCK
from detection.runs.own_files import read_bounded_json, require_own_files

Settings = TypeVar("Settings")

CONFIG_FORMAT = 2
"""Of `config.json`; the number changes where an older run can no longer be opened."""


_OF_BEGUN_RUNS = (
    "config.json",
    "environment.json",
    "log.jsonl",
    "tensorboard",
    "checkpoints",
    "trackers.json",
    "wandb",
)
"""Entries of the folder of a run that was ended before its first checkpoint."""


def new_run_folder(output: Path | None, name: str) -> Path:
    """Choose the folder of a new run, `output` or the first free of `runs/NAME`, `runs/NAME-2`, …; it is not made yet.

    Raises:
        UserError: the folder asked for exists and is not empty.
    """
    if output is None:
        return next(path for path in numbered(Path("runs", name)) if not os.path.lexists(path))
    if os.path.lexists(output) and not (output.is_dir() and all(path.name == LOCK for path in output.iterdir())):
        raise UserError(f"{output}: exists already{_what_holds(output)} choose another --output.")
    return output


def has_checkpoint(folder: Path) -> bool:
    """Whether a run can be resumed; a damaged checkpoint counts, which resuming it reports."""
    return newest_complete(folder / "checkpoints" / "last").exists()


def holds_no_checkpoint_yet(folder: Path) -> bool:
    """Whether a folder holds nothing, or what a run leaves that was ended before its first checkpoint."""
    return folder.is_dir() and all(_is_of_begun_run(path.name) for path in folder.iterdir())


def is_begun(folder: Path) -> bool:
    """Whether a folder is of a run that was ended before its first checkpoint, and has its config."""
    return (folder / "config.json").is_file() and holds_no_checkpoint_yet(folder)


def _is_of_begun_run(name: str) -> bool:
    return name in _OF_BEGUN_RUNS or name.startswith(".") or re.fullmatch(r"non_finite_batch_\d+\.pt", name) is not None


def _what_holds(output: Path) -> str:
    """Name what can be done with a path that is taken, for a sentence that goes on with another choice."""
    if has_checkpoint(output):
        return "; continue it with --resume, or"
    if is_begun(output):
        return ", a run that was ended before its first checkpoint; begin it again with --resume-or-start, or"
    return " and holds no run that could be continued;"


@contextmanager
def taken_folder(folder: Path, name: str | None, accelerator: Accelerator) -> Iterator[Path]:
    """Take the folder of a run; one that was made for it is removed again if nothing is written there.

    Args:
        folder: where to begin or go on.
        name: of the config of a new run for which no folder was asked for: it gets the first free one, whatever other
            runs take at the same time. None for this `folder`.
        accelerator: its other processes get the folder of the main one.
    """
    taken, made = [folder], list[Path]()
    if accelerator.is_main_process and name is not None:
        made = make_folders(folder.parent)
        taken = [make_free(Path("runs", name))]
        made.insert(0, taken[0])
    if accelerator.num_processes > 1:
        broadcast_object_list(taken)
    try:
        yield taken[0]
    finally:
        remove_empty(made)


def open_config(run: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read the config of a detector's run from its `config.json`, and apply overrides.

    Raises:
        UserError: not a run folder, a config that this version cannot read, or an override that does not fit.
    """
    if "network" in read_config_json(run):
        raise UserError(f"{run}: is a classifier's run; give a folder that `detection train` wrote.")
    return override(read_config(run, Config), overrides)


def read_config(run: str | Path, cls: type[Settings]) -> Settings:
    """Read the settings of a run, of a detector or a classifier, as they were written.

    Raises:
        UserError: not a run folder, or settings that this version cannot read.
    """
    plain = read_config_json(run)
    try:
        return from_plain(plain, cls)
    except UserError as error:
        raise UserError(f"{Path(run) / 'config.json'}: {error}") from None


def read_config_json(run: str | Path) -> dict[str, Any]:
    """Read a run's config as plain data, without its format.

    Raises:
        UserError: not a run folder, not JSON, of another format, or a link out of the folder.
    """
    path = Path(run) / "config.json"
    require_own_files(Path(run))
    try:
        plain = read_bounded_json(path, 4_000_000)
    except FileNotFoundError:
        raise UserError(
            f"{run}: not a run folder, there is no config.json in it; give the folder that a training wrote."
        ) from None
    found = plain.pop("format", None) if isinstance(plain, dict) else None
    if found != CONFIG_FORMAT:
        raise UserError(
            f"{path}: has {'no format' if found is None else f'format {found!r}'}, and this version reads format "
            f"{CONFIG_FORMAT}; train again, or open the run with the version that wrote it."
        )
    return plain


def config_json(config: Any) -> dict[str, Any]:
    """The content of `config.json`: the config of a detector or a classifier as plain data, after its format."""
    return {"format": CONFIG_FORMAT, **to_plain(config)}


def best_or_last(run: str | Path) -> str:
    """Name of the checkpoint that is opened where none is named: the best, or the last where there is no best."""
    return "best" if newest_complete(Path(run) / "checkpoints" / "best").is_dir() else "last"


def open_run(
    run: str | Path,
    device: torch.device | str = "cpu",
    checkpoint: str | None = None,
    overrides: Sequence[str] = (),
    trust: Sequence[str] = (),
    *,
    resize_in_training: bool = True,
) -> tuple[Detector, tuple[Category, ...], Config]:
    """Rebuild a run's detector with its trained weights, ready to detect, or to train after `detector.train()`.

    Args:
        run: the run folder.
        device: where the detector goes.
        checkpoint: `best` or `last`; None for the best, or with a note the last where there is none.
        overrides: `key=value` changes of its config.
        trust: packages besides `detection` that parts may come from; they are imported.
        resize_in_training: resize in training as at inference; False for a data pipeline that already has, as that of
            `detection train`.

    Raises:
        UserError: not a run folder, no checkpoint in it, weights that do not fit, or a part from a package that is not
            trusted.
    """
    with trusting(trust):
        config = open_config(run, overrides)
    chosen = checkpoint or best_or_last(run)
    folder = newest_complete(Path(run) / "checkpoints" / chosen)
    if checkpoint is None and chosen == "last" and folder.is_dir():
        print(f"note: {run} has no best checkpoint: {folder} is opened.", file=sys.stderr)
    categories = load_meta(folder)["categories"]
    # A stranger's config may ask for any amount of memory: it is compared with the weights before that is taken.
    require_fitting_weights(folder, require_buildable(config.detector, len(categories)))
    detector = build_detector(config.detector, len(categories), resize_in_training=resize_in_training)
    name_classes(detector, [category.name for category in categories])
    load_weights(folder, detector)
    # The layout that it was trained in: sums have the same order.
    to_channels_last(detector.to(device))
    return detector.eval(), categories, config


def write_run_description(
    folder: Path, config: Any, data: Mapping[str, Any], accelerator: Accelerator, resumed: int | None = None
) -> None:
    """Write `config.json` and `environment.json`, with what is recorded of each split of the `data`.

    A run that is resumed after some epochs keeps its environment but for where its data are; the present one is
    appended to its `history`.
    """
    now = environment(config, data, accelerator)
    if resumed is not None:
        changed = differences(to_plain(config), to_plain(read_config(folder, type(config))))
        first = read_environment(folder)
        entry = {"epoch": resumed, "changed": changed, **now}
        # The same data, where they are now.
        recorded = {**first.get("data", {}), **now["data"]}
        history = [*first.get("history", ()), entry]
        now = {**first, "config_hash": now["config_hash"], "data": recorded, "history": history}
    write_json(folder / "environment.json", now)
    write_json(folder / "config.json", config_json(config))


def remove_results(folder: Path) -> None:
    """Remove what a finished run has measured, before it is no longer its own; `metrics.json` marks a finished run."""
    for part in (folder, folder / "last", folder / "test"):
        for name in ("metrics.json", "results.json", "correct.json"):
            (part / name).unlink(missing_ok=True)


def read_environment(folder: Path) -> dict[str, Any]:
    """Read a run's `environment.json`; empty where it is missing or, with a note, where it is damaged."""
    try:
        found = read_bounded_json(folder / "environment.json")
        data, history = found.get("data", {}), found.get("history", [])
        if all(isinstance(split["sha256"], str) for split in data.values()) and isinstance(history, list):
            return found
    except FileNotFoundError:
        return {}
    except (UserError, AttributeError, TypeError, KeyError):
        pass
    print(f"note: {folder / 'environment.json'}: damaged; what it recorded is not compared.", file=sys.stderr)
    return {}
