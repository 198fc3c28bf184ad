"""Sheared maps, whose columns are the diagonals of another map: row i is moved by i to the right, or to the left.

a b c            a b c . .                . . a b c
d e f   rising   . d e f .      falling   . d e f .
g h i            . . g h i                g h i . .
"""

# B images, S×L map, C channels.

import torch
from torch import Tensor


def shear(rows: Tensor, falling: bool) -> Tensor:
    """Return a map (B, S, L, C) with diagonals as columns, (B, S, S + L − 1, C), zeros where there is no location.

    Args:
        rows: the map.
        falling: columns are its diagonals from the top left to the bottom right, else those from the bottom left.
    """
    b, s, length, c = rows.shape
    width = length + s - 1
    rows = rows.flip(2) if falling else rows
    padded = torch.cat([rows, rows.new_zeros(b, s, s, c)], 2)  # (B, S, L + S, C)
    # Rows one shorter than they were written: each begins a location later than the row before.
    return padded.reshape(b, s * (length + s), c)[:, : s * width].reshape(b, s, width, c)


def unshear(rows: Tensor, falling: bool) -> Tensor:
    """Return a sheared map (B, S, S + L − 1, C) as it was, (B, S, L, C)."""
    b, s, width, c = rows.shape
    flat = torch.cat([rows.reshape(b, s * width, c), rows.new_zeros(b, s, c)], 1)  # (B, S·(width + 1), C)
    rows = flat.reshape(b, s, width + 1, c)[:, :, : width - s + 1]
    return rows.flip(2) if falling else rows
