"""Sentences with a remedy for what the system refuses: full disks, unwritable folders, killed processes."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

_REMEDIES = {
    errno.ENOSPC: "the disk is full{free}: free some space there, or choose a folder on another disk",
    errno.EDQUOT: "your quota of this disk is used up: free some space there, or choose a folder on another disk",
    errno.EFBIG: "the file would be larger than the file system allows: choose a folder on another disk",
    errno.EROFS: "its file system is read-only: choose another folder",
    errno.EACCES: "access is not permitted: change its permissions, or choose another folder",
    errno.EPERM: "access is not permitted: change its permissions, or choose another folder",
    errno.ENOENT: "there is no such file or folder, or it was moved or deleted meanwhile: check the path",
    errno.ESTALE: "the file or folder was moved or deleted meanwhile by another machine: check the path",
    errno.ENOTDIR: "a part of this path is a file, not a folder: check the path",
    errno.EISDIR: "is a folder where a file is wanted: move it away, or choose another name",
    errno.EEXIST: "exists already: move it away, or choose another name",
    errno.ENOTEMPTY: "another process writes there too: end it, or choose another folder",
    errno.ENAMETOOLONG: "the name is too long for the file system: choose a shorter one",
    errno.ELOOP: "its links lead in a circle: remove them",
    errno.EMFILE: "too many open files: raise the limit with `ulimit -n`, or lower data.workers",
    errno.ENFILE: "too many open files on this machine: end other processes, or lower data.workers",
    errno.ENOMEM: "the memory is used up: end other processes, or lower batch_size or data.workers",
    errno.EIO: "the disk cannot read or write it: check the disk, or choose a folder on another one",
}
_SHARED_MEMORY = re.compile(
    r"unable to (allocate shared memory|write to file|resize file|mmap|open (shared memory|file))|\(shm\)|"
    r"killed by signal: Bus error"
)
SHARED_MEMORY_FULL = (
    "the shared memory in /dev/shm{free} is too small for the batches that processes load ahead: set data.workers=0, "
    "lower the batch size, or give a container more of it (`docker run --shm-size=8g`)"
)


def explain(error: BaseException) -> str | None:
    """Return a sentence on an error that the system caused, with the remedy; None for any other error."""
    for cause in _chain(error):
        number, path = _system_error(cause)
        if number is not None:
            return _sentence(number, path)
        text = str(cause)
        if isinstance(cause, RuntimeError | OSError) and _SHARED_MEMORY.search(text):
            return shared_memory_full()
        if isinstance(cause, RuntimeError) and "DataLoader worker (pid" in text:
            return _killed_worker(text)
        if isinstance(cause, NotImplementedError) and (found := re.search(r"'(\S+)'.* for the MPS device", text)):
            return (
                f"--device mps: torch has no {found[1]} there; set PYTORCH_ENABLE_MPS_FALLBACK=1, or use --device cpu."
            )
        if isinstance(cause, MemoryError) or "DefaultCPUAllocator" in text:
            return "the memory is used up: end other processes, or lower batch_size or the size of images."
        if type(cause).__name__ == "OutOfMemoryError":
            return "the memory of the GPU is used up: lower batch_size (with gradient_accumulation_steps), or max_size."
    return None


def shared_memory_full() -> str:
    """Return the sentence on a /dev/shm without room."""
    return SHARED_MEMORY_FULL.format(free=_free(Path("/dev/shm"))) + "."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and, of torch's writers, which report a full disk as a wrong position, what they met before it."""
    while error is not None:
        yield error
        error = error.__context__ if isinstance(error, RuntimeError) else None


def _system_error(error: BaseException) -> tuple[int | None, str]:
    """The system's number of an error, and the path that it is about; libraries in Rust have it in their text."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _REMEDIES else None, os.fsdecode(error.filename or "")
    found = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return (int(found[1]) if found and int(found[1]) in _REMEDIES else None), ""


def _sentence(number: int, path: str) -> str:
    text = _REMEDIES[number].format(free=_free(Path(path)))
    return f"{path}: {text}." if path else f"{text}."


def free_bytes(path: Path) -> int:
    """Return what is free on the disk of a path, or of its nearest folder that exists."""
    return shutil.disk_usage(next(p for p in (path, *path.absolute().parents) if p.is_dir())).free


def _free(path: Path) -> str:
    if path == Path():
        return ""
    try:
        return f" ({free_bytes(path) / 1e6:.1f} MB are free)"
    except (OSError, StopIteration):
        return ""


def _killed_worker(text: str) -> str:
    signal = re.search(r"killed by signal: (\w[\w ]*)", text)
    how = f"was killed (signal: {signal[1].strip()})" if signal else "ended unexpectedly"
    return (
        f"a process that loads data {how}, as the system does where memory runs out: lower data.workers or batch_size, "
        "or end other processes."
    )
