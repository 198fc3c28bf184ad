"""The operations of the sweeps are what PyTorch asks of operations: compiled, differentiated, repeated."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from detection.cells import MUT1, MUT2, MUT3
from detection.ops.sweep.accumulate import accumulate
from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.dispatch import sweep
from detection.ops.sweep.gated_scan import gated_scan
from detection.ops.sweep.gru import gru
from detection.ops.sweep.linear_scan import linear_scan
from detection.ops.sweep.lstm import lstm
from detection.ops.sweep.matrix_rnn import matrix_rnn
from detection.ops.sweep.selective_scan import selective_scan
from tests.ops.sweeps import (
    CELLS,
    PRODUCTS,
    SIZE,
    B,
    H,
    W,
    corner,
    draw,
    fast_cells,
    holes,
    make,
    name_of,
    with_gradients,
)


@fast_cells
def test_no_memory_is_read_before_it_is_written(cell):
    """PyTorch fills new memory with NaNs when it is asked for repeatable results."""
    torch.manual_seed(0)
    cells = make(cell)
    x, grad = draw(cells)
    torch.use_deterministic_algorithms(True)
    try:
        found = with_gradients("auto", cells, x, holes(), DIRECTIONS, grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(t.isfinite().all() for t in found)


@pytest.mark.parametrize(
    # MUTs take seconds each, by the same code as the other cells without an operation.
    "cell",
    [pytest.param(c, marks=[pytest.mark.slow] if c in (MUT1, MUT2, MUT3) else []) for c in CELLS],
    ids=name_of,
)
def test_compiles_without_graph_breaks(cell):
    torch.manual_seed(0)
    torch._dynamo.reset()
    cells = make(cell, ("right", "up"))
    x, grad = draw(cells, (1, 2, 2))

    def run(x, valid):
        return sweep(cells, x, valid, ("right", "up")).square()

    found = torch.compile(run, fullgraph=True, backend="aot_eager")(x, corner((1, 2, 2)))
    expected = run(x, corner((1, 2, 2)))
    torch.testing.assert_close(found, expected)
    parameters = [x, *(p for c in cells for p in c.parameters())]
    for a, b in zip(
        torch.autograd.grad(found, parameters, grad), torch.autograd.grad(expected, parameters, grad), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "op", [accumulate, gated_scan, linear_scan, matrix_rnn, lstm, gru, selective_scan], ids=lambda op: op._name
)
def test_operations_are_what_pytorch_asks_of_them(op):
    torch.manual_seed(0)
    gates = {lstm: 4, gru: 3, linear_scan: 2, gated_scan: 3, selective_scan: 2}
    rows = gates.get(op, 1) * SIZE
    x = torch.randn(B, rows, H, W, requires_grad=True)
    weight = torch.randn(2, rows, SIZE, requires_grad=True)
    bias = torch.randn(2, rows, requires_grad=True)
    arguments = {
        accumulate: (x, torch.randn(2, SIZE, requires_grad=True), holes(), "right up"),
        gated_scan: (x, torch.randn(2, 3, SIZE, requires_grad=True), holes(), "right up", "RGLRU"),
        linear_scan: (torch.rand(B, rows, H, W, requires_grad=True), x, holes(), "right up"),
        matrix_rnn: (x, weight, bias, holes(), "right up", False),
        lstm: (x, weight, bias, holes(), "right up", True),
        gru: (x, weight, bias, holes(), "right up", True),
        # Two channels of one state.
        selective_scan: (
            x.permute(0, 2, 3, 1),
            -weight[0, :2, :1].exp(),
            bias[0, :4],
            bias[1, :2],
            holes()[:, 0],
            True,
        ),
    }
    torch.library.opcheck(op, arguments[op])


@fast_cells
def test_forward_mode_differentiation_is_refused_by_operations(cell):
    """Their tangents would be 0; the loop over lines has the right ones."""
    torch.manual_seed(0)
    cells = nn.ModuleList(make(cell))
    x, _ = draw(cells)
    x, tangent = x.detach(), torch.randn(x.shape, dtype=x.dtype)

    def run(x, backend="auto"):
        return sweep(list(cells), x, holes(), DIRECTIONS, backend=backend)

    with pytest.raises(NotImplementedError, match="backend='lines'"):
        torch.func.jvp(run, (x,), (tangent,))
    for parameter in cells.parameters():
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="backend='lines'"):
            name = next(n for n, p in cells.named_parameters() if p is parameter)
            dual = forward_ad.make_dual(parameter, torch.ones_like(parameter))
            torch.func.functional_call(_Swept(cells), {f"cells.{name}": dual}, (x,))
    step = 1e-6 * tangent
    _, found = torch.func.jvp(partial(run, backend="lines"), (x,), (tangent,))
    torch.testing.assert_close(found, (run(x + step) - run(x - step)) / 2e-6, rtol=1e-4, atol=1e-4)


class _Swept(nn.Module):
    def __init__(self, cells):
        super().__init__()
        self.cells = cells

    def forward(self, x):
        return sweep(list(self.cells), x, None, DIRECTIONS)


@pytest.mark.parametrize("cell", PRODUCTS, ids=name_of)
@pytest.mark.parametrize("learned", ["bias_hh", "weight_hh"])
def test_one_kind_of_parameter_learns_alone(cell, learned):
    """Weights frozen and biases not, or the reverse, on an input that needs no gradient."""
    torch.manual_seed(0)
    cells = nn.ModuleList(make(cell))
    x, grad = draw(cells)
    for name, parameter in cells.named_parameters():
        parameter.requires_grad_(name.endswith(learned))
    parameters = [getattr(c, learned) for c in cells]
    found, expected = (
        torch.autograd.grad(sweep(list(cells), x.detach(), holes(), DIRECTIONS, backend=b), parameters, grad)
        for b in ("auto", "steps")
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
