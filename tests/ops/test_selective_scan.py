"""The selective scan on a CPU: its own logarithm, and pieces of lines."""

import pytest
import torch

from detection.cells import S6
from detection.ops.sweep.selective_scan import _softplus
from tests.ops.sweeps import SIZE, assert_backends_agree, draw, holes, make


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_a_step_keeps_its_digits_at_any_size(dtype, tolerance):
    """Before −12 the rounding of the exponent itself is more."""
    z = torch.linspace(-12, 80, 4001, dtype=torch.float64).to(dtype)
    wide = z.double()
    expected = wide.clamp(min=0) + torch.log1p(torch.exp(-wide.abs()))
    torch.testing.assert_close(_softplus(z).double(), expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("valid", [None, holes((2, 4, 5))], ids=["complete", "holes"])
def test_lines_in_pieces_are_lines_at_once(valid, monkeypatch):
    """Pieces of two lines and of one."""
    torch.manual_seed(0)
    monkeypatch.setattr("detection.ops.sweep.selective_scan.PIECE", 2 * 5 * SIZE)
    directions = ("right", "left", "down", "up")
    cells = make(S6, directions)
    x, grad = draw(cells, (2, 4, 5))
    assert_backends_agree(["ours"], cells, x, valid, directions, grad, rtol=1e-10, atol=1e-10)
