"""Batches that loading processes hand over in shared memory, where too little of it is an error and no endless wait."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import get_worker_info

from detection.errors import UserError
from detection.system_errors import shared_memory_full


class SharedCollate:
    """Collate samples by a function and, in a loading process, move their tensors to shared memory at once.

    A process hands batches over in a thread, where an error only prints a traceback: the training would wait for a
    batch that never comes. Here the error reaches it.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        """Collate samples.

        Raises:
            UserError: /dev/shm is full.
        """
        batch = self.collate(samples)
        if get_worker_info() is not None:
            try:
                _share(batch)
            except (RuntimeError, OSError):
                raise UserError(shared_memory_full()) from None
        return batch


def has_shared_memory(least: int = 500_000_000) -> bool:
    """Whether at least so many bytes are free in /dev/shm, enough for some batches of large images."""
    try:
        return shutil.disk_usage("/dev/shm").free >= least
    except OSError:  # another system, which has it elsewhere
        return True


def require_shared_memory(workers: int) -> None:
    """Check that loading processes can be started at all; their locks are in /dev/shm, too.

    Raises:
        UserError: next to nothing is free there.
    """
    if workers and not has_shared_memory(1_000_000):
        raise UserError(shared_memory_full())


def _share(value: Any) -> None:
    if isinstance(value, Tensor):
        value.share_memory_()
    elif isinstance(value, Mapping):
        _share(list(value.values()))
    elif isinstance(value, list | tuple):
        for entry in value:
            _share(entry)
    elif dataclasses.is_dataclass(value):
        _share(list(vars(value).values()))
