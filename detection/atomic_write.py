"""Files and folders that are complete or not there at all, also after a power cut."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Write under another name and rename, so that a reader never sees half a file; parent folders are made.

    Args:
        path: the file to write.
        write: gets the temporary path, in the same folder, and writes there.

    Raises:
        OSError: it cannot be written; nothing is left behind then.
    """
    temporary = _temporary(path)
    try:
        write(temporary)
        synchronize(temporary)
        os.replace(temporary, path)
        synchronize(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: Any, indent: int | None = 2) -> None:
    """Write JSON by `atomic_write`; compact where `indent` is None."""
    text = json.dumps(data, indent=indent) + "\n"
    atomic_write(path, lambda temporary: temporary.write_text(text))


@contextmanager
def atomic_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill, which becomes `folder` unless an error is raised; it vanishes then.

    Args:
        folder: the folder to make.
        replace: replace an older one, which stays until the new one is on the disk, whenever the power is cut.

    Raises:
        OSError: it cannot be written, or another folder that is not empty has the name.
    """
    temporary, old = _temporary(folder), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if replace:
            for path in (*temporary.iterdir(), temporary):
                synchronize(path)
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.rename(folder, old)
        os.rename(temporary, folder)
        if replace:
            synchronize(folder.parent)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def synchronize(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}")
