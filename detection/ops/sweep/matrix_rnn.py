"""Sweeps of h = f(x + U h), f tanh or ReLU and U a full matrix: the tanh RNN and the IRNN.

A step is one product for all lines of a direction, off the CPU of both along an axis where they are neighbors. Only the
output is kept for the backward pass, whose gradient of U is one product after the scan.
"""

# B images, D hidden size, H×W map, K directions, P of them scanned together, T steps, N lines of all images.

import torch
from torch import Tensor
from torch.library import custom_op

from detection.ops.first_order import refuse_second_derivative
from detection.ops.sweep.layout import as_map, as_rows, close, empty_map, some_outside, state_type
from detection.ops.sweep.lines import add, groups, read, read_all, separate_steps, shared_steps, weight_gradient, write


@custom_op("detection::matrix_rnn", mutates_args=())
def matrix_rnn(
    x: Tensor, weight: Tensor, bias: Tensor | None, valid: Tensor | None, directions: str, rectified: bool
) -> Tensor:
    """Compute the outputs (B, K·D, H, W) of K sweeps in channels-last memory, in the type of x.

    Args:
        x: (B, D, H, W).
        weight: U (K, D, D), in the states' type.
        bias: (K, D), likewise; None for zeros.
        valid: (B, 1, H, W) booleans; None for all.
        directions: K names separated by spaces.
        rectified: whether f is ReLU, else tanh.
    """
    rows = close(as_rows(x), valid, -torch.inf if rectified else 0.0)
    out = rows.new_empty(*rows.shape[:3], len(weight), rows.shape[3])  # (B, H, W, K, D)
    for places, names in groups(directions, weight.device):
        transposed = weight[places].transpose(1, 2)  # (P, D, D)
        biases = None if bias is None else bias[places]
        xs, outs = shared_steps(rows, names), separate_steps(out[:, :, :, places], names)
        # A ReLU is 0 at x = −∞; no x makes a tanh forget U h.
        masks = None if rectified else _masks(valid, names, weight.dtype)
        h, last = (weight.new_empty(len(names), xs[0][0].shape[:2].numel(), rows.shape[3]) for _ in range(2))
        for t, (views, targets) in enumerate(zip(xs, outs, strict=True)):
            h, last = read(last, views, biases), h
            if t > 0:
                h.baddbmm_(last, transposed)
            h = h.relu_() if rectified else h.tanh_()
            if masks is not None:
                h.mul_(masks[t])
            write(h, targets)
    return as_map(out.flatten(3))  # (B, K·D, H, W)


@matrix_rnn.register_fake
def _(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return empty_map(x, len(weight) * x.shape[1])


@custom_op("detection::matrix_rnn_backward", mutates_args=())
def matrix_rnn_backward(
    grad: Tensor, out: Tensor, weight: Tensor, valid: Tensor | None, directions: str, rectified: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x (B, D, H, W), the weight (K, D, D) and the bias (K, D)."""
    num, size, _ = weight.shape
    grads, outs = (as_rows(t).unflatten(3, (num, size)) for t in (grad, out))  # (B, H, W, K, D)
    total = outs.new_zeros(*outs.shape[:3], size, dtype=state_type(grad))
    grad_weight, grad_bias = torch.empty_like(weight), weight.new_empty(num, size)
    for places, names in groups(directions, weight.device):
        gs, hs = (separate_steps(t[:, :, :, places], names) for t in (grads, outs))
        masks = None if rectified else _masks(valid, names, weight.dtype)
        h = read_all(weight.new_empty(len(names), len(hs), hs[0][0].shape[:2].numel(), size), hs)
        g = read_all(torch.empty_like(h), gs)
        _scan_back(g, h, weight[places], masks, rectified)
        for g_t, targets in zip(g.unbind(1), shared_steps(total, names), strict=True):
            add(g_t, targets)
        grad_weight[places] = weight_gradient(g, h)
        torch.sum(g, (1, 2), out=grad_bias[places])
    return as_map(total.to(grad.dtype)), grad_weight, grad_bias


@matrix_rnn_backward.register_fake
def _(grad: Tensor, out: Tensor, weight: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return empty_map(grad, weight.shape[1]), torch.empty_like(weight), weight.new_empty(weight.shape[:2])


def _scan_back(g: Tensor, h: Tensor, weight: Tensor, masks: list[Tensor] | None, rectified: bool) -> None:
    """Turn the gradients g (P, T, N, D) of outputs h into those of pre-activations, in place."""
    for t in reversed(range(g.shape[1])):
        g_t, h_t = g[:, t], h[:, t]
        if t + 1 < g.shape[1]:
            g_t.baddbmm_(g[:, t + 1], weight)
        if masks is not None:
            g_t.mul_(masks[t])
        if rectified:
            torch.ops.aten.threshold_backward.grad_input(g_t, h_t, 0, grad_input=g_t)
        else:
            torch.ops.aten.tanh_backward.grad_input(g_t, h_t, grad_input=g_t)


def _masks(valid: Tensor | None, names: list[str], dtype: torch.dtype) -> list[Tensor] | None:
    """Return a mask (B, 1, H, W) as factors (P, N, 1), step by step; None where it closes nothing."""
    if valid is None or not some_outside(valid):
        return None
    scans = shared_steps(as_rows(valid), names)
    return [torch.stack([v.reshape(-1, 1) for v in views]).to(dtype) for views in scans]  # (P, N, 1) each


def _keep_output(ctx, inputs: tuple, output: Tensor) -> None:
    _, weight, bias, valid, ctx.directions, ctx.rectified = inputs
    ctx.biased = bias is not None
    ctx.save_for_backward(output, weight, valid)


def _backward(ctx, grad: Tensor):
    out, weight, valid = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = matrix_rnn_backward(grad, out, weight, valid, ctx.directions, ctx.rectified)
    return grad_x, grad_weight, grad_bias if ctx.biased else None, None, None, None


matrix_rnn.register_autograd(_backward, setup_context=_keep_output)
refuse_second_derivative(matrix_rnn_backward, "detection.ops.sweep.dispatch.sweep")
