"""One writer a run folder: a lock that ends with its process, however that ends."""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from detection.atomic_write import make_folders, remove_empty
from detection.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
_HELD = (errno.EACCES, errno.EAGAIN)
_held = dict[Path, int]()
"""Folders that this process has locked, and their lock files; a record lock keeps no process from locking twice."""


@contextmanager
def writing(folder: Path, main: bool = True) -> Iterator[None]:
    """Be the only process that writes in a run folder, which is made if it is missing, and vanishes if it stays empty.

    The lock is a POSIX record lock, which NFS knows, too. It belongs to this process alone: unlike with `flock`,
    processes that load data do not keep it when this one is killed. Within this process it can be taken again, which
    changes nothing.

    Args:
        folder: the run folder.
        main: whether this process writes; of several that train together one does.

    Raises:
        UserError: another process writes there.
    """
    key = folder.resolve()
    if not main or key in _held:
        yield
        return
    made = make_folders(folder)
    try:
        file = _lock(folder)
    except BaseException:
        remove_empty(made)
        raise
    _held[key] = file
    try:
        yield
    finally:
        del _held[key]
        if fcntl is None:  # Windows does not remove an open file
            os.close(file)
        with suppress(OSError):  # a folder that became read-only keeps the file, which locks nothing
            # Unlinked while it is still locked: who has opened it meanwhile finds in `_lock` that it is gone.
            if fcntl is None or _is_same(file, folder / LOCK):
                (folder / LOCK).unlink()
        remove_empty(made)
        if fcntl is not None:
            os.close(file)


def require_present(folder: Path) -> None:
    """Check that a run folder that this process has locked is still where it was.

    Raises:
        UserError: it was moved or deleted.
    """
    file = _held.get(folder.resolve())
    if file is not None and not _is_same(file, folder / LOCK):
        raise UserError(
            f"{folder}: the run folder was moved or deleted while the run was writing there; move it back and go on "
            "with --resume, or start again."
        )


def find_holder(folder: Path) -> str | None:
    """Name the other process that has locked a run folder, empty where its name is not known; None where none has."""
    if fcntl is None or folder.resolve() in _held:
        return None
    try:
        file = os.open(folder / LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return _read_holder(file) if error.errno in _HELD else None
    finally:
        os.close(file)
    return None


def _read_holder(file: int) -> str:
    return os.pread(file, 200, 0).decode(errors="replace").strip()


def _lock(folder: Path) -> int:
    """Open and lock the lock file of a folder, and return its descriptor, which holds the lock."""
    path = folder / LOCK
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                holder = _read_holder(file)
                os.close(file)
                raise UserError(
                    f"{folder}: another process{f' ({holder})' * bool(holder)} is training here; wait for it, end it, "
                    "or choose another --output."
                ) from None
            _note_unsupported(str(folder), error.strerror)
            return file
        if _is_same(file, path):
            break
        os.close(file)  # the holder removed the file between our two steps
    with suppress(OSError):  # who holds it is a help, and a full disk has no room for it
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return file


def _is_same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


@cache  # once in a process
def _note_unsupported(folder: str, reason: str) -> None:
    print(f"note: {folder}: cannot be locked here ({reason}): take care that one process trains in it", file=sys.stderr)
