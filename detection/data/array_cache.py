"""Named numpy arrays in a folder, written at once and opened memory-mapped, so that processes share their pages."""

import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np

from detection.atomic_write import atomic_folder


def cache_root(chosen: Path | None = None) -> Path:
    """Return the folder of all caches: the chosen one, else `$DETECTION_CACHE`, else `~/.cache/detection`."""
    return Path(os.path.expanduser(chosen or os.environ.get("DETECTION_CACHE") or "~/.cache/detection")).absolute()


def save_arrays(folder: Path, arrays: dict[str, np.ndarray], meta: dict) -> bool:
    """Write arrays and a JSON-able dictionary as a folder that appears complete or not at all.

    Args:
        folder: Where they go; replaced if it is there and damaged.
        arrays: Arrays by name.
        meta: What else to keep; comes back from `open_arrays`.

    Returns:
        Whether it is there now: False where the disk is full or not writable.
    """
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


def open_arrays(folder: Path, verify: bool = True) -> tuple[dict[str, np.ndarray], dict] | None:
    """Open what `save_arrays` wrote.

    Args:
        folder: The folder.
        verify: Compare checksums first (reads every byte once).

    Returns:
        Read-only, memory-mapped arrays by name and the dictionary; None where the folder is missing or damaged.
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
