"""Every backend equals the loop over steps for every cell; by hand; PyTorch's own RNNs; types and layouts."""

from functools import partial

import pytest
import torch
from torch import nn

from detection.cells import GRU, IRNN, LSTM, MUT2, S6, Accumulator, IndRNN, MinGRU, TanhRNN, TiedLSTM
from detection.errors import UserError
from detection.ops.sweep.cudnn import cudnn_computes
from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.dispatch import sweep, sweep_by_steps
from detection.ops.sweep.lines import by_axis
from tests.ops.sweeps import (
    LINEAR,
    PRODUCTS,
    SIZE,
    B,
    H,
    W,
    assert_backends_agree,
    corner,
    draw,
    every_cell,
    fast_cells,
    holes,
    make,
    name_of,
    with_gradients,
)


@every_cell
@pytest.mark.parametrize("mask", [None, corner, holes], ids=["all", "corner", "holes"])
def test_every_backend_equals_the_loop(cell, mask):
    torch.manual_seed(0)
    valid = None if mask is None else mask()
    for directions in (DIRECTIONS, ("left", "right", "down"), ("left", "up", "right"), ("up",)):
        cells = make(cell, directions)
        x, grad = draw(cells)
        backends = ["auto", "lines"]
        if cell in PRODUCTS and cudnn_computes(cell, valid):
            backends.append("cudnn")
        assert_backends_agree(backends, cells, x, valid, directions, grad)


@every_cell
def test_without_bias(cell):
    torch.manual_seed(0)
    cells = make(cell, bias=False)
    x, grad = draw(cells)
    backends = ["auto", "cudnn"] if cell in PRODUCTS else ["auto"]
    assert_backends_agree(backends, cells, x, holes() if cell is not TanhRNN else None, DIRECTIONS, grad)


@every_cell
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 4), (2, 4, 1), (0, 3, 4)], ids=str)
def test_thin_maps_and_no_images(cell, shape):
    torch.manual_seed(0)
    cells = make(cell)
    x, grad = draw(cells, shape)
    assert_backends_agree(["auto"], cells, x, corner(shape), DIRECTIONS, grad)


@fast_cells
def test_memory_layouts(cell):
    torch.manual_seed(0)
    cells = make(cell)
    x, grad = draw(cells)
    expected = with_gradients("auto", cells, x, corner(), DIRECTIONS, grad)
    assert expected[0].is_contiguous(memory_format=torch.channels_last)
    wide = x.detach().repeat_interleave(2, 3).requires_grad_()
    found = with_gradients("auto", cells, wide[..., ::2], corner(), DIRECTIONS, grad.expand_as(grad).mT.contiguous().mT)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    for a, b in zip(with_gradients("auto", cells, last, corner(), DIRECTIONS, grad), expected, strict=True):
        torch.testing.assert_close(a, b)


@every_cell
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_types(cell, dtype, autocast):
    """Half precision in and out is that of a float32 scan, rounded once."""
    torch.manual_seed(0)
    cells = make(cell, dtype=torch.float32)
    x, grad = draw(cells, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = sweep(cells, x, holes(), DIRECTIONS)
        exact = sweep_by_steps(cells, x.float(), holes(), DIRECTIONS)
    assert y.dtype == dtype
    torch.testing.assert_close(y, exact.to(dtype), rtol=1e-2 if dtype != torch.float32 else 1e-5, atol=1e-5)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.1}
    assert_backends_agree(["auto"], cells, x, holes(), DIRECTIONS, grad, **tolerance)


@pytest.mark.parametrize(
    "cell, theirs",
    [(TanhRNN, nn.RNN), (IRNN, partial(nn.RNN, nonlinearity="relu")), (LSTM, nn.LSTM), (GRU, nn.GRU)],
    ids=["tanh", "relu", "lstm", "gru"],
)
@pytest.mark.parametrize("along", ["rows", "columns"])
def test_equals_pytorchs_bidirectional_rnn(cell, theirs, along):
    torch.manual_seed(0)
    directions = ("right", "left") if along == "rows" else ("down", "up")
    theirs = theirs(5, SIZE, bidirectional=True)
    cells, projections = [], []
    for suffix in ("", "_reverse"):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ours = cell(SIZE, 5)
        ours.load_state_dict({n: getattr(theirs, f"{n}_l0{suffix}") for n in names})
        cells.append(ours)
        projections.append(ours.project)
    x = torch.randn(B, 5, H, W)
    rows = x.permute(0, 2, 3, 1)
    found = torch.cat(
        [
            sweep([ours], project(rows).permute(0, 3, 1, 2), None, [d])
            for ours, project, d in zip(cells, projections, directions, strict=True)
        ],
        dim=1,
    )
    lines = x.permute(3, 0, 2, 1) if along == "rows" else x.permute(2, 0, 3, 1)
    expected = theirs(lines.flatten(1, 2))[0].unflatten(1, lines.shape[1:3])  # (T, B, lines, 2·D)
    expected = expected.permute(1, 3, 2, 0) if along == "rows" else expected.permute(1, 3, 0, 2)
    torch.testing.assert_close(found, expected)


@every_cell
def test_what_is_not_finite_outside_of_an_image_is_not_read(cell):
    torch.manual_seed(0)
    cells, mask = make(cell), corner()
    x, _ = draw(cells)
    expected = sweep(cells, torch.where(mask, x, 0.0), mask, DIRECTIONS)
    assert torch.equal(sweep(cells, torch.where(mask, x, torch.nan), mask, DIRECTIONS), expected)


def test_accumulator_by_hand():
    x = torch.tensor([[1.0, -3, 2, 1], [0, 2, -1, -2], [-1, 1, 1, 1]]).view(1, 1, 3, 4).requires_grad_()
    y = sweep([Accumulator(1)] * 4, x, None, DIRECTIONS)
    right, left, down, up = y[0].tolist()
    assert right == [[1, 0, 2, 3], [0, 2, 1, 0], [0, 1, 2, 3]]
    assert left == [[1, 0, 3, 1], [2, 2, 0, 0], [2, 3, 2, 1]]
    assert down == [[1, 0, 2, 1], [1, 2, 1, 0], [0, 3, 2, 1]]
    assert up == [[1, 0, 2, 1], [0, 3, 0, 0], [0, 1, 1, 1]]
    (grad,) = torch.autograd.grad(y[:, :1].sum(), x)
    # To the right, each x counts once for every location that its sum reaches before it falls to 0.
    assert grad[0, 0].tolist() == [[1, 0, 2, 1], [0, 2, 1, 0], [0, 3, 2, 1]]


def test_cells_of_several_classes_and_subclasses_are_scanned_by_their_steps():
    class Doubled(Accumulator):
        def step(self, x, state):
            return (2 * super().step(x, state)[0],)

    torch.manual_seed(0)
    for cells in ([Doubled(SIZE), Doubled(SIZE)], [Accumulator(SIZE), IndRNN(SIZE)]):
        x = torch.randn(B, SIZE, H, W)
        directions = ("right", "up")
        torch.testing.assert_close(sweep(cells, x, None, directions), sweep_by_steps(cells, x, None, directions))


@pytest.mark.parametrize("backend", ["auto", "lines", "steps"])
def test_a_bounded_ind_rnn_equals_a_naive_loop(backend):
    torch.manual_seed(0)
    bound, right = 2 ** (1 / 5), IndRNN(SIZE, bound_length=5).double()
    with torch.no_grad():
        right.weight_hh.copy_(torch.tensor([4.0, -4.0, 0.7]))
    x = torch.randn(B, SIZE, H, W, dtype=torch.float64, requires_grad=True)
    h, expected = torch.zeros(B, SIZE, H, dtype=torch.float64), []
    for t in range(W):
        h = (x[..., t] + torch.stack([bound * h[:, 0], -bound * h[:, 1], right.weight_hh[2] * h[:, 2]], 1)).clamp(min=0)
        expected.append(h)
    expected, found = torch.stack(expected, 3), sweep([right], x, None, ["right"], backend=backend)
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        *(torch.autograd.grad(y.square().sum(), [x, right.weight_hh]) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cell", LINEAR, ids=name_of)
@pytest.mark.parametrize("mask", [None, corner, holes], ids=["all", "corner", "holes"])
def test_coefficients_scanned_as_on_an_accelerator_equal_the_loop(cell, mask, monkeypatch):
    """The CPU computes gates step by step; `linear_scan` reads all coefficients, as its Triton kernel does."""
    torch.manual_seed(0)
    cells, valid = make(cell), None if mask is None else mask()
    x, grad = draw(cells)
    monkeypatch.setattr("detection.ops.sweep.dispatch._scans_gates", lambda x: False)
    assert_backends_agree(["auto"], cells, x, valid, DIRECTIONS, grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cell", [LSTM, GRU], ids=name_of)
@pytest.mark.parametrize("chunk", [8, 18, 1000])
def test_directions_scanned_together_as_on_an_accelerator_equal_the_loop(cell, chunk, monkeypatch):
    """The CPU scans one direction after the other; its last chunk may be shorter."""
    torch.manual_seed(0)
    cells = make(cell)
    x, grad = draw(cells)
    monkeypatch.setattr("detection.ops.sweep.autograd.groups", lambda directions, device: by_axis(directions))
    monkeypatch.setattr("detection.ops.sweep.autograd.CHUNK", chunk)
    assert_backends_agree(["auto"], cells, x, corner(), DIRECTIONS, grad, rtol=1e-10, atol=1e-10)


class Negative(S6):
    """Another step than that of its scan."""

    def step(self, x, state):
        y, h = super().step(x, state)
        return -y, h


class OtherCoefficients(S6):
    def coefficients(self, x):
        a, b = super().coefficients(x)
        return a, 2 * b


@pytest.mark.parametrize("kind", [Negative, OtherCoefficients])
def test_a_subclass_with_another_step_is_not_computed_by_the_scan_of_its_parent(kind):
    torch.manual_seed(0)
    cells = make(kind)
    x, grad = draw(cells)
    assert_backends_agree(["auto", "lines"], cells, x, holes(), DIRECTIONS, grad)
    plain = make(S6)
    for ours, own in zip(plain, cells, strict=True):
        ours.load_state_dict(own.state_dict())
    assert not torch.allclose(sweep(plain, x, None, DIRECTIONS), sweep(cells, x, None, DIRECTIONS))
    assert not kind.computes_step and S6.computes_step and MinGRU.computes_step and LSTM.computes_step


@pytest.mark.parametrize(
    ("cell", "backend", "masked"),
    [
        (MUT2, "ours", False),
        (MUT2, "cudnn", False),
        (TiedLSTM, "ours", False),
        (partial(GRU, reset="before"), "cudnn", False),
        (partial(LSTM, learned_initial_state=True), "ours", False),
        (TanhRNN, "cudnn", True),
        (Negative, "ours", False),
    ],
)
def test_a_backend_that_would_compute_another_cell_is_refused(cell, backend, masked):
    cells = make(cell)
    x, _ = draw(cells)
    with pytest.raises(UserError, match=f"backend='{backend}' has no operation for these cells"):
        sweep(cells, x, holes() if masked else None, DIRECTIONS, backend=backend)


def test_an_unknown_direction_is_refused():
    cells = make(LSTM, ["right"])
    with pytest.raises(UserError, match="no direction is called 'rigth'; known are right, left, down, up, down_right"):
        sweep(cells, draw(cells)[0], None, ["rigth"])
