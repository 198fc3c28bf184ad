"""Files of a run folder that anybody may have made: read with bounds, as regular files, and never out of the folder."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detection.errors import UserError

MAX_DEPTH = 64
"""Of JSON, in lists and dictionaries; a config's is about 8."""

_DEEP = object()
_FILES = ("config.json", "environment.json", "log.jsonl", "metrics.json", "results.json", "correct.json")
_FOLDERS = ("checkpoints", "tensorboard", "plots", "samples", "last", "test")


def require_own_files(run: Path) -> None:
    """Check that what is read and written in a run folder is in it, and is files and folders.

    Raises:
        UserError: a link out of the folder, or something else in place of a file or folder.
    """
    root = Path(os.path.realpath(run))
    for path in _own_entries(run):
        target = Path(os.path.realpath(path))
        if target != root and root not in target.parents:
            raise UserError(f"{path}: is a link out of the run folder, which is not followed; put a copy in its place.")
        try:
            mode = path.stat().st_mode
        except OSError:  # ELOOP, too
            raise UserError(f"{path}: is a link to nothing; remove it.") from None
        top = path.name if path.parent == run else ""
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or (top in _FILES and not stat.S_ISREG(mode)):
            raise UserError(f"{path}: is no regular file; move it away, or restore the run folder.")
        if top in _FOLDERS and not stat.S_ISDIR(mode):
            raise UserError(f"{path}: is no folder; move it away, or restore the run folder.")


def _own_entries(run: Path) -> Iterator[Path]:
    """Entries that a run has, at any depth; what else somebody keeps in its folder is nobody's concern."""
    for path in sorted(run.iterdir()) if run.is_dir() else ():
        if path.name in _FILES or path.name in _FOLDERS or path.name.startswith("evaluation"):
            yield path
            if path.is_dir() and not path.is_symlink():
                for folder, folders, files in os.walk(path):
                    yield from (Path(folder, name) for name in (*folders, *files))


def read_bounded_json(path: Path, most: int = 32_000_000) -> Any:
    """Read a JSON file of at most `most` bytes.

    Raises:
        FileNotFoundError: there is none.
        UserError: larger, nested too deeply, not JSON, or no regular file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a FIFO would wait for its writer
            raise UserError(f"{path}: is no regular file; move it away, or restore the run folder.")
        with path.open("rb") as file:
            text = file.read(most + 1)
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from None
    if len(text) > most:
        raise UserError(f"{path}: has more than {most / 1e6:.0f} MB, more than any run writes there; restore the file.")
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); restore the file.") from None
    except RecursionError:
        data = _DEEP
    if data is _DEEP or _is_deep(data):
        raise UserError(f"{path}: not readable, it is nested deeper than {MAX_DEPTH} levels; restore the file.")
    return data


def _is_deep(data: Any) -> bool:
    level = [data]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return bool(level)
