"""Every cell's step equals its formula in float64; PyTorch's weights load; states stay in float32."""

from functools import partial

import pytest
import torch
from torch import nn

from detection import cells
from detection.cells import SSD
from detection.cells.linear import _bounded_root
from detection.config.serialization import from_plain
from detection.errors import UserError
from detection.ops.sweep.dispatch import sweep
from tests.cells.formulas import CELLS, naive_step, state_space_step

N, INPUT, SIZE = 4, 3, 2


def make(name, **settings):
    """A cell in float64 with every parameter drawn at random, so that none is hidden by an initial 0."""
    torch.manual_seed(0)
    cell = CELLS[name](SIZE, INPUT, **settings).double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter, std=0.7)
    return cell


def case(cell):
    x = torch.randn(N, INPUT, dtype=torch.float64, requires_grad=True)
    return x, tuple(torch.randn(N, size, dtype=torch.float64, requires_grad=True) for size in cell.state_sizes)


@pytest.mark.parametrize("name", CELLS)
def test_a_step_equals_the_formula(name):
    cell = make(name)
    x, state = case(cell)
    projected = [x @ m + b for m, b in zip(cell.weight_ih, cell.bias_ih, strict=True)]
    found, expected = cell(x, state), naive_step(name, cell, torch.stack(projected, 1), state)
    assert len(found) == cell.num_states
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", CELLS)
def test_gradcheck(name):
    cell = make(name)
    x, state = case(cell)
    names, parameters = zip(*cell.named_parameters(), strict=True)

    def step(x, *rest):
        state, values = rest[: cell.num_states], rest[cell.num_states :]
        return torch.func.functional_call(cell, dict(zip(names, values, strict=True)), (x, tuple(state)))

    assert torch.autograd.gradcheck(step, (x, *state, *parameters))


@pytest.mark.parametrize("name", CELLS)
def test_the_sides_make_a_step_and_rows_are_independent(name):
    cell = make(name)
    x, state = case(cell)
    together = cell(x, state)
    assert cell.project(x).shape == (N, cell.projection_channels)
    for a, b in zip(cell.step(cell.project(x), state), together, strict=True):
        assert torch.equal(a, b)
    for row in range(N):
        alone = cell(x[row : row + 1], tuple(s[row : row + 1] for s in state))
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[row])


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_without_an_input_side_and_from_zeros(name, bias):
    cell = CELLS[name](SIZE, bias=bias)
    assert not hasattr(cell, "weight_ih")
    assert bias or not any("bias" in n for n, _ in cell.named_parameters())
    x = torch.randn(N, cell.projection_channels)
    state = cell(x)
    assert [s.shape for s in state] == [(N, size) for size in cell.state_sizes]
    for a, b in zip(cell(x, tuple(torch.zeros(N, size) for size in cell.state_sizes)), state, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", CELLS)
def test_states_stay_in_float32_under_autocast(name):
    cell = CELLS[name](SIZE, INPUT)
    with torch.autocast("cpu", torch.bfloat16):
        state = cell(torch.randn(N, INPUT))
        state = cell(torch.randn(N, INPUT), state)
    assert all(s.dtype == torch.float32 for s in state)


@pytest.mark.parametrize("name", CELLS)
def test_a_step_has_the_same_bits_under_autocast(name):
    torch.manual_seed(0)
    cell = CELLS[name](SIZE)
    x, state = torch.randn(N, cell.projection_channels), tuple(torch.randn(N, size) for size in cell.state_sizes)
    exact = cell(x, state)
    with torch.autocast("cpu", torch.bfloat16):
        found = cell(x, state)
    assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "cell, theirs",
    [
        (cells.TanhRNN, nn.RNNCell),
        (cells.IRNN, partial(nn.RNNCell, nonlinearity="relu")),
        (cells.LSTM, nn.LSTMCell),
        (cells.GRU, nn.GRUCell),
    ],
)
def test_pytorchs_weights_load(cell, theirs, bias):
    torch.manual_seed(0)
    ours, theirs = cell(SIZE, INPUT, bias=bias), theirs(INPUT, SIZE, bias=bias)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x, state = torch.randn(N, INPUT), tuple(torch.randn(N, SIZE) for _ in range(ours.num_states))
    expected = theirs(x, state if ours.num_states == 2 else state[0])
    for a, b in zip(ours(x, state), expected if ours.num_states == 2 else (expected,), strict=True):
        torch.testing.assert_close(a, b)


def test_initial_weights():
    irnn = cells.IRNN(SIZE, INPUT)
    assert torch.equal(irnn.weight_hh, torch.eye(SIZE)) and not irnn.bias_hh.any() and not irnn.bias_ih.any()
    torch.manual_seed(0)
    assert cells.IRNN(100, 100).weight_ih.std().item() == pytest.approx(0.001, rel=0.03)
    assert torch.equal(cells.IndRNN(SIZE).weight_hh, torch.ones(SIZE))
    assert not cells.PeepholeLSTM(SIZE).peephole.any()
    assert not list(cells.Accumulator(SIZE).parameters())


def test_min_lstm_has_no_0_over_0():
    cell = cells.MinLSTM(1, bias=False)
    x = torch.tensor([[-200.0, -200.0, 3.0]], requires_grad=True)
    (h,) = cell(x, (torch.ones(1, 1),))
    h.sum().backward()
    assert h.item() == pytest.approx(2.0) and x.grad.isfinite().all()


@pytest.mark.parametrize("name", CELLS)
def test_reset_parameters_gives_the_weights_of_construction(name):
    """Equal values under one seed, also where the initialization is not random."""
    torch.manual_seed(0)
    built = CELLS[name](SIZE, INPUT)
    again = CELLS[name](SIZE, INPUT)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.fill_(7)
    torch.manual_seed(0)
    again.reset_parameters()
    for key, value in built.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["s6", "ssd"])
def test_an_identity_step_changes_no_state(name):
    cell = make(name)
    _, state = case(cell)
    values = zip(cell.projection_sizes, cell.identity_step, strict=True)
    x = torch.cat([torch.full((N, size), value, dtype=torch.float64) for size, value in values], 1).requires_grad_()
    found = cell.step(x, state)
    assert torch.equal(found[1], state[1])
    gradients = torch.autograd.grad(found[1].sum(), [x, *cell.parameters()], allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in gradients)


def test_the_list_of_cells_is_complete():
    classes = {v for v in vars(cells).values() if isinstance(v, type) and issubclass(v, cells.Cell)}
    assert set(cells.CELLS) == classes - {cells.Cell, cells.LinearCell, cells.ScannedCell, cells.StateSpace}


@pytest.mark.parametrize("bound_length", [1, 3, 50])
def test_the_recurrent_weight_of_an_ind_rnn_is_bounded(bound_length):
    bound = 2 ** (1 / bound_length)
    cell = cells.IndRNN(4, bound_length=bound_length).double()
    with torch.no_grad():
        cell.weight_hh.copy_(torch.tensor([0.5, -3.0, 3.0, 1.0]))
    h = torch.rand(1, 4, dtype=torch.float64)
    x = torch.full((1, 4), 5.0, dtype=torch.float64)
    expected = [5 + u * value for u, value in zip((0.5, -bound, bound, 1.0), h[0].tolist(), strict=True)]
    (found,) = cell(x, (h,))
    assert found[0].tolist() == pytest.approx(expected)
    found.sum().backward()
    assert cell.weight_hh.grad.tolist() == pytest.approx([h[0, 0].item(), 0, 0, h[0, 3].item()])
    # A state that grows by the bound has doubled after `bound_length` steps.
    state = (torch.ones(1, 4, dtype=torch.float64),)
    for _ in range(bound_length):
        state = cell(torch.zeros(1, 4, dtype=torch.float64), state)
    assert state[0][0, 2].item() == pytest.approx(2)


def test_an_ind_rnn_refuses_a_bound_over_no_steps():
    with pytest.raises(UserError, match="cell.bound_length=0: must be at least 1"):
        from_plain(partial(cells.IndRNN, bound_length=0), partial[cells.IndRNN], "cell")


@pytest.mark.parametrize("backend", ["auto", "steps"])
def test_heads_of_several_channels(backend):
    torch.manual_seed(0)
    cell = SSD(6, num_heads=2, state_size=3).double()
    for parameter in cell.parameters():
        parameter.data.normal_(std=0.5)
    x = torch.randn(2, cell.projection_channels, 1, 7, dtype=torch.float64)
    found, state = sweep([cell], x, None, ["right"], backend=backend)[:, :, 0], cell.initial_state(x)
    for t in range(7):
        state = state_space_step(cell, x[:, :, 0, t], state)
        torch.testing.assert_close(found[..., t], state[0])


def test_the_roots_gradient_is_bounded():
    x = torch.tensor([0.0, 1e-9, 1e-6, 0.25], dtype=torch.float64, requires_grad=True)
    y = _bounded_root(x)
    (g,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, x.sqrt())
    torch.testing.assert_close(g, torch.tensor([1000.0, 1000, 500, 1], dtype=torch.float64))
