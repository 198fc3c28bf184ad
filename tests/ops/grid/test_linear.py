"""The linear two-dimensional recurrence against location by location, and the bounds of its two modes."""

import pytest
import torch
from torch.autograd import forward_ad

from detection.context.grid_layers import edge_gates
from detection.errors import UserError
from detection.ops.grid.corners import CORNERS
from detection.ops.grid.linear import EdgeGates, scan_grid_linear
from detection.ops.sweep.traced import lines_of_any_length
from tests.ops.grid.naive import naive_grid_linear

B, HEADS, SIZE = 2, 2, 6


def drawn(height, width, mode="P", corners=CORNERS, dtype=torch.float64, images=B):
    torch.manual_seed(0)
    value = torch.randn(images, SIZE, height, width, dtype=dtype, requires_grad=True)
    wide = torch.promote_types(dtype, torch.float32)
    logits = 2 * torch.randn(images, len(corners), 9 if mode == "P" else 8, HEADS, height, width, dtype=wide)
    return value, logits.requires_grad_(), torch.rand(images, 1, height, width) > 0.3


def with_gradients(y, *leaves):
    weights = torch.arange(y.numel(), dtype=torch.float64).view(y.shape).sin().to(y.dtype)
    return [y, *torch.autograd.grad((y * weights).sum(), leaves, retain_graph=True)]


def same(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("backend", ["ours", "steps"])
@pytest.mark.parametrize("mode", ["P", "D"])
@pytest.mark.parametrize("size", [(1, 1), (4, 7), (6, 3), (1, 5), (5, 1)])
def test_it_is_the_naive_scan(size, mode, backend):
    value, logits, valid = drawn(*size, mode)
    gates = edge_gates(logits, mode)
    found = scan_grid_linear(value, gates, valid, CORNERS, backend=backend)
    by_channel = [gate.repeat_interleave(SIZE // HEADS, 2) for gate in gates]
    corners = [EdgeGates(*(gate[:, k] for gate in by_channel)) for k in range(4)]
    expected = torch.cat([naive_grid_linear(value, g, valid, c) for g, c in zip(corners, CORNERS, strict=True)], 1)
    both = (with_gradients(y, value, logits) for y in (found, expected))
    same(*both, rtol=0, atol=1e-10)
    assert not (found * ~valid).any()


@pytest.mark.parametrize("piece", [1, 2 * 3 * 4 * 5 * 6, 10**6])
def test_images_in_pieces(monkeypatch, piece):
    """Pieces of one image, of two of which the last has one, and of all three."""
    monkeypatch.setattr("detection.ops.grid.linear.PIECE", piece)
    value, logits, valid = drawn(4, 5, images=3, corners=("top_right", "bottom_left", "top_left"))
    corners, gates = ("top_right", "bottom_left", "top_left"), edge_gates(logits, "P")
    both = (scan_grid_linear(value, gates, valid, corners, backend=b) for b in ("ours", "steps"))
    same(*(with_gradients(y, value, logits) for y in both))


def test_what_is_outside_is_not_read():
    value, logits, valid = drawn(4, 5)
    garbage = torch.where(valid, value, torch.nan)
    same([scan_grid_linear(garbage, edge_gates(logits, "P"), valid, CORNERS)],
         [scan_grid_linear(value, edge_gates(logits, "P"), valid, CORNERS)])  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_states_in_float32(dtype):
    value, logits, valid = drawn(4, 5, dtype=dtype)
    found, exact = (
        with_gradients(scan_grid_linear(v, edge_gates(logits, "P"), valid, CORNERS), value, logits)
        for v in (value, value.float())
    )
    assert found[0].dtype == found[1].dtype == dtype and found[2].dtype == torch.float32
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=0.05, atol=0.05)


def test_operations_are_registered_right():
    value, logits, valid = drawn(3, 4, dtype=torch.float32)
    gates = torch.stack(edge_gates(logits.detach(), "P"), 3).flatten(1, 3).requires_grad_()
    arguments = (value, gates, valid, " ".join(CORNERS))
    utils = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.detection.grid_linear, arguments, test_utils=utils)
    grad = torch.randn(B, 4 * SIZE, 3, 4)
    torch.library.opcheck(torch.ops.detection.grid_linear_backward, (grad, *arguments), test_utils=utils[::2])


def test_it_compiles_in_one_graph():
    value, logits, valid = drawn(3, 4, dtype=torch.float32)

    def run(v, g):
        return scan_grid_linear(v, edge_gates(g, "P"), valid, CORNERS)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    same(*(with_gradients(f(value, logits), value, logits) for f in (compiled, run)))


def test_forward_mode_is_refused_and_steps_have_it():
    value, logits, valid = drawn(3, 3)
    gates = edge_gates(logits.detach(), "P")
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(value, torch.ones_like(value))
        with pytest.raises(NotImplementedError, match="grid_linear: its operations have no forward-mode derivative"):
            scan_grid_linear(dual, gates, valid, CORNERS)
        y = scan_grid_linear(dual, gates, valid, CORNERS, backend="steps")
        assert forward_ad.unpack_dual(y).tangent.abs().sum() > 0


def test_flops_are_those_of_products_and_sums():
    """A product with M has 9 products and 6 sums; its gradient the same, that of M 9 of each, the corners a sum."""
    from torch.utils.flop_counter import FlopCounterMode

    import detection.ops.flops  # noqa: F401 - registers the formulas

    value, logits, _ = drawn(4, 5, dtype=torch.float32)
    with FlopCounterMode(display=False) as counter:
        y = scan_grid_linear(value, edge_gates(logits, "P"), None, CORNERS)
        forward = counter.get_total_flops()
        y.sum().backward()
    states = B * 4 * 5 * 4 * SIZE
    assert forward == 15 * states
    assert counter.get_total_flops() - forward == (10 + 15 + 18 + 1) * states


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


@pytest.mark.parametrize("corner", CORNERS)
def test_gradcheck(corner):
    value, logits, valid = drawn(2, 3, corners=(corner,))
    assert torch.autograd.gradcheck(
        lambda v, g: scan_grid_linear(v, edge_gates(g, "P"), valid, (corner,), backend="ours"), (value, logits)
    )


def test_an_export_of_any_size_is_refused(monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    value, logits, valid = drawn(2, 3)
    assert torch.equal(*(scan_grid_linear(value, edge_gates(logits, "P"), valid, CORNERS, backend=b)
                         for b in ("auto", "steps")))  # fmt: skip
    with lines_of_any_length(), pytest.raises(UserError, match="--dynamic: the linear GridLSTM"):
        scan_grid_linear(value, edge_gates(logits, "P"), valid, CORNERS)
