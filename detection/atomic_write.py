"""Files and folders that are complete or not there at all, also after a power cut."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Write under another name and rename, so that a reader never sees half a file; parent folders are made.

    Args:
        path: the file to write.
        write: gets the temporary path, in the same folder, and writes there.

    Raises:
        OSError: it cannot be written, with its path; nothing is left behind then.
    """
    with naming(path), _made(path.parent):
        temporary = _temporary(path)
        try:
            write(temporary)
            # In this order: a disk may write the name before the content, and a power cut would leave an empty file.
            synchronize(temporary)
            os.replace(temporary, path)
            synchronize(path.parent)
        finally:
            with suppress(OSError):  # what failed above is the reason
                temporary.unlink(missing_ok=True)


def write_json(path: Path, data: Any, indent: int | None = 2) -> None:
    """Write JSON by `atomic_write`; compact where `indent` is None."""
    text = json.dumps(data, indent=indent) + "\n"
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def atomic_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill, which becomes `folder` unless an error is raised; it vanishes then.

    Args:
        folder: the folder to make; its parent folders are made, too.
        replace: replace an older one, which stays until the new one is on the disk, whenever the power is cut.

    Raises:
        OSError: it cannot be written, or another folder that is not empty has the name; with its path.
    """
    with naming(folder), _made(folder.parent):
        temporary, old = _temporary(folder), folder.with_name(f".{folder.name}.old")
        remove(temporary)
        temporary.mkdir()
        try:
            yield temporary
            if replace:
                for path in (*temporary.iterdir(), temporary):
                    synchronize(path)
                # No system call replaces a folder that is not empty: the older one is moved out of the way first.
                if os.path.lexists(folder):
                    remove(old)
                    os.rename(folder, old)
            os.rename(temporary, folder)
            if replace:
                synchronize(folder.parent)
                remove(old)
        finally:
            remove(temporary)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder with its parents; those that were made vanish again where an error left them empty."""
    made = make_folders(folder)
    try:
        yield
    except BaseException:
        remove_empty(made)
        raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the deepest first, up to one in which something was written."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def make_folders(folder: Path) -> list[Path]:
    """Make a folder with its parents, on the disk, too; returns those that were missing, the deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        synchronize(path.parent)
    return missing


def numbered(path: Path) -> Iterator[Path]:
    """Yield `path`, `path-2`, `path-3` and so on."""
    yield path
    yield from (path.with_name(f"{path.name}-{n}") for n in count(2))


def make_free(path: Path) -> Path:
    """Make the first folder of `numbered` whose name is free, and return it; two processes never get the same."""
    for folder in numbered(path):
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError  # numbers do not end


def remove(path: Path) -> None:
    """Remove a folder with all in it, a file, or a link and not its target; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give a system's error the path that is written: a full disk's has none, and others the temporary one."""
    try:
        yield
    except OSError as error:
        named = os.fsdecode(error.filename or "")
        if error.errno is not None and (not named or _temporary(path).name in Path(named).parts):
            error.filename = str(path)
        raise


def synchronize(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk; some file systems know no such folders."""
    unknown = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF) if path.is_dir() else ()
    try:
        # Windows synchronizes only what is open for writing.
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" and not path.is_dir() else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in unknown:
            raise


def _temporary(path: Path) -> Path:
    # In the same folder, as a rename does not cross file systems; by process, as two may write to one path.
    return path.with_name(f".{path.name}.{os.getpid()}")
