"""Long lines in pieces are as in one and as step by step, at a cost that grows with their length."""

from collections import Counter

import pytest
import torch
from torch.nn.functional import logsigmoid
from torch.utils._python_dispatch import TorchDispatchMode

from detection.analysis.timing import peak_bytes
from detection.cells import MLSTM, SSD
from detection.ops.sweep.decay_matrix import matrix_memory, state_space_dual
from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.dispatch import sweep
from tests.ops.sweeps import SIZE, corner, draw, holes, make, with_gradients

B, LINES, LENGTH, HEADS, WIDTH, STATES = 2, 3, 23, 2, 2, 3
EXACT = {"rtol": 1e-10, "atol": 1e-10}
either = pytest.mark.parametrize("kind", ["ssd", "mlstm"])
every_cell = pytest.mark.parametrize("cell", [SSD, MLSTM])


def drawn(kind, length=LENGTH, dtype=torch.float64):
    """An operation and its arguments but the mask and the order."""
    torch.manual_seed(0)
    shape = B, LINES, length
    wide = [torch.randn(*shape, HEADS * WIDTH, dtype=dtype) for _ in range(3)]
    if kind == "mlstm":
        take, keep = (3 * torch.randn(*shape, HEADS, dtype=dtype) for _ in range(2))
        arguments = *wide, take, logsigmoid(keep + 2)
    else:
        step, read = torch.rand(*shape, HEADS, dtype=dtype), torch.randn(2, *shape, STATES, dtype=dtype)
        arguments = wide[0], step, -torch.rand(HEADS, dtype=dtype), *read
    return matrix_memory if kind == "mlstm" else state_space_dual, [t.requires_grad_() for t in arguments]


def mask():
    """Complete lines, and holes of which some are within a piece, some are all of it and some at its ends."""
    inside = torch.rand(B, LINES, LENGTH) > 0.25
    inside[0], inside[1, 0, 3:12] = True, False
    return inside


def found(operation, arguments, inside, reverse):
    y = operation(*arguments, inside, reverse)
    return [y, *torch.autograd.grad(y, arguments, torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))]


@either
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_pieces_are_as_one(kind, masked, reverse, monkeypatch):
    operation, arguments = drawn(kind)
    inside = mask() if masked else None
    complete = found(operation, arguments, inside, reverse)
    assert inside is None or not complete[0][~inside].any()
    for piece in (1, 2, 5, 6, 22):
        monkeypatch.setattr("detection.ops.sweep.decay_matrix.PIECE", piece)
        for a, b in zip(found(operation, arguments, inside, reverse), complete, strict=True):
            torch.testing.assert_close(a, b, **EXACT)


@every_cell
@pytest.mark.parametrize("mask", [corner, holes])
def test_a_sweep_of_several_pieces_equals_steps(cell, mask, monkeypatch):
    monkeypatch.setattr("detection.ops.sweep.decay_matrix.PIECE", 4)
    torch.manual_seed(0)
    cells, shape = make(cell), (2, 14, 11)
    x, grad = draw(cells, shape)
    expected = with_gradients("steps", cells, x, mask(shape), DIRECTIONS, grad)
    for a, b in zip(with_gradients("auto", cells, x, mask(shape), DIRECTIONS, grad), expected, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@either
def test_gradcheck(kind, monkeypatch):
    monkeypatch.setattr("detection.ops.sweep.decay_matrix.PIECE", 3)
    operation, arguments = drawn(kind, 7)
    inside = mask()[:, :, :7]
    assert torch.autograd.gradcheck(lambda *tensors: operation(*tensors, inside, True), arguments)


@either
def test_nothing_outside_counts(kind, monkeypatch):
    """Neither does it have a value, whatever stands there, nor a gradient."""
    monkeypatch.setattr("detection.ops.sweep.decay_matrix.PIECE", 5)
    operation, arguments = drawn(kind)
    inside = mask()
    expected, *gradients = found(operation, arguments, inside, False)
    at_steps = [t.shape[:3] == inside.shape for t in arguments]
    for gradient, own in zip(gradients, at_steps, strict=True):
        assert not own or gradient[~inside].abs().max() < 1e-12
    others = [torch.where(inside[..., None], t, -7.0) if own else t for t, own in zip(arguments, at_steps, strict=True)]
    torch.testing.assert_close(operation(*others, inside, False), expected, **EXACT)


@either
@pytest.mark.parametrize("reverse", [False, True])
def test_float32_is_close_over_a_long_line(kind, reverse):
    operation, arguments = drawn(kind, 700)
    exact = operation(*arguments, None, reverse)
    single = operation(*(t.float() for t in arguments), None, reverse)
    assert (single - exact).abs().max() < 1e-4 * exact.abs().max()


@every_cell
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_of_half_precision_are_float32(cell, dtype, monkeypatch):
    monkeypatch.setattr("detection.ops.sweep.decay_matrix.PIECE", 4)
    torch.manual_seed(0)
    cells = make(cell, dtype=torch.float32)
    x = draw(cells, (2, 3, 30), dtype)[0].detach()
    expected = sweep(cells, x.float(), None, DIRECTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(sweep(cells, x, None, DIRECTIONS), expected.to(dtype))


@every_cell
def test_several_pieces_compile_without_graph_breaks(cell, monkeypatch):
    monkeypatch.setattr("detection.ops.sweep.decay_matrix.PIECE", 3)
    torch.manual_seed(0)
    torch._dynamo.reset()
    cells = make(cell, ("left",))
    x, grad = draw(cells, (1, 2, 8))

    def run(x, valid):
        return sweep(cells, x, valid, ("left",))

    valid = corner((1, 2, 8))
    compiled, expected = torch.compile(run, fullgraph=True, backend="aot_eager")(x, valid), run(x, valid)
    torch.testing.assert_close(compiled, expected)
    for a, b in zip(torch.autograd.grad(compiled, x, grad), torch.autograd.grad(expected, x, grad), strict=True):
        torch.testing.assert_close(a, b)


@either
def test_memory_grows_with_the_length(kind, monkeypatch):
    """And not with its square."""
    monkeypatch.setattr("detection.ops.sweep.decay_matrix.PIECE", 16)

    def peak(length):
        operation, arguments = drawn(kind, length, torch.float32)
        return peak_bytes(lambda: found(operation, arguments, None, False), "cpu")

    assert peak(1024) < 4.5 * peak(256)


class _Called(TorchDispatchMode):
    """Count the operations of PyTorch that are called."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[func.name()] += 1
        return func(*args, **(kwargs or {}))


@either
def test_no_piece_waits_for_another(kind, monkeypatch):
    """Twenty pieces are as many operations as two."""
    monkeypatch.setattr("detection.ops.sweep.decay_matrix.PIECE", 4)

    def called(length):
        operation, arguments = drawn(kind, length)
        with _Called() as mode:
            found(operation, arguments, None, False)
        return mode.names

    assert called(80) == called(8)


@pytest.mark.parametrize("scale", [0.0, 200.0])
@pytest.mark.parametrize("backend", ["auto", "steps"])
def test_what_reads_nothing_is_0_with_a_finite_gradient(scale, backend):
    """q = 0, where the 1 of the denominator is too small for float32 beside a large i."""
    torch.manual_seed(0)
    cell = MLSTM(SIZE, bias=False)
    x = torch.randn(2, cell.projection_channels, 1, 6)
    x[:, :SIZE] = 0
    x[:, 4 * SIZE : 4 * SIZE + cell.num_heads] = scale
    x.requires_grad_()
    y = sweep([cell], x, None, ["right"], backend=backend)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert not y.any() and gradient.isfinite().all()
