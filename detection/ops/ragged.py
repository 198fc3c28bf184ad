"""Rows of several images, such as their boxes, of which each has another number, without a loop over images.

Indices are made of lengths, which the host knows, and reach the device by one copy without a wait.

B images, N rows of one (padded), R rows of all, … whatever a row is made of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detection.ops.double import widest


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Copy values of the host to a device without waiting for it, as `torch.tensor(values, device=…)` would."""
    if values.dtype == np.float64 and widest(device) != torch.float64:
        values = values.astype(np.float32)
    return torch.from_numpy(values).to(device, non_blocking=True)


def image_indices(counts: Sequence[int], device: torch.device) -> Tensor:
    """Return the image (R,) that each row belongs to."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # pyright: ignore[reportPrivateImportUsage]
        # A trace or an export must not depend on how many rows its example has.
        return torch.cat([torch.full((count,), i, device=device) for i, count in enumerate(counts)])
    return to_device(np.repeat(np.arange(len(counts)), counts), device)


def positions(counts: Sequence[int], width: int, device: torch.device) -> Tensor:
    """Return where the first rows of each image, as many as `counts`, are in a flattened (B, width): (R,)."""
    before = np.cumsum(counts, dtype=np.int64) - counts
    return to_device(np.arange(sum(counts)) + np.repeat(np.arange(len(counts)) * width - before, counts), device)


@dataclass(frozen=True)
class Ragged:
    """Rows of all images, one image after another.

    Attributes:
        rows: (R, …).
        counts: rows of each image.
    """

    rows: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, images: Sequence[Tensor]) -> "Ragged":
        """Join the rows (N, …) of at least one image."""
        return cls(torch.cat(list(images)), tuple(len(rows) for rows in images))

    @cached_property
    def _padded_rows(self) -> Tensor:
        # One row of zeros at the end, for what is padding.
        return F.pad(self.rows, (0, 0) * (self.rows.ndim - 1) + (0, 1))

    @cached_property
    def starts(self) -> np.ndarray:
        """Index of each image's first row."""
        return np.cumsum(self.counts, dtype=np.int64) - self.counts

    def split(self) -> list[Tensor]:
        """Return the rows (N, …) of each image."""
        return list(self.rows.split(list(self.counts)))

    def followed_by(self, other: "Ragged") -> "Ragged":
        """Return the rows of each image with its rows of another after them."""
        pairs = zip(self.split(), other.split(), strict=True)
        counts = tuple(map(sum, zip(self.counts, other.counts, strict=True)))
        return Ragged(torch.cat([rows for pair in pairs for rows in pair]), counts)

    def padded(self, images: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Return the rows of all images or of some, padded with zeros to one length, at least 1.

        Returns:
            Rows (B, N, …), and booleans (B, N), false at padding.
        """
        chosen = slice(None) if images is None else np.asarray(images)
        counts, starts = np.asarray(self.counts)[chosen], self.starts[chosen]
        places = np.arange(max(1, counts.max(initial=0)))
        inside = places < counts[:, None]  # (B, N)
        index = np.where(inside, starts[:, None] + places, len(self.rows))  # (B, N), at padding the row of zeros
        device = self.rows.device
        return self._padded_rows[to_device(index, device)], to_device(inside, device)

    def take(self, indices: Tensor) -> Tensor:
        """Return rows (B, n, …) at each image's own indices (B, n); below 0 the first, zeros where there is none."""
        # An image without rows reads the row of zeros.
        first = np.where(np.asarray(self.counts) > 0, self.starts, len(self.rows))
        place = indices.clamp(min=0) + to_device(first, indices.device)[:, None]  # (B, n)
        return self._padded_rows[place]
