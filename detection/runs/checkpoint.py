"""Checkpoints: weights as safetensors, other state as plain tensors and numbers; written completely or not at all.

A checkpoint folder holds `model.safetensors` (what is evaluated), `meta.json` (categories, epoch, metrics) and, to
resume from, `training.safetensors` when it differs from the evaluated weights, and `state.pt`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from detection.atomic_write import atomic_folder, write_json
from detection.data.checks import file_digest
from detection.data.coco_index import Category
from detection.errors import UserError


def save_checkpoint(
    folder: Path,
    evaluated: nn.Module,
    categories: Sequence[Category],
    progress: Mapping[str, Any],
    *,
    trained: nn.Module | None = None,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint next to its place and then put it there, replacing an older one.

    Args:
        folder: where it goes, such as `RUN/checkpoints/last`; one process at a time writes there.
        evaluated: the module whose weights are evaluated: the trained one, or its average.
        categories: of the data that it was trained on.
        progress: plain numbers for `meta.json`.
        trained: the module that the optimizer moves, when it is not `evaluated`.
        state: of optimizer, schedule and the like, to resume from.
    """
    with atomic_folder(folder, replace=True) as temporary:
        _save(evaluated, temporary / "model.safetensors")
        if trained is not None:
            _save(trained, temporary / "training.safetensors")
        if state is not None:
            torch.save(dict(state), temporary / "state.pt")
        plain = [{"id": c.id, "name": c.name} for c in categories]
        files = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / "meta.json", {"categories": plain, **progress, "sha256": files})
    for leftover in folder.parent.glob(f".{folder.name}.*"):  # of processes that were killed
        shutil.rmtree(leftover, ignore_errors=True)


def newest_complete(folder: Path) -> Path:
    """Return the newest complete checkpoint of a name: `folder`, or what a power cut in a save left of it.

    Args:
        folder: such as `RUN/checkpoints/last`; returned as it is where none is complete.
    """
    others = (path for path in sorted(folder.parent.glob(f"*{folder.name}*")) if path != folder)
    found = [path for path in (folder, *others) if _is_complete(path)]
    return max(found, key=lambda path: load_meta(path).get("epoch", 0), default=folder)


def _is_complete(folder: Path) -> bool:
    """Whether a checkpoint has all its files, with the content that was written."""
    try:
        files = load_meta(folder)["sha256"]
        return all(file_digest(folder / name) == digest for name, digest in files.items())
    except (UserError, KeyError, AttributeError, OSError):
        return False


def load_weights(folder: Path, module: nn.Module, name: str = "model") -> None:
    """Fill `module` with all weights of a checkpoint.

    Raises:
        UserError: missing or damaged, or of another architecture.
    """
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; has the run finished an epoch?")
    try:
        module.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise UserError(f"{path}: the checkpoint is damaged ({error}).") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: the checkpoint does not fit the model of config.json ({reason}).") from None


def load_meta(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's `meta.json`, its categories as `Category`.

    Raises:
        UserError: missing or damaged.
    """
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text())
        meta["categories"] = tuple(Category(c["id"], c["name"]) for c in meta["categories"])
    except FileNotFoundError:
        raise UserError(f"{folder}: no checkpoint here; has the run finished an epoch?") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}).") from None
    return meta


def load_training_state(folder: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` got as `state`.

    Raises:
        UserError: missing, damaged, or holding more than tensors and plain values.
    """
    path = folder / "state.pt"
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: nothing to resume from; start the run again with another --output.") from None
    except Exception as error:
        reason = str(error).split("\n")[0] or "it is cut off"
        raise UserError(f"{path}: the training state cannot be read ({reason}).") from None


def _save(module: nn.Module, path: Path) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}, path)
