"""Sweeps along diagonals: against a loop over locations, by hand, on any memory, compiled and exported."""

import numpy as np
import pytest
import torch
from torch import nn

from detection.cells import LSTM, RGLRU, Accumulator, IndRNN, MinGRU
from detection.errors import UserError
from detection.export.onnx_file import write_onnx
from detection.ops.sweep.directions import DIAGONALS
from detection.ops.sweep.dispatch import sweep
from detection.ops.sweep.shear import shear, unshear
from detection.ops.sweep.traced import lines_of_any_length
from tests.ops.sweeps import corner, draw, every_cell, holes, make, with_gradients

STEPS = {"down_right": (1, 1), "down_left": (1, -1), "up_right": (-1, 1), "up_left": (-1, -1),
         "right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}  # fmt: skip
MIXED = ("up_left", "right", "down_left", "up", "up_right", "down_right")


def naive(cells, x, valid, directions):
    """One location after the other, its state from the location before it along the direction, if that is inside."""
    b, _, height, width = x.shape
    outputs = []
    for cell, direction in zip(cells, directions, strict=True):
        down, right = STEPS[direction]
        states, found = {}, {}
        for i in range(height)[:: down or 1]:
            for j in range(width)[:: right or 1]:
                x_ij = x[:, :, i, j]
                first = cell.initial_state(x_ij)
                state = cell.step(x_ij, states.get((i - down, j - right), first))
                inside = valid[:, :, i, j]
                states[i, j] = tuple(torch.where(inside, s, s0) for s, s0 in zip(state, first, strict=True))
                found[i, j] = torch.where(inside, state[0], 0)
        rows = [torch.stack([found[i, j] for j in range(width)], -1) for i in range(height)]
        outputs.append(torch.stack(rows, -2))
    return torch.cat(outputs, 1)


@every_cell
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 4, 3), (1, 1, 3), (1, 3, 1)], ids=str)
def test_every_backend_equals_the_loop_over_locations(cell, shape):
    torch.manual_seed(0)
    cells = make(cell, DIAGONALS)
    x, grad = draw(cells, shape)
    valid = holes(shape)
    expected = naive(cells, x, valid, DIAGONALS)
    leaves = [x, *(p for c in cells for p in c.parameters())]
    expected = [expected, *torch.autograd.grad(expected, leaves, grad)]
    for backend in ("auto", "lines", "steps"):
        found = with_gradients(backend, cells, x, valid, DIAGONALS, grad)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cell", [Accumulator, RGLRU, LSTM])
def test_rows_columns_and_diagonals_of_one_layer(cell):
    torch.manual_seed(0)
    cells = make(cell, MIXED)
    x, _ = draw(cells)
    torch.testing.assert_close(sweep(cells, x, corner(), MIXED), naive(cells, x, corner(), MIXED))


def test_a_learned_initial_state_begins_every_diagonal():
    torch.manual_seed(0)
    cells = make(LSTM, DIAGONALS, learned_initial_state=True)
    x, _ = draw(cells)
    torch.testing.assert_close(sweep(cells, x, holes(), DIAGONALS), naive(cells, x, holes(), DIAGONALS))


def test_no_images():
    cells = make(IndRNN, DIAGONALS)
    x, _ = draw(cells, (0, 3, 4))
    assert sweep(cells, x, None, DIAGONALS).shape == (0, 12, 3, 4)


def test_diagonals_are_columns_of_the_sheared_map():
    x = torch.arange(1, 7).view(1, 2, 3, 1)  # 1 2 3 above 4 5 6
    assert shear(x, False)[0, :, :, 0].tolist() == [[1, 2, 3, 0], [0, 4, 5, 6]]
    assert shear(x, True)[0, :, :, 0].tolist() == [[3, 2, 1, 0], [0, 6, 5, 4]]
    assert all(torch.equal(unshear(shear(x, falling), falling), x) for falling in (False, True))


@pytest.mark.parametrize("falling", [False, True])
def test_a_gradient_that_is_part_of_another_tensor(falling):
    """Of a stack, whose gradient each of its parts reads in place."""
    x = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, 1, 2, 4, 2, dtype=torch.float64)
    stacked = torch.stack([shear(x, falling), shear(3 * x, falling)])
    expected = unshear(grad[0], falling) + 3 * unshear(grad[1], falling)
    torch.testing.assert_close(torch.autograd.grad(stacked, x, grad)[0], expected)


def test_memory_layouts_types_and_no_mask():
    torch.manual_seed(0)
    cells = make(MinGRU, DIAGONALS, torch.float32)
    x, grad = draw(cells, dtype=torch.float32)
    expected = with_gradients("auto", cells, x, torch.ones(2, 1, 3, 4, dtype=torch.bool), DIAGONALS, grad)
    assert expected[0].is_contiguous(memory_format=torch.channels_last)
    wide = x.detach().repeat_interleave(2, 3)[..., ::2]
    for other in (wide, x.detach().contiguous(memory_format=torch.channels_last)):
        found = with_gradients("auto", cells, other.requires_grad_(), None, DIAGONALS, grad.mT.contiguous().mT)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
    half = sweep(cells, x.bfloat16(), None, DIAGONALS)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 3, 2)], ids=str)
def test_compiles_without_graph_breaks(shape):
    torch.manual_seed(0)
    torch._dynamo.reset()
    cells = make(Accumulator, DIAGONALS)
    x, grad = draw(cells, shape)

    def run(x, valid):
        return sweep(cells, x, valid, DIAGONALS).square()

    found = torch.compile(run, fullgraph=True, backend="aot_eager")(x, corner(shape))
    torch.testing.assert_close(found, run(x, corner(shape)))
    for a, b in zip(*(torch.autograd.grad(y, x, grad) for y in (found, run(x, corner(shape)))), strict=True):
        torch.testing.assert_close(a, b)


class Sweep(nn.Module):
    def __init__(self, cell):
        super().__init__()
        torch.manual_seed(0)
        self.cells = nn.ModuleList(make(cell, MIXED, torch.float32))

    def forward(self, x, valid):
        return sweep(list(self.cells), x, valid, MIXED)


@pytest.mark.parametrize(
    ("cell", "sizes"),
    [(Accumulator, ((3, 5), (6, 2), (1, 4))), (MinGRU, ((3, 5), (6, 2), (4, 1))), (LSTM, ((3, 5),))],
    ids=["accumulator", "minGRU", "LSTM"],
)
def test_an_exported_file_is_exact(cell, sizes, tmp_path):
    """At any size where the cell has an associative form; others are written out for one size."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    module, path = Sweep(cell), tmp_path / "scan.onnx"
    axes = {name: {2: "height", 3: "width"} for name in ("x", "valid")} if len(sizes) > 1 else None
    drawn = {"x": draw(module.cells, (2, 3, 5), torch.float32)[0].detach(), "valid": corner((2, 3, 5))}
    write_onnx(module, drawn, ["h"], path, opset=17, dynamic=axes)
    session = onnxruntime.InferenceSession(path)
    for size in sizes:
        x, valid = draw(module.cells, (2, *size), torch.float32)[0].detach(), corner((2, *size))
        (found,) = session.run(None, {"x": x.numpy(), "valid": valid.numpy()})
        assert np.abs(found - naive(module.cells, x, valid, MIXED).detach().numpy()).max() < 1e-5


def test_diagonals_of_a_cell_without_associative_form_have_one_size_when_exported(tmp_path):
    pytest.importorskip("onnx")
    module = Sweep(LSTM)
    drawn = {"x": draw(module.cells, (2, 3, 5), torch.float32)[0].detach(), "valid": corner((2, 3, 5))}
    with lines_of_any_length(), pytest.raises(UserError, match="--dynamic: LSTM along diagonals has no ONNX operator"):
        write_onnx(module, drawn, ["h"], tmp_path / "scan.onnx", opset=17, dynamic=None)
