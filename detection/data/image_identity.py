"""Identity of a split's images: a hash of the bytes of all of them, which reads no file again that has not changed.

The hashes of single files are kept in the cache by name, size and time of the last change, one entry for each folder.
"""

import functools
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from detection.cache import note_rebuilt, private_root, read_private, write_private
from detection.cores import usable_cores
from detection.data.coco_index import load_index
from detection.data.image_paths import leaves_folder
from detection.errors import UserError

_SETTLED = 2.0
"""Seconds after its last change from which a file's hash is kept: a later change within one tick of the file system's
clock would leave size and time as they are."""
_FILES_AT_ONCE = 4096
_MISSING = "missing"


class _Entry(NamedTuple):
    """Size in bytes, time of the last change in nanoseconds, and SHA-256 of a file."""

    size: int
    changed: int
    digest: str


def images_digest(
    folder: Path,
    file_names: Iterable[str],
    on_files: Callable[[int, int], None] = lambda count, total: None,
    cache_dir: Path | None = None,
) -> str:
    """Return the SHA-256 of names and bytes of images, whatever their order; a missing image is part of it.

    Args:
        folder: that the names are relative to.
        file_names: of the images.
        on_files: called for files that have been read, with their number and that of all that have to be read.
        cache_dir: as for `detection.cache.cache_root`.

    Raises:
        UserError: an image cannot be read.
    """
    names = sorted(set(file_names))
    known = file_digests(folder, names, on_files, cache_dir)
    total = hashlib.sha256()
    for name in names:
        total.update(name.encode("utf-8", "surrogatepass") + f"\0{known.get(name, _MISSING)}\n".encode())
    return total.hexdigest()


def file_digests(
    folder: Path,
    file_names: Iterable[str],
    on_files: Callable[[int, int], None] = lambda count, total: None,
    cache_dir: Path | None = None,
) -> dict[str, str]:
    """Return the SHA-256 of each image's bytes by name; missing images are left out. Arguments as `images_digest`.

    Raises:
        UserError: an image cannot be read.
    """
    root, now = private_root(cache_dir), time.time_ns()
    key = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:32]
    kept = None if root is None else root / f"images-{key}.json"
    known = {} if kept is None else _read_known(kept)
    states = {name: state for name in file_names if (state := _state(folder, name))}
    changed = [name for name, state in states.items() if known.get(name, ())[:2] != state]
    with ThreadPoolExecutor(min(16, 2 * usable_cores())) as threads:
        for start in range(0, len(changed), _FILES_AT_ONCE):
            some = changed[start : start + _FILES_AT_ONCE]
            for name, digest in zip(some, threads.map(_digest, [folder] * len(some), some), strict=True):
                known[name] = _Entry(*states[name], digest)
                on_files(1, len(changed))
    if kept is not None and changed:
        settled = {name: e for name, e in known.items() if e.changed < now - _SETTLED * 1e9}
        write_private(kept, json.dumps(settled, separators=(",", ":")).encode())
    return {name: known[name].digest for name in states}


def images_changed(record: Mapping[str, Any]) -> bool:
    """Return whether the images of a split differ from those of its record in `environment.json`.

    Images that were moved away, and records without their hash, count as unchanged.

    Raises:
        UserError: the annotations, or an image, cannot be read.
    """
    folder, then = record.get("image_folder"), record.get("images_sha256")
    if not folder or not then or not Path(folder).is_dir():
        return False
    return images_digest(Path(folder), _file_names(str(record["annotations"]), str(record["sha256"]))) != then


@functools.cache  # all runs of an ablation share few data sets
def _file_names(annotations: str, digest: str) -> tuple[str, ...]:
    """Names of a split's images; the digest is that of the annotations, and makes names of other content other ones."""
    index = load_index(annotations, bad_boxes="drop")
    return tuple(index.file_name(row) for row in range(len(index)))


def _state(folder: Path, name: str) -> tuple[int, int] | None:
    """Size and time of the last change of a regular file in the folder; None where there is none."""
    if leaves_folder(name):
        return None
    try:
        status = os.stat(os.path.join(folder, name))
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _digest(folder: Path, name: str) -> str:
    try:
        with open(os.path.join(folder, name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"image {folder / name} cannot be read ({error.strerror or error}).") from None


def _read_known(path: Path) -> dict[str, _Entry]:
    content = read_private(path)
    if content is None:
        return {}
    try:
        return {name: _Entry(int(size), int(changed), str(digest)) for name, (size, changed, digest) in
                json.loads(content).items()}  # fmt: skip
    except (ValueError, TypeError, AttributeError):
        note_rebuilt(path)
        return {}
