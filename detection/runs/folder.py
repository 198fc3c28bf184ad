"""Run folders: a run is complete in its folder and is rebuilt from its `config.json` alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from detection.atomic_write import write_json
from detection.config import Config, from_plain, override, to_plain
from detection.data.coco_index import Category, CocoIndex
from detection.detector import Detector, build_detector
from detection.errors import UserError
from detection.runs.checkpoint import load_meta, load_weights
from detection.runs.environment import environment


def new_run_folder(output: Path | None, name: str) -> Path:
    """The folder that a new run will use; it is not made yet.

    Args:
        output: what the user asked for; None for the first free of `runs/NAME`, `runs/NAME-2`, ….
        name: of the config.

    Raises:
        UserError: the folder asked for exists and is not empty.
    """
    if output is None:
        numbers = ("" if n == 1 else f"-{n}" for n in range(1, 10_000))
        return next(p for p in (Path("runs") / f"{name}{n}" for n in numbers) if not p.exists())
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: exists already; continue it with --resume, or choose another --output.")
    return output


def open_config(run: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a run, from its `config.json`, with overrides.

    Raises:
        UserError: not a run folder, or a config that this version cannot read.
    """
    plain = read_config_json(run)
    try:
        return override(from_plain(plain), overrides)
    except UserError as error:
        raise error if overrides else UserError(f"{Path(run) / 'config.json'}: {error}") from None


def read_config_json(run: str | Path) -> Any:
    """The plain data of a run's `config.json`.

    Raises:
        UserError: not a run folder, or not JSON.
    """
    path = Path(run) / "config.json"
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{run}: not a run folder, there is no config.json in it; give the folder that a training wrote."
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}).") from None


def open_run(
    run: str | Path, device: torch.device | str = "cpu", checkpoint: str | None = None, overrides: Sequence[str] = ()
) -> tuple[Detector, tuple[Category, ...], Config]:
    """Rebuild a run's detector with its trained weights, ready to detect.

    Args:
        run: the run folder.
        device: where the detector goes.
        checkpoint: `best` or `last`; None for the best there is.
        overrides: `key=value` changes of its config.

    Raises:
        UserError: not a run folder, no checkpoint in it, or weights that do not fit.
    """
    config = open_config(run, overrides)
    checkpoints = Path(run) / "checkpoints"
    folder = checkpoints / (checkpoint or ("best" if (checkpoints / "best").is_dir() else "last"))
    categories = load_meta(folder)["categories"]
    detector = build_detector(config.detector, len(categories), resize_in_training=False)
    load_weights(folder, detector)
    return detector.to(device).eval(), categories, config


def write_run_description(folder: Path, config: Config, data: dict[str, CocoIndex], accelerator: Accelerator) -> None:
    """Write `config.json` and `environment.json`: what is needed to do the run again."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", to_plain(config))
    write_json(folder / "environment.json", environment(config, data, accelerator))
