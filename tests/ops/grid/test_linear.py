"""The linear two-dimensional recurrence against location by location, and the bounds of its two modes."""

import pytest
import torch

from detection.context.grid_layers import edge_gates
from detection.errors import UserError
from detection.ops.grid.corners import CORNERS
from detection.ops.grid.linear import EdgeGates, scan_grid_linear
from detection.ops.sweep.traced import lines_of_any_length
from tests.ops.grid.naive import naive_grid_linear

B, HEADS, SIZE = 2, 2, 6


def drawn(height, width, mode="P", corners=CORNERS):
    torch.manual_seed(0)
    value = torch.randn(B, SIZE, height, width, dtype=torch.float64, requires_grad=True)
    logits = 2 * torch.randn(B, len(corners), 9 if mode == "P" else 8, HEADS, height, width, dtype=torch.float64)
    return value, logits.requires_grad_(), torch.rand(B, 1, height, width) > 0.3


@pytest.mark.parametrize("mode", ["P", "D"])
@pytest.mark.parametrize("size", [(1, 1), (4, 7), (6, 3), (1, 5), (5, 1)])
def test_it_is_the_naive_scan(size, mode):
    value, logits, valid = drawn(*size, mode)
    gates = edge_gates(logits, mode)
    found = scan_grid_linear(value, gates, valid, CORNERS)
    by_channel = [gate.repeat_interleave(SIZE // HEADS, 2) for gate in gates]
    corners = [EdgeGates(*(gate[:, k] for gate in by_channel)) for k in range(4)]
    expected = torch.cat([naive_grid_linear(value, g, valid, c) for g, c in zip(corners, CORNERS, strict=True)], 1)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    for a, b in zip(*(torch.autograd.grad((y * weights).sum(), (value, logits), retain_graph=True)
                      for y in (found, expected)), strict=True):  # fmt: skip
        torch.testing.assert_close(a, b)


def test_by_hand():
    """A unit source at the top left goes right; half of it turns at (0, 1), and all of it stays on after that."""
    gates = EdgeGates(*torch.zeros(9, 1, 1, 1, 2, 3))
    gates.source_h[..., 0, 0] = gates.vv.fill_(1).new_ones(())
    gates.hh.fill_(0.5)
    gates.hv.fill_(0.5)
    gates.mark_h.fill_(1)
    gates.mark_v.fill_(10)
    value = torch.zeros(1, 1, 2, 3)
    value[..., 0, 0] = 1
    y = scan_grid_linear(value, gates, None, ("top_left",))
    assert y[0, 0].tolist() == [[0, 1, 0.5], [0, 5, 2.5]]


@pytest.mark.parametrize("mode", ["P", "D"])
@pytest.mark.parametrize("scale", [1, 20])
def test_a_unit_source_stays_bounded(mode, scale):
    """In mode P the outputs of each diagonal sum to at most 1, in mode D each is at most 1; near saturation, too."""
    _, logits, _ = drawn(12, 15, mode, ("top_left",))
    value = torch.zeros(B, SIZE, 12, 15, dtype=torch.float64)
    value[:, :, 0, 0] = 1
    y = scan_grid_linear(value, edge_gates(scale * logits, mode), None, ("top_left",)).abs()
    assert (y > 0).any()
    if mode == "D":
        assert y.max() <= 1
    for t in range(26):
        diagonal = sum(y[:, :, i, t - i] for i in range(12) if 0 <= t - i < 15)
        assert mode == "D" or diagonal.max() <= 1 + 1e-12


def test_diffusion_reaches_everywhere_undiminished():
    """Transitions of 1: mode D has the whole source at every location, mode P spreads it over the diagonal."""
    for mode, expected in (("D", 0.5), ("P", None)):
        logits = torch.full((1, 1, 9 if mode == "P" else 8, 1, 6, 6), 40.0, dtype=torch.float64)
        logits[:, :, 1] = 0
        if mode == "P":
            logits[:, :, (3, 5)] = 0
        value = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
        value[..., 0, 0] = 1
        y = scan_grid_linear(value, edge_gates(logits, mode), None, ("top_left",))[0, 0]
        if expected:
            torch.testing.assert_close(y[1:, 1:], torch.full((5, 5), expected, dtype=y.dtype))
        else:
            for t in range(1, 6):
                total = sum(y[i, t - i] for i in range(t + 1))
                torch.testing.assert_close(total, torch.ones((), dtype=y.dtype))


def test_gradcheck():
    value, logits, valid = drawn(2, 3, corners=("bottom_right",))
    assert torch.autograd.gradcheck(
        lambda v, g: scan_grid_linear(v, edge_gates(g, "P"), valid, ("bottom_right",)), (value, logits)
    )


def test_an_export_of_any_size_is_refused(monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    value, logits, valid = drawn(2, 3)
    with lines_of_any_length(), pytest.raises(UserError, match="--dynamic: the linear GridLSTM"):
        scan_grid_linear(value, edge_gates(logits, "P"), valid, CORNERS)
