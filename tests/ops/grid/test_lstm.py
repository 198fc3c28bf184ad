"""The two-dimensional LSTM against location by location, by hand, and what its gradient holds."""

import math

import pytest
import torch
from torch.autograd import forward_ad

from detection.ops.grid.corners import CORNERS
from detection.ops.grid.lstm import GATES, scan_grid_lstm
from detection.ops.sweep.traced import lines_of_any_length
from tests.ops.grid.naive import naive_grid_lstm

B, D = 2, 3


def drawn(height, width, corners=CORNERS, dtype=torch.float64, size=D):
    torch.manual_seed(0)
    x = torch.randn(B, GATES * size, height, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(len(corners), GATES * size, 2 * size, dtype=torch.promote_types(dtype, torch.float32)) / 2
    bias = torch.randn(len(corners), GATES * size, dtype=weight.dtype)
    valid = torch.rand(B, 1, height, width) > 0.3
    return x, weight.requires_grad_(), bias.requires_grad_(), valid


def with_gradients(y, *leaves):
    weights = torch.arange(y.numel(), dtype=torch.float64).view_as(y).sin().to(y.dtype)
    return [y, *torch.autograd.grad((y * weights).sum(), leaves)]


@pytest.mark.parametrize("backend", ["ours", "steps"])
@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (4, 7), (6, 3), (1, 5), (5, 1)])
def test_it_is_the_naive_scan(size, stable, backend):
    x, weight, bias, valid = drawn(*size)
    found = scan_grid_lstm(x, weight, bias, valid, CORNERS, stable=stable, backend=backend)
    expected = torch.cat([naive_grid_lstm(x, weight[k], bias[k], valid, c, stable) for k, c in enumerate(CORNERS)], 1)
    for a, b in zip(*(with_gradients(y, x, weight, bias) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_map_of_more_locations_than_a_chunk():
    x, weight, bias, _ = drawn(20, 30, ("bottom_right", "top_left"), size=1)
    found, expected = (
        scan_grid_lstm(x, weight, bias, None, ("bottom_right", "top_left"), backend=b) for b in ("ours", "steps")
    )
    for a, b in zip(*(with_gradients(y, x, weight, bias) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_by_hand():
    """Gates of 1/2 and g = tanh(1) at the top left alone: c is halved at every step of every path.

    c(1, 1) is that of (0, 0) times 1/4 by each of two paths; from the bottom right only the top left sees anything.
    """
    x = torch.zeros(1, GATES, 2, 2, dtype=torch.float64)
    x[0, 4, 0, 0] = 1
    weight, bias = x.new_zeros(2, GATES, 2), x.new_zeros(2, GATES)
    first, last = scan_grid_lstm(x, weight, bias, None, ("top_left", "bottom_right"))[0]
    c = math.tanh(1) / 2
    torch.testing.assert_close(first, torch.tensor([[c, c / 2], [c / 2, c / 2]], dtype=x.dtype).tanh() / 2)
    torch.testing.assert_close(last, torch.tensor([[c, 0], [0, 0]], dtype=x.dtype).tanh() / 2)


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("corner", CORNERS)
def test_gradcheck(corner, stable):
    x, weight, bias, valid = drawn(3, 2, (corner,), size=2)

    def scan(*leaves):
        return scan_grid_lstm(*leaves, valid, (corner,), stable=stable, backend="ours")

    assert torch.autograd.gradcheck(scan, (x, weight, bias))


def test_by_hand_in_the_stable_form():
    """f = 1/2 is kept, f' = 1/2 of it of each neighbor: 1/4 by a step, and both paths to (1, 1) give 1/16."""
    x = torch.zeros(1, GATES, 2, 2, dtype=torch.float64)
    x[0, 4, 0, 0] = 1
    weight, bias = x.new_zeros(1, GATES, 2), x.new_zeros(1, GATES)
    y = scan_grid_lstm(x, weight, bias, None, ("top_left",), stable=True)[0, 0]
    c = math.tanh(1) / 2
    torch.testing.assert_close(y, torch.tensor([[c, c / 4], [c / 4, c / 8]], dtype=x.dtype).tanh() / 2)


@pytest.mark.parametrize(("stable", "most"), [(True, 100), (False, 1e9)])
def test_the_stable_form_stays_in_range_over_any_map(stable, most):
    """With all gates open a state is at most the number of steps, or doubles at every step."""
    x = torch.full((1, GATES, 40, 40), 9.0)
    weight, bias = x.new_zeros(1, GATES, 2), x.new_zeros(1, GATES)
    _, _, states = torch.ops.detection.grid_lstm(x, weight, bias, None, "top_left", stable, True)
    assert states.max() <= most if stable else states.max() > most


def test_nothing_is_kept_without_a_gradient():
    x, weight, bias, valid = drawn(4, 5)
    expected = scan_grid_lstm(x, weight, bias, valid, CORNERS)
    with torch.no_grad():
        assert torch.equal(scan_grid_lstm(x, weight, bias, valid, CORNERS), expected)
        _, gates, states = torch.ops.detection.grid_lstm(x, weight, bias, valid, " ".join(CORNERS), False, False)
    assert gates.numel() == states.numel() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_states_in_float32(dtype):
    x, weight, bias, valid = drawn(4, 5, dtype=dtype)
    found = with_gradients(scan_grid_lstm(x, weight, bias, valid, CORNERS), x, weight)
    exact = with_gradients(scan_grid_lstm(x.float(), weight, bias, valid, CORNERS), x, weight)
    assert found[0].dtype == found[1].dtype == dtype and found[2].dtype == torch.float32
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("stable", [False, True])
def test_operations_are_registered_right(stable):
    x, weight, bias, valid = drawn(3, 4, dtype=torch.float32)
    arguments = (x, weight, bias, valid, " ".join(CORNERS), stable, True)
    utils = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.detection.grid_lstm, arguments, test_utils=utils)


def test_forward_mode_is_refused_and_steps_have_it():
    x, weight, bias, valid = drawn(3, 3)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            scan_grid_lstm(dual, weight, bias, valid, CORNERS)
        y = scan_grid_lstm(dual, weight, bias, valid, CORNERS, backend="steps")
        assert forward_ad.unpack_dual(y).tangent.abs().sum() > 0


def test_an_export_of_any_size_is_refused(monkeypatch):
    from detection.errors import UserError

    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    x, weight, bias, valid = drawn(3, 4)
    expected = scan_grid_lstm(x, weight, bias, valid, CORNERS, backend="steps")
    assert torch.equal(scan_grid_lstm(x, weight, bias, valid, CORNERS), expected)
    with lines_of_any_length(), pytest.raises(UserError, match="--dynamic: GridLSTM has no ONNX operator"):
        scan_grid_lstm(x, weight, bias, valid, CORNERS)


def test_flops_are_those_of_the_products():
    """A multiply-add counts 2: 5·D by 2·D at each location and corner, and twice that on the way back."""
    from torch.utils.flop_counter import FlopCounterMode

    import detection.ops.flops  # noqa: F401 - registers the formulas

    x, weight, bias, _ = drawn(4, 5, dtype=torch.float32)
    with FlopCounterMode(display=False) as counter:
        y = scan_grid_lstm(x, weight, bias, None, CORNERS)
        forward = counter.get_total_flops()
        y.sum().backward()
    assert forward == 2 * B * 4 * 5 * 4 * (5 * D) * (2 * D)
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.parametrize("own", range(3))
def test_one_input_alone_has_a_gradient(own):
    torch.manual_seed(0)
    leaves = [torch.randn(1, GATES * 2, 3, 4), torch.randn(1, GATES * 2, 4), torch.zeros(1, GATES * 2)]
    leaves[own].requires_grad_()
    outputs = [scan_grid_lstm(*leaves, None, ("top_left",), backend=backend) for backend in ("ours", "steps")]
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), leaves[own])[0] for y in outputs))
