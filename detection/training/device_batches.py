"""Batches on the device that trains, and the time that is spent waiting for them."""

import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import torch
from torch import Tensor

Batch = tuple[list[Tensor], list[dict[str, Any]]]


class DeviceBatches:
    """Moves batches to a device; on CUDA each while the step before it is computed.

    Attributes:
        waited: seconds spent waiting for batches, but for the first of each pass, in which loading processes start.

    Args:
        batches: images and targets; in pinned memory for CUDA, so that copies do not hold up the host.
        device: where they are wanted.
    """

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self.batches, self.device, self.waited = batches, device, 0.0

    def __len__(self) -> int:
        assert isinstance(self.batches, Sized)
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if self.device.type != "cuda":
            return (to_device(*batch, self.device) for batch in self._measured())
        return self._ahead(torch.cuda.Stream(self.device))

    def _measured(self) -> Iterator[Batch]:
        iterator, first = iter(self.batches), True
        while True:
            began = time.perf_counter()
            batch = next(iterator, None)
            if batch is None:
                return
            if not first:
                self.waited += time.perf_counter() - began
            first = False
            yield batch

    def _ahead(self, stream: torch.cuda.Stream) -> Iterator[Batch]:
        """Yield batches, the next one being copied on a stream next to the one that computes."""
        previous = None
        for batch in self._measured():
            with torch.cuda.stream(stream):
                copied = to_device(*batch, self.device)
            # Handed on before the wait below, so that the step on it is not queued behind the copy of the next one.
            if previous is not None:
                yield previous
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(stream)
            for tensor in _tensors(copied):
                tensor.record_stream(current)  # the copying stream, which allocated it, must not reuse it before
            previous = copied
        if previous is not None:
            yield previous


def to_device(images: Sequence[Tensor], targets: Sequence[dict[str, Any]], device: torch.device) -> Batch:
    """Move a batch to a device; copies from pinned memory overlap with computation."""
    overlap = device.type != "cpu"  # on the host a copy would be read before it is complete
    moved = [
        {k: v.to(device, non_blocking=overlap) if isinstance(v, Tensor) else v for k, v in t.items()} for t in targets
    ]
    return [image.to(device, non_blocking=overlap) for image in images], moved


def _tensors(batch: Batch) -> Iterator[Tensor]:
    yield from batch[0]
    for target in batch[1]:
        yield from (value for value in target.values() if isinstance(value, Tensor))
