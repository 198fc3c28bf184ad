"""Sweeps along diagonals: the map is sheared, so that diagonals become the columns of another map, swept down and up.

A map of S×L locations, S the shorter side, becomes one of S×(S + L − 1), twice as large if it is square. Locations that
are not of the map are outside of its mask, where every line ends. Any cell and any operation sweeps it as another map.
Four diagonals over 2×256×38×50, forward and backward, take 2.2 (IRNN) to 4.0 (minGRU) times as long as the four
straight directions (CPU, one thread): of more locations, with a mask where the others need none, and copies.
"""

# B images, C channels, H×W map, S and L its shorter and its longer side, D hidden size, K directions.

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from detection.cells import Cell
from detection.ops.sweep.directions import Direction, is_diagonal, is_falling
from detection.ops.sweep.layout import as_map
from detection.ops.sweep.shear import shear, unshear

Scan = Callable[[Sequence[Cell], Tensor, Tensor | None, Sequence[Direction], bool], Tensor]
"""Cells, pre-activations, mask and straight directions as in `sweep`, and whether the map is sheared → outputs."""


def sweep_by_shear(
    scan: Scan, cells: Sequence[Cell], x: Tensor, valid: Tensor | None, directions: Sequence[Direction]
) -> Tensor:
    """Compute `sweep` of directions of which some are diagonal, by `scan` of straight ones.

    The two directions along the same diagonals share a sheared map.
    """
    outputs: dict[int, Tensor] = {}
    for falling in (None, False, True):  # straight, along rising diagonals, along falling ones
        places = [k for k, d in enumerate(directions) if (is_falling(d) if is_diagonal(d) else None) is falling]
        if places:
            own = [cells[k] for k in places]
            names: list[Direction] = [directions[k] for k in places]
            if falling is None:
                rows = scan(own, x, valid, names, False).permute(0, 2, 3, 1)  # (B, H, W, K·D)
            else:
                rows = _along_diagonals(scan, own, x, valid, names, falling)
            outputs |= zip(places, rows.chunk(len(places), 3), strict=True)
    return as_map(torch.cat([outputs[k] for k in range(len(directions))], 3))


def _along_diagonals(
    scan: Scan, cells: Sequence[Cell], x: Tensor, valid: Tensor | None, names: Sequence[Direction], falling: bool
) -> Tensor:
    """Return the outputs (B, H, W, K·D) of the directions along falling or along rising diagonals."""
    valid = x.new_ones(x.shape[0], 1, *x.shape[2:], dtype=torch.bool) if valid is None else valid
    # In a trace sizes are not compared: the graph is for both shapes of images.
    turn = not torch.onnx.is_in_onnx_export() and x.shape[2] > x.shape[3]
    across = (0, 3, 2, 1) if turn else (0, 2, 3, 1)
    sheared, inside = (as_map(shear(t.permute(across), falling)) for t in (x, valid))  # (B, …, S, S + L − 1) each
    # What goes down and left goes up and right once rows and columns are exchanged.
    first = "up" if turn and not falling else "down"
    straight: list[Direction] = [first if n.startswith("down") else ("down" if first == "up" else "up") for n in names]
    rows = unshear(scan(cells, sheared, inside, straight, True).permute(0, 2, 3, 1), falling)  # (B, S, L, K·D)
    return rows.transpose(1, 2) if turn else rows  # (B, H, W, K·D)
