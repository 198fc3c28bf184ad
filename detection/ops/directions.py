"""The four directions in which a cell can walk over a map."""

from typing import Literal, get_args

from torch import Tensor

Direction = Literal["right", "left", "down", "up"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


def steps(x: Tensor, direction: str) -> list[Tensor]:
    """Views of x (B, H, W, …) in the order of a walk: columns for `right` and `left`, rows for `down` and `up`."""
    slices = x.unbind(2 if direction in ("right", "left") else 1)
    return list(slices if direction in ("right", "down") else reversed(slices))
