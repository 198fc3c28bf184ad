"""Gates of linear cells on a CPU, where their formulas are hard on float32."""

import pytest
import torch

from detection.cells import RGLRU, GatedLinear, MinGRU, MinLSTM
from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.dispatch import sweep
from detection.ops.sweep.gates import SERIES, _complement
from tests.ops.sweeps import SIZE, assert_backends_agree, draw, holes, make, name_of


@pytest.mark.parametrize("valid", [None, holes((2, 4, 5))], ids=["complete", "holes"])
@pytest.mark.parametrize("cell", [MinGRU, MinLSTM, GatedLinear, RGLRU], ids=name_of)
def test_lines_in_pieces_are_lines_at_once(cell, valid, monkeypatch):
    """Pieces of two steps, in both orders, that begin and end in the image and outside of it."""
    torch.manual_seed(0)
    monkeypatch.setattr("detection.ops.sweep.gated_scan.PIECE", 2 * 2 * 5 * SIZE)
    directions = ("right", "left", "down", "up")
    cells = make(cell, directions)
    x, grad = draw(cells, (2, 4, 5))
    assert_backends_agree(["ours"], cells, x, valid, directions, grad, rtol=1e-10, atol=1e-10)
    x, grad = x.detach().to(torch.bfloat16).requires_grad_(), grad.to(torch.bfloat16)
    for c in cells:
        c.float()
    assert_backends_agree(["ours"], cells, x, valid, directions, grad, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gates_of_any_size_are_those_of_the_definition(scale, dtype):
    """Where σ(f) and σ(i) of minLSTM are both 0, f/(f + i) is not 0/0."""
    torch.manual_seed(0)
    cells = make(MinLSTM, dtype=dtype)
    x, grad = draw(cells, dtype=dtype)
    x = (x * scale).detach().requires_grad_()
    assert_backends_agree(["ours"], cells, x, None, ("right", "left", "down", "up"), grad, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 6e-7), (torch.float64, 1e-14)])
def test_a_decay_close_to_1_keeps_the_digits_of_its_complement(dtype, tolerance):
    y = torch.cat([torch.zeros(1), torch.logspace(-12, 2, 1000)]).to(dtype)
    root = torch.exp(-y.double() / 2).to(dtype)
    expected = -torch.expm1(-y.double())
    coefficients = y.new_tensor(SERIES).unbind()
    found = _complement(y.clone(), root, coefficients, torch.empty_like(y), torch.empty_like(y))
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=0)


def test_the_bound_of_a_roots_gradient_is_that_of_steps():
    """Decays so close to 1 that the bound of the root's gradient is reached, by the operation and by steps."""
    torch.manual_seed(0)
    cells = [RGLRU(3).double() for _ in DIRECTIONS]
    for c in cells:
        c.decay.data.fill_(-16.5)
    found = []
    x = torch.randn(2, 9, 3, 4, dtype=torch.float64, requires_grad=True)
    for backend in ("ours", "steps"):
        y = sweep(cells, x, None, DIRECTIONS, backend=backend)
        found.append(torch.autograd.grad(y.square().sum(), [x, *(c.decay for c in cells)]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)
