"""Checkpoints: weights as safetensors, other state as plain tensors and numbers; written completely or not at all.

A checkpoint folder holds `model.safetensors` (what is evaluated), `meta.json` (categories, epoch, metrics) and, to
resume from, `training.safetensors` when it differs from the evaluated weights, and `state.pt`.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from glob import escape
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from detection.atomic_write import atomic_folder, remove, write_json
from detection.data.checks import file_digest
from detection.data.coco_index import Category
from detection.errors import UserError
from detection.runs.lock import require_present
from detection.runs.own_files import read_bounded_json
from detection.system_errors import explain


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

    Raises:
        UserError: the run folder was moved or deleted since this process locked it.
        OSError: it cannot be written; the older one stays.
    """
    require_present(folder.parent.parent)
    with atomic_folder(folder, replace=True) as temporary:
        _save(evaluated, temporary / "model.safetensors")
        if trained is not None:
            _save(trained, temporary / "training.safetensors")
        if state is not None:
            with open(temporary / "state.pt", "wb") as file:  # a file of Python's: the reason of a failed write is kept
                torch.save(dict(state), file)
        plain = [{"id": c.id, "name": c.name} for c in categories]
        # A power cut may leave a file with its name and length and without its content: digests show that.
        files = {path.name: file_digest(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / "meta.json", {"categories": plain, **progress, "sha256": files})
        for name in files:  # safetensors ignores the umask
            shutil.copymode(temporary / "meta.json", temporary / name)
    for leftover in _leftovers(folder):
        remove(leftover)


def newest_complete(folder: Path) -> Path:
    """Return the newest complete checkpoint of a name: `folder`, or what a power cut in a save left of it.

    Args:
        folder: such as `RUN/checkpoints/last`; returned as it is where none is complete.
    """
    found = [path for path in (folder, *_leftovers(folder)) if _is_complete(path)]
    return max(found, key=_position, default=folder)


def _leftovers(folder: Path) -> list[Path]:
    """Return leftovers of killed processes: the folder that was being replaced, and those that were being written.

    `atomic_folder` names them `.NAME.old` and `.NAME.PID`.
    """
    start = f".{folder.name}."
    found = [(path, path.name.removeprefix(start)) for path in sorted(folder.parent.glob(f"{escape(start)}*"))]
    return [path for path, end in found if end == "old" or end.isdecimal()]


def _position(folder: Path) -> tuple[int, int]:
    meta = load_meta(folder)
    return meta["epoch"], meta["updates"]


def _is_complete(folder: Path) -> bool:
    """Whether a checkpoint has all its files, with the content that was written."""
    try:
        names = load_meta(folder)["sha256"]
        return bool(names) and all(_is_as_written(folder / name) for name in names)
    except UserError:
        return False


def _is_as_written(path: Path) -> bool:
    """Whether a file of a checkpoint has the content that was written; a checkpoint without digests has any.

    Raises:
        OSError: it cannot be read, which says nothing about its content.
    """
    try:
        files = load_meta(path.parent)["sha256"]
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return False
        return path.name not in files or _digest(path, status.st_mtime_ns, status.st_ino) == files[path.name]
    except (UserError, FileNotFoundError, NotADirectoryError):
        return False


@lru_cache
def _digest(path: Path, changed: int, inode: int) -> str:
    """The digest of a file's content, computed once as long as it is the same file."""
    return file_digest(path)


def require_fitting_weights(folder: Path, module: nn.Module) -> None:
    """Compare names and shapes of a checkpoint's weights with a module's, without reading the weights.

    Raises:
        UserError: missing or damaged, or of another architecture.
    """
    with _opened(folder / "model.safetensors") as path, safe_open(path, "pt") as file:
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    own = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    differing = [name for name in sorted(own.keys() | found.keys()) if own.get(name) != found.get(name)]
    if differing:
        name = differing[0]
        more = f" and {len(differing) - 1} others" * (len(differing) > 1)
        raise UserError(
            f"{path}: the checkpoint does not fit the model of config.json: {name} has the shape {found.get(name)}, "
            f"the model's {own.get(name)}{more}."
        )


def load_weights(folder: Path, module: nn.Module, name: str = "model") -> None:
    """Fill `module` with all weights of a checkpoint.

    Raises:
        UserError: missing or damaged, or of another architecture.
    """
    with _opened(folder / f"{name}.safetensors") as path:
        tensors = load_file(path)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: the checkpoint does not fit the model of config.json ({reason}).") from None


@contextmanager
def _opened(path: Path) -> Iterator[Path]:
    """Check a file of weights before and while it is read.

    Raises:
        UserError: missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; has the run finished an epoch?")
    require_as_written(path)
    try:
        yield path
    except SafetensorError as error:
        raise UserError(f"{path}: the checkpoint is damaged ({error}).") from None


def require_as_written(path: Path) -> None:
    """Check that a file of a checkpoint has the content that was written.

    Raises:
        UserError: it has not.
    """
    if not _is_as_written(path):
        raise UserError(f"{path}: the checkpoint is damaged, its content is not what was written; use another one.")


def load_meta(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's `meta.json`, its categories as `Category`.

    Raises:
        UserError: missing or damaged.
    """
    path = folder / "meta.json"
    try:
        meta = read_bounded_json(path)
        meta["categories"] = tuple(_category(c["id"], c["name"]) for c in meta["categories"])
        for name, cls, default in (("epoch", int, 0), ("updates", int, 0), ("metrics", dict, {}), ("sha256", dict, {})):
            if type(meta.setdefault(name, default)) is not cls:
                raise ValueError(f"{name} is {meta[name]!r:.40}")
        if any(Path(name).name != name for name in meta["sha256"]):
            raise ValueError("sha256 names a file outside of the folder")
    except FileNotFoundError:
        raise UserError(f"{folder}: no checkpoint here; has the run finished an epoch?") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error}).") from None
    return meta


def _category(number: Any, name: Any) -> Category:
    if type(number) is not int or type(name) is not str:
        raise ValueError(f"a category has the id {number!r:.40} and the name {name!r:.40}")
    return Category(number, name)


def load_training_state(folder: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` got as `state`.

    Raises:
        UserError: missing, damaged, or holding more than tensors and plain values.
    """
    path = folder / "state.pt"
    if not os.path.lexists(path):
        raise UserError(f"{path}: nothing to resume from; start the run again with another --output.")
    try:
        if not _is_as_written(path):
            raise ValueError("its content is not what was written")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError("it holds no dictionary")
        return state
    except Exception as error:  # torch.load raises errors of many types for a damaged file
        if explain(error) is not None:  # it may not be read, or memory runs out
            raise
        reason = str(error).split("\n")[0] or "it is cut off"
        raise UserError(f"{path}: the training state cannot be read ({reason}); restore it, or train again.") from None


@contextmanager
def fitting_state(folder: Path) -> Iterator[None]:
    """Have a block that takes up the training state of a checkpoint fail with a sentence where it does not fit.

    Raises:
        UserError: a part is missing or of another form.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{folder / 'state.pt'}: the training state does not fit this run ({reason}); restore it, or train again."
        ) from error


def _save(module: nn.Module, path: Path) -> None:
    try:
        # Weights of convolutions are channels-last, and safetensors refuses what is not row-major.
        save_file({name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}, path)
    except SafetensorError as error:
        # safetensors is written in Rust, and has the system's error number in its text only; callers handle OSError.
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        raise
