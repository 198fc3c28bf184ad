"""Line propagation against a loop over locations and against its steps under autograd; by hand; masks; memory."""

import pytest
import torch

from detection.analysis.timing import peak_bytes
from detection.ops.line_propagation import (
    line_propagation,
    line_propagation_backward,
    line_propagation_by_steps,
    neighbor_weights,
)
from detection.ops.sweep.directions import DIRECTIONS

# From a location to the middle neighbor in the line before, and along the line.
LINES = {"right": ((0, -1), (1, 0)), "left": ((0, 1), (1, 0)), "down": ((-1, 0), (0, 1)), "up": ((1, 0), (0, 1))}
ALL = " ".join(DIRECTIONS)


def draw(shape, groups, directions=DIRECTIONS, dtype=torch.float64):
    torch.manual_seed(0)
    b, d, h, w = shape
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    logits = torch.randn(b, len(directions) * groups * 3, h, w, dtype=dtype, requires_grad=True)
    return x, logits, torch.randn(b, len(directions) * d, h, w, dtype=dtype)


def holes(shape):
    return torch.rand(shape[0], 1, *shape[2:], generator=torch.Generator().manual_seed(1)) > 0.3


def naive(x, logits, valid, directions, groups):
    """One location after the other, with a softmax over the neighbors that are inside."""
    b, d, h, w = x.shape
    outputs = []
    for k, direction in enumerate(directions):
        (down, right), (along_down, along_right) = LINES[direction]
        own = logits.unflatten(1, (len(directions), groups, 3))[:, k]
        out = torch.zeros(b, d, h, w, dtype=x.dtype)
        places = [(i, j) for i in range(h) for j in range(w)]
        for i, j in sorted(places, key=lambda place: -place[0] * down - place[1] * right):  # noqa: B023
            for image in range(b):
                if not valid[image, 0, i, j]:
                    continue
                near = [(n, i + down + (n - 1) * along_down, j + right + (n - 1) * along_right) for n in range(3)]
                near = [(n, p, q) for n, p, q in near if 0 <= p < h and 0 <= q < w and valid[image, 0, p, q]]
                state = x[image, :, i, j].clone()
                if near:
                    weights = own[image][:, [n for n, _, _ in near], i, j].softmax(1)  # (G, neighbors)
                    for m, (_, p, q) in enumerate(near):
                        state += weights[:, m].repeat_interleave(d // groups) * out[image, :, p, q].clone()
                out[image, :, i, j] = state
        outputs.append(out)
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("shape", [(2, 4, 3, 5), (2, 4, 4, 3), (1, 4, 1, 3), (1, 4, 3, 1)], ids=str)
def test_it_equals_a_loop_over_locations(shape, groups):
    x, logits, grad = draw(shape, groups)
    valid = holes(shape)
    closed = x * valid
    expected = naive(closed, logits, valid, DIRECTIONS, groups)
    weight = neighbor_weights(logits, valid, DIRECTIONS)
    keep = {"retain_graph": True, "materialize_grads": True}
    wanted = torch.autograd.grad(expected, [x, logits], grad, **keep)
    for function in (line_propagation, line_propagation_by_steps):
        found = function(closed, weight, ALL)
        torch.testing.assert_close(found, expected)
        for a, b in zip(torch.autograd.grad(found, [x, logits], grad, **keep), wanted, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("directions", [("up",), ("left", "down"), ("down", "right", "up")], ids=str)
def test_any_directions_in_any_order(directions):
    x, logits, grad = draw((2, 4, 3, 4), 2, directions)
    weight = neighbor_weights(logits, None, directions)
    found, expected = (
        function(x, weight, " ".join(directions)) for function in (line_propagation, line_propagation_by_steps)
    )
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        *(torch.autograd.grad(y, [x, logits], grad, retain_graph=True) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_by_hand():
    """Down: the middle of the first line goes to all three below it; at the border two neighbors share the weight."""
    x = torch.tensor([[[[0.0, 6, 0], [0, 0, 1], [0, 0, 0]]]])
    weight = neighbor_weights(torch.zeros(1, 3, 3, 3), None, ("down",))
    found = line_propagation(x, weight, "down")[0, 0]
    torch.testing.assert_close(found, torch.tensor([[0.0, 6, 0], [3, 2, 4], [2.5, 3, 3]]))


def test_weights_sum_to_1_over_neighbors_inside_and_are_0_elsewhere():
    _, logits, _ = draw((2, 4, 4, 5), 2)
    valid = holes((2, 4, 4, 5))
    weight = neighbor_weights(logits, valid, DIRECTIONS).unflatten(1, (4, 2, 3))
    sums = weight.sum(3)
    assert ((sums - 1).abs() < 1e-12).logical_or(sums == 0).all() and (weight >= 0).all()
    assert not sums[:, :, :, :][~valid[:, :, None].expand_as(sums)].any()
    first = {0: (..., 0), 1: (..., -1), 2: (..., 0, slice(None)), 3: (..., -1, slice(None))}
    assert all(not sums[:, k][place].any() for k, place in first.items())


def test_constant_states_stay_constant():
    """Rows that sum to 1 keep what all neighbors agree on, however many lines there are."""
    x, logits, _ = draw((1, 4, 200, 3), 1, ("down",))
    x = torch.zeros_like(x)
    x[:, :, 0] = 1
    found = line_propagation(x, neighbor_weights(logits, None, ("down",)), "down")
    torch.testing.assert_close(found, torch.ones_like(found))


def test_memory_layouts_types_and_no_images():
    x, logits, grad = draw((2, 4, 3, 5), 2, dtype=torch.float32)
    weight = neighbor_weights(logits, None, DIRECTIONS).detach().requires_grad_()

    def run(x, weight, grad):
        y = line_propagation(x, weight, ALL)
        return y, *torch.autograd.grad(y, [x, weight], grad)

    expected = run(x, weight, grad)
    assert expected[0].is_contiguous(memory_format=torch.channels_last)
    last = [t.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for t in (x, weight, grad)]
    wide = [t.detach().repeat_interleave(2, 3).requires_grad_()[..., ::2] for t in (x, weight, grad)]
    for others in (last, wide):
        for a, b in zip(run(*others), expected, strict=True):
            torch.testing.assert_close(a, b)
    half = run(x.detach().bfloat16().requires_grad_(), weight, grad.bfloat16())
    for a, b in zip(half, expected, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.1)
    assert [t.dtype for t in half] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert line_propagation(x[:0], weight[:0], ALL).shape == (0, 16, 3, 5)


def test_gradcheck():
    x, logits, _ = draw((1, 2, 2, 3), 1)
    valid = holes(x.shape)

    def run(x, logits):
        return line_propagation(x, neighbor_weights(logits, valid, DIRECTIONS), ALL)

    assert torch.autograd.gradcheck(run, (x, logits))


def test_the_operation_is_what_pytorch_asks_of_one():
    x, logits, _ = draw((2, 4, 3, 4), 2, dtype=torch.float32)
    weight = neighbor_weights(logits, None, DIRECTIONS).detach().requires_grad_()
    torch.library.opcheck(line_propagation, (x, weight, ALL))


def test_scratch_is_one_map_however_long_the_lines_are():
    """Beyond the gradients the backward pass holds the sum over directions, and a few lines."""
    x, logits, grad = draw((1, 32, 40, 40), 1, dtype=torch.float32)
    weight = neighbor_weights(logits, None, DIRECTIONS).detach()
    out = line_propagation(x.detach(), weight, ALL)
    last = grad.contiguous(memory_format=torch.channels_last)
    one_map = x.numel() * 4
    assert peak_bytes(lambda: line_propagation_backward(last, out, weight, ALL), "cpu") < 2.5 * one_map


def test_weights_do_not_depend_on_the_logits_size():
    torch.manual_seed(0)
    logits = torch.randn(1, 12, 4, 5, dtype=torch.float64) - 100
    w = neighbor_weights(logits, None, DIRECTIONS)
    torch.testing.assert_close(w, neighbor_weights(logits + 100, None, DIRECTIONS))
    half = neighbor_weights(logits.bfloat16(), None, DIRECTIONS)
    assert half.dtype == torch.float32


def test_states_of_half_precision_are_float32():
    torch.manual_seed(0)
    x, logits = torch.randn(1, 4, 9, 9).bfloat16(), torch.randn(1, 24, 9, 9)
    weight, names = neighbor_weights(logits, None, DIRECTIONS), " ".join(DIRECTIONS)
    found = line_propagation(x, weight, names)
    assert torch.equal(found, line_propagation(x.float(), weight, names).bfloat16())
