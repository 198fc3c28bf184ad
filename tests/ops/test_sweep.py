"""Every backend equals the loop over steps for every cell; by hand; PyTorch's own RNNs; masks, types, compiling."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import detection.ops.flops  # noqa: F401 - registers the formulas
from detection.analysis.timing import peak_bytes
from detection.cells import (
    GRU,
    IRNN,
    LSTM,
    MUT1,
    MUT2,
    MUT3,
    RGLRU,
    Accumulator,
    GatedLinear,
    IndRNN,
    MinGRU,
    MinLSTM,
    PeepholeLSTM,
    TanhRNN,
    TiedLSTM,
)
from detection.ops.sweep.accumulate import accumulate
from detection.ops.sweep.cudnn import cudnn_computes
from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.dispatch import sweep, sweep_by_steps
from detection.ops.sweep.gated_scan import gated_scan
from detection.ops.sweep.gru import gru
from detection.ops.sweep.linear_scan import linear_scan
from detection.ops.sweep.lines import by_axis
from detection.ops.sweep.lstm import lstm
from detection.ops.sweep.matrix_rnn import matrix_rnn

B, SIZE, H, W = 2, 3, 3, 4
POINTWISE = [Accumulator, IndRNN, MinGRU, MinLSTM, GatedLinear, RGLRU]
PRODUCTS = [TanhRNN, IRNN, LSTM, GRU]
OTHERS = [TiedLSTM, PeepholeLSTM, partial(GRU, reset="before"), MUT1, MUT2, MUT3]
CELLS = POINTWISE + PRODUCTS + OTHERS


def name_of(value):
    return getattr(value, "__name__", None) or (f"{value.func.__name__}_before" if callable(value) else str(value))


every_cell = pytest.mark.parametrize("cell", CELLS, ids=name_of)
fast_cells = pytest.mark.parametrize("cell", POINTWISE + PRODUCTS, ids=name_of)


def make(cell, directions=DIRECTIONS, dtype=torch.float64, **settings):
    """A cell for each direction, every parameter drawn at random."""
    cells = [cell(SIZE, **settings).to(dtype) for _ in directions]
    for parameter in (p for c in cells for p in c.parameters()):
        nn.init.normal_(parameter, std=0.6)
    return cells


def draw(cells, shape=(B, H, W), dtype=torch.float64):
    b, h, w = shape
    x = torch.randn(b, cells[0].gates * SIZE, h, w, dtype=dtype, requires_grad=True)
    return x, torch.randn(b, len(cells) * SIZE, h, w, dtype=dtype)


def corner(shape=(B, H, W)):
    """The first image is smaller than the map, in its top left."""
    valid = torch.ones(shape[0], 1, *shape[1:], dtype=torch.bool)
    valid[:1, :, (shape[1] + 1) // 2 :] = False
    valid[:1, :, :, (shape[2] + 1) // 2 :] = False
    return valid


def holes(shape=(B, H, W)):
    return torch.rand(shape[0], 1, *shape[1:], generator=torch.Generator().manual_seed(1)) > 0.3


def with_gradients(backend, cells, x, valid, directions, grad):
    """Output and gradients of x and every parameter."""
    y = sweep(cells, x, valid, directions, backend=backend)
    parameters = [p for c in cells for p in c.parameters()]
    return [y, *torch.autograd.grad(y, [x, *parameters], grad)]


def assert_backends_agree(backends, cells, x, valid, directions, grad, **tolerance):
    expected = with_gradients("steps", cells, x, valid, directions, grad)
    for backend in backends:
        for a, b in zip(with_gradients(backend, cells, x, valid, directions, grad), expected, strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, **tolerance)


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


@every_cell
def test_alone_is_as_in_a_padded_batch(cell):
    torch.manual_seed(0)
    cells = make(cell, dtype=torch.float32)
    x, _ = draw(cells, dtype=torch.float32)
    valid = corner()
    h, w = (H + 1) // 2, (W + 1) // 2
    batched = sweep(cells, x, valid, DIRECTIONS)[:1, :, :h, :w]
    alone = sweep(cells, x[:1, :, :h, :w], None, DIRECTIONS)
    if cell in (Accumulator, IndRNN):
        assert torch.equal(batched, alone)
    else:
        torch.testing.assert_close(batched, alone, rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("op", [accumulate, gated_scan, linear_scan, matrix_rnn, lstm, gru], ids=lambda op: op._name)
def test_operations_are_what_pytorch_asks_of_them(op):
    torch.manual_seed(0)
    gates = {lstm: 4, gru: 3, linear_scan: 2, gated_scan: 3}
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
    }
    torch.library.opcheck(op, arguments[op])


@fast_cells
def test_gradcheck(cell):
    torch.manual_seed(0)
    cells = make(cell, ("left", "down"))
    x, _ = draw(cells, (1, 2, 3))
    parameters = [p for c in cells for p in c.parameters()]
    assert torch.autograd.gradcheck(
        lambda x, *_: sweep(cells, x, corner((1, 2, 3)), ("left", "down")), (x, *parameters)
    )


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


def test_neighbors_along_an_axis_are_scanned_together():
    assert by_axis("right left down up") == [(slice(0, 2), ["right", "left"]), (slice(2, 4), ["down", "up"])]
    assert by_axis("left up right") == [(slice(0, 1), ["left"]), (slice(1, 2), ["up"]), (slice(2, 3), ["right"])]


@pytest.mark.parametrize(
    "cell, forward, backward",
    [
        # 4 directions x 2·3·3·4 = 72 values: additions and maxima; sums, masks and the sum over directions.
        (Accumulator, 4 * 72 * 2, 4 * 72 * 3),
        (IndRNN, 4 * 72 * 3, 4 * 72 * 6),
        (MinGRU, 4 * 72 * 2, 4 * 72 * 3),
        # 4 directions x 24 locations x 3·3 products of 2, for each gate; and twice in the backward pass.
        (IRNN, 4 * 24 * 9 * 2, 4 * 24 * 9 * 4),
        (LSTM, 4 * 24 * 9 * 2 * 4, 4 * 24 * 9 * 4 * 4),
        (GRU, 4 * 24 * 9 * 2 * 3, 4 * 24 * 9 * 4 * 3),
    ],
    ids=name_of,
)
def test_operations_are_counted(cell, forward, backward):
    cells = [cell(SIZE) for _ in DIRECTIONS]
    x = torch.randn(B, cells[0].gates * SIZE, H, W, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y = sweep(cells, x, None, DIRECTIONS)
    assert counter.get_total_flops() == forward
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == backward


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


class _Returned(TorchDispatchMode):
    """Count the numbers that our operations return."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.namespace == "detection":
            self.numbers += sum(t.numel() for t in (found if isinstance(found, tuple) else (found,)))
        return found


@pytest.mark.parametrize("cell", [LSTM, GRU], ids=name_of)
def test_states_are_kept_for_a_backward_pass_only(cell):
    """Gates and a state at each location and direction, where something learns and gradients are on."""
    cells = nn.ModuleList(cell(SIZE) for _ in DIRECTIONS)
    x = torch.randn(B, cells[0].gates * SIZE, H, W)
    output = len(DIRECTIONS) * B * SIZE * H * W
    states = output * (cells[0].gates + 1)

    def returned(x):
        with _Returned() as mode:
            sweep(list(cells), x, None, DIRECTIONS)
        return mode.numbers

    assert returned(x) == output + states
    with torch.no_grad():
        assert returned(x.clone().requires_grad_()) == output
    cells.requires_grad_(False)
    assert returned(x) == output and returned(x.clone().requires_grad_()) == output + states


@pytest.mark.parametrize("cell", [MinGRU, MinLSTM, GatedLinear, RGLRU])
@pytest.mark.parametrize("mask", [None, corner, holes], ids=["all", "corner", "holes"])
def test_coefficients_scanned_as_on_an_accelerator_equal_the_loop(cell, mask, monkeypatch):
    """The CPU computes gates step by step; `linear_scan` reads all coefficients, as its Triton kernel does."""
    torch.manual_seed(0)
    cells, valid = make(cell), None if mask is None else mask()
    x, grad = draw(cells)
    monkeypatch.setattr("detection.ops.sweep.dispatch._scans_gates", lambda x: False)
    assert_backends_agree(["auto"], cells, x, valid, DIRECTIONS, grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cell", [MinGRU, MinLSTM, GatedLinear, RGLRU])
def test_scratch_of_linear_cells_is_small(cell):
    """Beyond input, output and their gradients at most two maps a direction, of both passes together."""
    cells = nn.ModuleList(cell(32) for _ in DIRECTIONS)
    x = torch.randn(2, cells[0].gates * 32, 20, 24).contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn(2, 128, 20, 24).contiguous(memory_format=torch.channels_last)
    held = peak_bytes(lambda: torch.autograd.grad(sweep(list(cells), x, None, DIRECTIONS), [x], grad), "cpu")
    assert (held - grad.nbytes - x.nbytes) / grad.nbytes <= 2
