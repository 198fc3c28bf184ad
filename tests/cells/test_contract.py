"""What a sweep of every cell must do: equal a loop over locations, alone as in a batch, gradients as differences."""

import pytest
import torch
from torch import nn

from detection import cells as kinds
from detection.errors import UserError
from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.dispatch import sweep
from tests.cells.formulas import CELLS, naive_step
from tests.ops.sweeps import corner, holes

SIZE, SHAPE = 2, (2, 3, 4)
EXACT = {"rtol": 1e-10, "atol": 1e-10}
every_cell = pytest.mark.parametrize("name", CELLS)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """Passes go over several pieces, the last of which is shorter than the others."""
    monkeypatch.setattr("detection.ops.sweep.autograd.CHUNK", 18)
    monkeypatch.setattr("detection.ops.sweep.selective_scan.PIECE", 14)
    monkeypatch.setattr("detection.ops.sweep.decay_matrix.PIECE", 3)


def make(name, directions=DIRECTIONS):
    """A cell for each direction in float64, every parameter drawn at random."""
    torch.manual_seed(0)
    made = nn.ModuleList(CELLS[name](SIZE).double() for _ in directions)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.6)
    return made


def draw(made, shape=SHAPE):
    b, h, w = shape
    x = torch.randn(b, made[0].projection_channels, h, w, dtype=torch.float64, requires_grad=True)
    return x, torch.randn(b, len(made) * SIZE, h, w, dtype=torch.float64)


def gradients(y, x, made, grad):
    return torch.autograd.grad(y, [x, *made.parameters()], grad)


def naive_sweep(name, made, x, valid):
    """Location by location in the order of each direction; outside of the mask states are 0."""
    b, _, h, w = x.shape
    outputs = []
    for cell, direction in zip(made, DIRECTIONS, strict=True):
        states = {}
        for n in range(b):
            for i in range(h)[:: -1 if direction == "up" else 1]:
                for j in range(w)[:: -1 if direction == "left" else 1]:
                    di, dj = {"right": (0, -1), "left": (0, 1), "down": (-1, 0), "up": (1, 0)}[direction]
                    zeros = tuple(torch.zeros(1, size, dtype=x.dtype) for size in cell.state_sizes)
                    if valid is None or valid[n, 0, i, j]:
                        before = states.get((n, i + di, j + dj), zeros)
                        states[n, i, j] = naive_step(name, cell, x[n : n + 1, :, i, j], before)
                    else:
                        states[n, i, j] = zeros
        places = [states[n, i, j][0][0] for n in range(b) for i in range(h) for j in range(w)]
        outputs.append(torch.stack(places).view(b, h, w, SIZE).permute(0, 3, 1, 2))
    return torch.cat(outputs, 1)  # (B, K·D, H, W)


def test_every_cell_is_here():
    assert {getattr(cell, "func", cell) for cell in CELLS.values()} == set(kinds.CELLS)


@every_cell
@pytest.mark.parametrize("mask", [None, corner, holes], ids=["all", "corner", "holes"])
def test_a_sweep_equals_a_loop_over_locations(name, mask):
    made, valid = make(name), None if mask is None else mask(SHAPE)
    x, grad = draw(made)
    found, expected = sweep(list(made), x, valid, DIRECTIONS), naive_sweep(name, made, x, valid)
    torch.testing.assert_close(found, expected, **EXACT)
    for a, b in zip(gradients(found, x, made, grad), gradients(expected, x, made, grad), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@every_cell
def test_alone_is_as_in_a_padded_batch(name):
    """Output and gradients; exactly nothing comes from the padding, and no gradient goes there."""
    made, valid = make(name), corner(SHAPE)
    x, grad = draw(made)
    h, w = (SHAPE[1] + 1) // 2, (SHAPE[2] + 1) // 2
    batched = sweep(list(made), x, valid, DIRECTIONS)
    other = torch.where(valid, x, torch.randn_like(x))
    assert torch.equal(sweep(list(made), other, valid, DIRECTIONS), batched)
    (of_batched,) = torch.autograd.grad(batched, x, grad)
    padded = ~valid[:1, 0]
    assert not batched[:1].movedim(1, -1)[padded].any() and not of_batched[:1].movedim(1, -1)[padded].any()
    alone_x = x[:1, :, :h, :w].detach().requires_grad_()
    alone = sweep(list(made), alone_x, None, DIRECTIONS)
    if name in ("accumulator", "ind_rnn"):
        assert torch.equal(batched[:1, :, :h, :w], alone)
    torch.testing.assert_close(batched[:1, :, :h, :w], alone, **EXACT)
    (of_alone,) = torch.autograd.grad(alone, alone_x, grad[:1, :, :h, :w])
    torch.testing.assert_close(of_batched[:1, :, :h, :w], of_alone, **EXACT)


@every_cell
def test_gradcheck(name):
    made = make(name, ("left", "down"))
    x, _ = draw(made, (1, 2, 3))
    valid = corner((1, 2, 3))
    assert torch.autograd.gradcheck(
        lambda x, *_: sweep(list(made), x, valid, ("left", "down")), (x, *made.parameters())
    )


class Bare(kinds.Cell):
    """Forgets the tuple around its state."""

    def step(self, x, state):
        return x.tanh() + 0.5 * state[0]


class Surplus(kinds.Cell):
    def step(self, x, state):
        return x.tanh(), state[0]


@pytest.mark.parametrize(("cell", "given"), [(Bare, "a Tensor"), (Surplus, "2")])
def test_a_step_that_returns_no_state_is_refused(cell, given):
    """The first row of a tensor was the state of all lines, without a word."""
    made, words = cell(SIZE), f"{cell.__name__}.step must return a tuple of num_states=1 tensors, not {given}"
    x = torch.randn(2, SIZE, 3, 4)
    for backend in ("lines", "steps"):
        with pytest.raises(UserError, match=words):
            sweep([made], x, None, ("right",), backend=backend)
    with pytest.raises(UserError, match=words):
        made(torch.randn(5, SIZE))
