"""A lock on a folder, for one process at a time."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detection.errors import UserError
from detection.runs.lock import LOCK

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Lock a folder, which is made if it is missing.

    The lock ends with the last process that has the yielded file open: runs that outlive a killed ablation keep it.

    Raises:
        UserError: another process holds the lock, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --output.") from None
    if fcntl is None:
        print(f"note: {folder}: cannot be locked here: take care that one ablation runs in it", file=sys.stderr)
    try:
        if fcntl is not None:
            # Of the open file, which runs inherit; the record lock of a run's folder (`runs.lock`) is of a process.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise UserError(
            f"{folder}: another ablation, or a run of it, is running here; wait for it or end it."
        ) from None
    try:
        yield file
    finally:
        os.close(file)
