"""Named numpy arrays in a folder, written at once and opened memory-mapped, so that processes share their pages.

They come with a dictionary of whatever JSON can hold.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from detection.atomic_write import atomic_folder
from detection.errors import UserError

Content = tuple[dict[str, np.ndarray], dict]


def cache_root(chosen: Path | None = None) -> Path:
    """Return the folder of all caches: the chosen one, else `$DETECTION_CACHE`, else `~/.cache/detection`."""
    return Path(os.path.expanduser(chosen or os.environ.get("DETECTION_CACHE") or "~/.cache/detection")).absolute()


def cached_arrays(folder: Path, build: Callable[[], Content]) -> tuple[Content, Path | None]:
    """Open the arrays of a folder; build and save them first where it is missing or damaged.

    Returns:
        The arrays and the dictionary, and their folder: None where it cannot be written, and they stay in memory.
    """
    content = open_arrays(folder)
    if content is None:
        built = build()
        content = open_arrays(folder) if _save_arrays(folder, *built) else None
        if content is None:
            return built, None
    return content, folder


def reopen_arrays(folder: Path, what: str) -> Content:
    """Open a folder that another process has verified; a `UserError` if `what` is gone from there."""
    content = open_arrays(folder, verify=False)
    if content is None:
        raise UserError(f"{what} is gone from {folder}: start again to rebuild it.")
    return content


def _save_arrays(folder: Path, arrays: dict[str, np.ndarray], meta: dict) -> bool:
    """Write a folder that appears complete or not at all; False where the disk is full or not writable."""
    try:
        with atomic_folder(folder) as temporary:
            checksums = {}
            for name, array in arrays.items():
                np.save(temporary / f"{name}.npy", array)
                checksums[name] = zlib.crc32((temporary / f"{name}.npy").read_bytes())
            (temporary / "meta.json").write_text(json.dumps({"meta": meta, "checksums": checksums}))
            if open_arrays(folder) is None:
                shutil.rmtree(folder, ignore_errors=True)
        return True
    except OSError:
        # Another process may have put the same content in place; then that one is used.
        return (folder / "meta.json").exists()


def open_arrays(folder: Path, verify: bool = True) -> Content | None:
    """Open a folder of arrays, read-only and memory-mapped; None where it is missing or damaged.

    Args:
        folder: Where they are.
        verify: Compare checksums first (reads every byte once).
    """
    try:
        content = json.loads((folder / "meta.json").read_text())
        for name, checksum in content["checksums"].items():
            if verify and zlib.crc32((folder / f"{name}.npy").read_bytes()) != checksum:
                return None
        # As plain arrays: numpy's memmap class costs several microseconds at every slice.
        arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in content["checksums"]}
        return arrays, content["meta"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
