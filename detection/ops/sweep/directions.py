"""The directions in which a cell can scan a feature map: along rows, columns and diagonals."""

# B images, C channels, H×W map, T steps of a scan, L lines of one image that are scanned at once.

from typing import Literal, get_args

import torch
from torch import Tensor

Straight = Literal["right", "left", "down", "up"]
Diagonal = Literal["down_right", "down_left", "up_right", "up_left"]
Direction = Literal[Straight, Diagonal]
DIRECTIONS: tuple[Straight, ...] = get_args(Straight)
DIAGONALS: tuple[Diagonal, ...] = get_args(Diagonal)


def is_diagonal(direction: str) -> bool:
    """Return whether the scan is along diagonals, as Octopus 2026 has them next to rows and columns."""
    return direction in DIAGONALS


def is_falling(direction: str) -> bool:
    """Return whether the scan is along diagonals from the top left to the bottom right, or against them."""
    return direction in ("down_right", "up_left")


def is_horizontal(direction: str) -> bool:
    """Return whether the scan is along rows, over columns."""
    return direction in ("right", "left")


def is_reversed(direction: str) -> bool:
    """Return whether the scan is against the order of the map."""
    return direction in ("left", "up")


def steps(x: Tensor, direction: str) -> list[Tensor]:
    """Return views of x (B, H, W, …) in the order of a scan: columns for `right` and `left`, else rows."""
    slices = x.unbind(2 if is_horizontal(direction) else 1)
    return list(reversed(slices) if is_reversed(direction) else slices)


def to_lines(x: Tensor, direction: str) -> Tensor:
    """Return a map (B, H, W, C) in the order of a scan (T, B, L, C); a view unless the scan is reversed."""
    lines = x.permute(2, 0, 1, 3) if is_horizontal(direction) else x.transpose(0, 1)
    return lines.flip(0) if is_reversed(direction) else lines


def from_lines(lines: Tensor, direction: str) -> Tensor:
    """Return a scan (T, B, L, C) as a map (B, H, W, C)."""
    lines = lines.flip(0) if is_reversed(direction) else lines
    return lines.permute(1, 2, 0, 3) if is_horizontal(direction) else lines.transpose(0, 1)


def first_locations(x: Tensor, valid: Tensor | None, direction: str) -> Tensor:
    """Return booleans (B or 1, H, W, 1): locations of a map (B, C, H, W) whose predecessor is not in `valid`."""
    inside = x.new_ones(1, *x.shape[2:], 1, dtype=torch.bool) if valid is None else valid.movedim(1, -1)
    first, dim = torch.ones_like(inside), 2 if is_horizontal(direction) else 1
    length = inside.shape[dim]
    if is_reversed(direction):
        first.narrow(dim, 0, length - 1).copy_(~inside.narrow(dim, 1, length - 1))
    else:
        first.narrow(dim, 1, length - 1).copy_(~inside.narrow(dim, 0, length - 1))
    return first
