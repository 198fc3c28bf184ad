"""Heads of a cell: groups of channels, each with a separate memory."""

import math
from functools import partial
from typing import Annotated

from detection.cells.cell import Cell
from detection.cells.initialization import Initialization
from detection.errors import UserError
from detection.ranges import Range

HeadCount = Annotated[int, Range(1, 1_000)] | None
"""Heads of a cell; None for 4, or for 2 or 1 where the hidden size asks for it."""

DEFAULT_HEADS = 4


def head_count(hidden_size: int, num_heads: int | None) -> int:
    """Return the heads of a cell of so many channels.

    Raises:
        UserError: they cannot be divided among the heads.
    """
    if num_heads is None:
        return math.gcd(DEFAULT_HEADS, hidden_size)
    if hidden_size % num_heads:
        raise UserError(f"cell.num_heads={num_heads}: must divide the cell's hidden size, {hidden_size}.")
    return num_heads


class HeadedCell(Cell):
    """A cell of K heads, whose channels are split evenly among them.

    Args:
        hidden_size, input_size, bias, init, learned_initial_state: as in `Cell`.
        num_heads: K; None for 4, or for 2 or 1 where `hidden_size` asks for it.
    """

    def __init__(
        self,
        hidden_size: int,
        input_size: int | None = None,
        bias: bool = True,
        init: partial[Initialization] | None = None,
        learned_initial_state: bool = False,
        num_heads: HeadCount = None,
    ) -> None:
        self.num_heads = head_count(hidden_size, num_heads)
        super().__init__(hidden_size, input_size, bias, init, learned_initial_state)
