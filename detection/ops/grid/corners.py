"""The four corners from which a two-dimensional recurrence scans a feature map, and its anti-diagonals.

A scan from the top left takes the state of location (i, j) from (i − 1, j) and (i, j − 1). All locations with the same
i + j, an anti-diagonal, depend on the one before only, so that a scan has H + W − 1 steps; from another corner it is
that of the mirrored map.
"""

# B images, C channels, H×W map, n locations of a diagonal, T = H + W − 1 diagonals.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from detection.ops.sweep.shear import shear, unshear

Corner = Literal["top_left", "top_right", "bottom_left", "bottom_right"]
CORNERS: tuple[Corner, ...] = get_args(Corner)


def is_from_below(corner: str) -> bool:
    """Return whether the vertical neighbor is the one below."""
    return corner.startswith("bottom")


def is_from_right(corner: str) -> bool:
    """Return whether the horizontal neighbor is the one to the right."""
    return corner.endswith("right")


def opposite(corner: str) -> Corner:
    """Return the corner that a scan from this one ends at; from there the same anti-diagonals come in reverse."""
    return CORNERS[::-1][CORNERS.index(corner)]  # type: ignore[arg-type]


@dataclass(frozen=True)
class AntiDiagonal:
    """Locations (`row` + k, `column` + k·`turn`) of a map, k = 0 … `count` − 1, which one step of a scan computes.

    Attributes:
        row: of the first location, the topmost.
        column: of the first location.
        count: n, how many there are.
        turn: 1 where columns rise with rows, else −1.
        vertical: 1 where the vertical neighbor is below, else −1.
        start: how many locations the steps before have computed.
    """

    row: int
    column: int
    count: int
    turn: int
    vertical: int
    start: int

    @property
    def own(self) -> slice:
        """Rows of its locations in lines with one row more above and below the map, and those of horizontal neighbors.

        A diagonal has at most one location of a row, so that a state is kept by row: (H + 2, B, D).
        """
        return slice(self.row + 1, self.row + 1 + self.count)

    @property
    def above(self) -> slice:
        """Rows of the vertical neighbors in the same lines."""
        return slice(self.own.start + self.vertical, self.own.stop + self.vertical)

    def places(self, images: int) -> slice:
        """Return its rows among the locations of all images in the order of the scan, H·W·B of them."""
        return slice(self.start * images, (self.start + self.count) * images)

    def of(self, rows: Tensor) -> Tensor:
        """Return its locations as a view (n, B, …) of a map (B, H, W, …) of any strides that rise from W to H."""
        image, down, right, *rest = rows.stride()
        offset = rows.storage_offset() + self.row * down + self.column * right
        size = (self.count, rows.shape[0], *rows.shape[3:])
        # The strides of an axis of one location are any, and a step along it could be negative.
        apart = down + self.turn * right if self.count > 1 else 0
        return rows.as_strided(size, (apart, image, *rest), offset)


def anti_diagonals(height: int, width: int, corner: str) -> list[AntiDiagonal]:
    """Return the anti-diagonals of a map in the order of a scan."""
    found, start = [], 0
    below, right = is_from_below(corner), is_from_right(corner)
    for t in range(height + width - 1):
        low, high = max(0, t - width + 1), min(height - 1, t)
        i = high if below else low  # of the topmost location, seen from the corner
        row = height - 1 - i if below else i
        column = width - 1 - (t - i) if right else t - i
        found.append(AntiDiagonal(row, column, high - low + 1, 1 if below != right else -1, 1 if below else -1, start))
        start += high - low + 1
    return found


def mirrored(x: Tensor, corner: str) -> Tensor:
    """Return a map (…, H, W) as seen from a corner; twice is the map itself."""
    dims = [dim for dim, is_mirrored in ((-2, is_from_below(corner)), (-1, is_from_right(corner))) if is_mirrored]
    return x.flip(dims) if dims else x


def scan_order(height: int, width: int, corners: Sequence[str], device: torch.device) -> Tensor:
    """Return the location, row·W + column, of each place in the scans from K corners: (H·W, K).

    A diagonal's locations are in the order of their rows as seen from the corner.
    """
    places = torch.arange(height * width, device=device).view(height, width)
    row, column = places // width, places % width
    # Stable, so that a diagonal's locations stay in the order of their rows.
    by_diagonal = (row + column).flatten().argsort(stable=True)
    return torch.stack([mirrored(places, corner).flatten()[by_diagonal] for corner in corners], 1)  # (H·W, K)


def by_anti_diagonal(x: Tensor, corner: str) -> Tensor:
    """Return a map (B, C, H, W) as seen from a corner, step by step of its scan, zeros around: (T, B, H, C)."""
    return shear(mirrored(x, corner).permute(0, 2, 3, 1), falling=False).permute(2, 0, 1, 3)


def from_anti_diagonals(steps: Tensor, corner: str) -> Tensor:
    """Undo `by_anti_diagonal`: (T, B, H, C) → (B, C, H, W)."""
    return mirrored(unshear(steps.permute(1, 2, 0, 3), falling=False).permute(0, 3, 1, 2), corner)


def shifted(lines: Tensor) -> Tensor:
    """Return lines (B, H, D) with each row at the place of the next, zeros first: the vertical neighbors' values."""
    return torch.cat([torch.zeros_like(lines[:, :1]), lines[:, :-1]], 1)
