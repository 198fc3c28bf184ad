"""Sweeps: a recurrent cell walked along the rows and columns of a map under a valid mask.

`sweep` is one function with several ways behind it; all compute what `sweep_by_steps` computes.
"""

# B images, C = G·D pre-activations, D hidden size, H×W map, K directions.

from collections.abc import Sequence

import torch
from torch import Tensor

from detection.cells import Accumulator, Cell
from detection.ops.accumulate import accumulate
from detection.ops.directions import Direction


def sweep(cells: Sequence[Cell], x: Tensor, valid: Tensor | None, directions: Sequence[Direction]) -> Tensor:
    """Walk a cell along each direction, from a state of zeros at the border of the image.

    Args:
        cells: one a direction, without an input side.
        x: pre-activations (B, G·D, H, W) that all directions share.
        valid: (B, 1, H, W) booleans, the cells inside each image; None for all. Outside of it states are 0.
        directions: `right` takes its state from the left neighbour, and so on.

    Returns:
        The outputs of all directions side by side (B, K·D, H, W), in the type of x; states are kept in float32.
    """
    if all(type(cell) is Accumulator for cell in cells):
        return accumulate(x, valid, " ".join(directions))
    return sweep_by_steps(cells, x, valid, directions)


def sweep_by_steps(cells: Sequence[Cell], x: Tensor, valid: Tensor | None, directions: Sequence[Direction]) -> Tensor:
    """`sweep` as its definition reads: cell after cell, the reference of every faster way."""
    with torch.autocast(x.device.type, enabled=False):
        wide = x if x.dtype == torch.float64 else x.float()
        outputs = [_walk(cell, wide, valid, d) for cell, d in zip(cells, directions, strict=True)]
        return torch.cat(outputs, dim=1).to(x.dtype)


def _walk(cell: Cell, x: Tensor, valid: Tensor | None, direction: Direction) -> Tensor:
    along = 3 if direction in ("right", "left") else 2
    order = range(x.shape[along]) if direction in ("right", "down") else reversed(range(x.shape[along]))
    outputs: dict[int, Tensor] = {}
    state = None
    for t in order:
        x_t = x.select(along, t).movedim(1, -1)  # (B, lines, G·D)
        lines = x_t.flatten(0, 1)
        state = cell.step(lines, cell.start(lines) if state is None else state)
        if valid is not None:
            inside = valid.select(along, t).reshape(-1, 1)
            state = tuple(torch.where(inside, s, 0) for s in state)
        outputs[t] = state[0].unflatten(0, x_t.shape[:2]).movedim(-1, 1)
    return torch.stack([outputs[t] for t in sorted(outputs)], dim=along)
