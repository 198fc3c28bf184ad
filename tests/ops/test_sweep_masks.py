"""Sweeps under a mask: outside of the image nothing is read, kept or learned."""

import torch

from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.dispatch import sweep
from tests.ops.sweeps import draw, every_cell, holes, make, with_gradients


@every_cell
def test_outside_states_are_0_and_take_no_gradient(cell):
    torch.manual_seed(0)
    cells = make(cell)
    x, grad = draw(cells)
    y, grad_x, *_ = with_gradients("auto", cells, x, holes(), DIRECTIONS, grad)
    outside = ~holes().expand_as(grad_x)
    assert not y[~holes().expand_as(y)].any() and not grad_x[outside].any()


@every_cell
def test_what_lies_outside_is_not_read(cell):
    torch.manual_seed(0)
    cells = make(cell)
    x, _ = draw(cells)
    other = torch.where(holes(), x, torch.full_like(x, 1e3))
    assert torch.equal(
        sweep(cells, x, holes(), DIRECTIONS)[holes().expand(-1, 12, -1, -1)],
        sweep(cells, other, holes(), DIRECTIONS)[holes().expand(-1, 12, -1, -1)],
    )
