"""The user's private folder of caches: nobody else writes there, and what somebody else put there is not read.

What is kept is named by the content that it was made from, and can be built again at any time.
"""

import os
import stat
import sys
from functools import cache
from pathlib import Path

from detection.atomic_write import atomic_write

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# Neither follow a link nor wait for a FIFO's writer.
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def cache_root(chosen: Path | None = None) -> Path:
    """Return where caches are asked for: the chosen folder, else `$DETECTION_CACHE`, else `~/.cache/detection`."""
    return Path(os.path.expanduser(chosen or os.environ.get("DETECTION_CACHE") or "~/.cache/detection")).absolute()


def private_root(chosen: Path | None = None) -> Path | None:
    """Make the folder of all caches, with mode 0700, and return it.

    Where others may write to the folder asked for, as to `/tmp` or a group's, it is a folder of one's own inside.

    Args:
        chosen: as for `cache_root`.

    Returns:
        The folder; None where there can be none, and nothing is cached.
    """
    root = cache_root(chosen)
    own = root / f"user-{_user()}"
    for folder in (root, own):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            target = folder.resolve() if folder == root and os.lstat(root).st_uid in (0, _user()) else folder
            if is_private(target):
                return target
        except OSError:
            return None
    _note(f"{own} belongs to another user, or others can write there: nothing is cached; set DETECTION_CACHE.")
    return None


def is_private(path: Path) -> bool:
    """Whether a file or folder is the user's, not a link, and no one else may write there; False if it is missing."""
    try:
        return _is_private(os.lstat(path))
    except OSError:
        return False


def read_private(path: Path) -> bytes | None:
    """Read a file of the cache; None where it is missing or, with a note, where it is not the user's own file."""
    try:
        with open(os.open(path, _READ), "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and _is_private(status):
                return file.read()
    except FileNotFoundError:
        return None
    except OSError:  # a link among others
        pass
    note_rebuilt(path)
    return None


def write_private(path: Path, content: bytes) -> bool:
    """Write a file of the cache with mode 0600, in one step; False where that is not possible."""

    def write(temporary: Path) -> None:
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)

    try:
        atomic_write(path, write)
    except OSError:
        return False
    return True


def note_rebuilt(path: Path) -> None:
    """Print that an entry of the cache is not used."""
    _note(f"{path}: damaged, or not written by this user alone; this entry of the cache is built again.")


@cache  # once in a process
def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def _is_private(status: os.stat_result) -> bool:
    return not stat.S_ISLNK(status.st_mode) and status.st_uid == _user() and not status.st_mode & _OTHERS_WRITE


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0  # Windows: every owner is 0 there
