"""Named numpy arrays in a folder, written at once and opened memory-mapped, so that processes share their pages.

They come with a dictionary of whatever JSON can hold.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from detection.atomic_write import atomic_folder, remove
from detection.cache import is_private, note_rebuilt, private_root, read_private
from detection.errors import UserError

Content = tuple[dict[str, np.ndarray], dict]


def cached_arrays(
    name: str, build: Callable[[], Content], cache_dir: Path | None = None, is_sound: Callable[..., bool] | None = None
) -> tuple[Content, Path | None]:
    """Open the arrays of an entry of the cache; build and save them first where it is missing, damaged or foreign.

    One process builds while others that want the same wait.

    Args:
        name: of the entry, by the content that it is made from.
        build: makes arrays and dictionary.
        cache_dir: as for `detection.cache.cache_root`.
        is_sound: gets the arrays and the dictionary of an entry, and tells whether they are what `build` makes.

    Returns:
        The arrays and the dictionary, and their folder: None where it cannot be written, and they stay in memory.
    """
    root = private_root(cache_dir)
    if root is None:
        return build(), None
    folder = root / name
    content = _open_sound(folder, is_sound)
    if content is not None:
        return content, folder
    with _one_at_a_time(root / f".{name}.lock"):
        content = _open_sound(folder, is_sound)  # another process may have built it while this one waited
        if content is None:
            if os.path.lexists(folder):
                note_rebuilt(folder)
            for leftover in root.glob(f".{name}.[0-9]*"):  # of processes that were killed
                remove(leftover)
            built = build()
            content = open_arrays(folder) if _save_arrays(folder, *built, is_sound) else None
            if content is None:
                return built, None
    return content, folder


def reopen_arrays(folder: Path, what: str) -> Content:
    """Open a folder that another process has verified; a `UserError` if `what` is gone from there."""
    content = open_arrays(folder, verify=False)
    if content is None:
        raise UserError(f"{what} is gone from {folder}: start again to rebuild it.")
    return content


def _open_sound(folder: Path, is_sound: Callable[..., bool] | None) -> Content | None:
    content = open_arrays(folder)
    try:
        return content if content is None or is_sound is None or is_sound(*content) else None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait for other processes that hold this lock; without one where there are no locks (Windows, some NFS)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = None
    try:
        while descriptor is None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Its holder removes the file: then the lock is on a file that nobody else sees.
            if not path.exists() or os.stat(path).st_ino != os.fstat(descriptor).st_ino:
                os.close(descriptor)
                descriptor = None
    except OSError:
        pass
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _save_arrays(folder: Path, arrays: dict[str, np.ndarray], meta: dict, is_sound: Callable[..., bool] | None) -> bool:
    """Write a folder that appears complete or not at all; False where the disk is full or not writable."""
    try:
        with atomic_folder(folder) as temporary:
            temporary.chmod(0o700)
            checksums = {}
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array)
                checksums[name] = _checksum(temporary / f"{name}.npy")
            (temporary / "meta.json").write_text(json.dumps({"meta": meta, "checksums": checksums}), encoding="utf-8")
            for path in temporary.iterdir():
                path.chmod(0o600)
            # A damaged entry would be in the way; a sound one, of another process, stays.
            if _open_sound(folder, is_sound) is None:
                remove(folder)
        return True
    except OSError:
        # Another process may have put the same content in place; then that one is used.
        return (folder / "meta.json").exists()


def _checksum(path: Path) -> int:
    # Against damage, for which CRC-32 is enough: others cannot write here (`is_private`).
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def open_arrays(folder: Path, verify: bool = True) -> Content | None:
    """Open a folder of arrays, read-only and memory-mapped; None where it is missing, damaged or not the user's own.

    Args:
        folder: Where they are.
        verify: Compare checksums first (reads every byte once).
    """
    if not is_private(folder):
        return None
    try:
        content = json.loads(read_private(folder / "meta.json") or b"")
        files = {name: folder / f"{name}.npy" for name in content["checksums"]}
        if not all(is_private(path) and path.is_file() and path.parent == folder for path in files.values()):
            return None
        if verify and any(_checksum(path) != content["checksums"][name] for name, path in files.items()):
            return None
        # As plain arrays: numpy's memmap class costs several microseconds at every slice.
        arrays = {name: np.asarray(np.load(path, mmap_mode="r")) for name, path in files.items()}
        return arrays, content["meta"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError):
        return None
