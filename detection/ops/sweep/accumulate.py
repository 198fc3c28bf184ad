"""Sweeps of h = max(u·h + x, 0) along rows and columns: ION's accumulator (u = 1) and the IndRNN.

Tensors are in channels-last memory, where a step along a row or a column works on contiguous runs of C values, and each
direction writes directly to its channels of the output. Only the output is kept for the backward pass,

    g(t) = 1[h(t) > 0] · (∂L/∂h(t) + u·g(t + 1)),        (1)
    ∂L/∂u = Σ g(t)·h(t − 1),                             (2)

and the gradient of x is the sum of g over directions. Locations outside the image are given x = −∞ once, which keeps h
at 0 there and lets no gradient through.
"""

# B images, C channels, H×W map, K directions.

import torch
from torch import Tensor
from torch.library import custom_op

from detection.ops.first_order import refuse_second_derivative
from detection.ops.sweep.directions import is_horizontal, steps
from detection.ops.sweep.layout import as_map, as_rows, close, empty_map, state_type
from detection.ops.sweep.triton_dispatch import triton_kernels, use_triton

_where_positive = torch.ops.aten.threshold_backward.grad_input


@custom_op("detection::accumulate", mutates_args=())
def accumulate(x: Tensor, weight: Tensor | None, valid: Tensor | None, directions: str) -> Tensor:
    """Compute running sums with a ReLU at every step, one direction after the other.

    Args:
        x: (B, C, H, W); states are float32 where it is half precision.
        weight: u (K, C); None for ones.
        valid: (B, 1, H, W) booleans; None for all.
        directions: K names separated by spaces.

    Returns:
        (B, K·C, H, W) in channels-last memory, in the type of x; 0 outside of `valid`.
    """
    if use_triton(x):
        return triton_kernels().launch_accumulate(x, weight, valid, directions)
    rows = close(as_rows(x), valid, -torch.inf)
    out = rows.new_empty(*rows.shape[:3], len(directions.split()), rows.shape[3])  # (B, H, W, K, C)
    direct = out.dtype == state_type(x)  # else states have separate memory, as the output is rounded
    for k, direction in enumerate(directions.split()):
        h = state = _zeros_of_a_step(rows, direction)
        for x_t, out_t in zip(steps(rows, direction), steps(out[:, :, :, k], direction), strict=True):
            target = out_t if direct else state
            if weight is not None:
                h = torch.mul(h, weight[k], out=target)
            h = torch.add(h, x_t, out=target).relu_()
            if not direct:
                out_t.copy_(h)
    return as_map(out.flatten(3))  # (B, K·C, H, W)


@accumulate.register_fake
def _(x: Tensor, weight: Tensor | None, valid: Tensor | None, directions: str) -> Tensor:
    return empty_map(x, len(directions.split()) * x.shape[1])


@custom_op("detection::accumulate_backward", mutates_args=())
def accumulate_backward(grad: Tensor, out: Tensor, weight: Tensor | None, directions: str) -> tuple[Tensor, Tensor]:
    """Return the gradients of x (B, C, H, W) and u (K, C; empty for ones); the output is (B, K·C, H, W)."""
    if use_triton(grad):
        return triton_kernels().launch_accumulate_backward(grad, out, weight, directions)
    num = len(directions.split())
    grads, outs = (as_rows(t).unflatten(3, (num, -1)) for t in (grad, out))  # (B, H, W, K, C)
    outs = outs.to(state_type(grad))
    total = outs.new_empty(*outs.shape[:3], outs.shape[4])  # (B, H, W, C)
    grad_weight = total.new_empty(0 if weight is None else num, outs.shape[4])
    for k, direction in enumerate(directions.split()):
        after, own = (_zeros_of_a_step(total, direction) for _ in range(2))
        products = None if weight is None else torch.zeros_like(own)
        views = [steps(t, direction)[::-1] for t in (grads[:, :, :, k], outs[:, :, :, k], total)]
        for position, (grad_t, h_t, total_t) in enumerate(zip(*views, strict=True)):
            # Equation (1). The first direction writes to the sum itself, which saves filling it with zeros.
            g = torch.add(after, grad_t, out=total_t if k == 0 else own)
            _where_positive(g, h_t, 0, grad_input=g)
            if k > 0:
                total_t.add_(g)
            if weight is None or products is None:
                after = g
            elif position + 1 < len(views[1]):
                products.addcmul_(g, views[1][position + 1])  # equation (2)
                torch.mul(g, weight[k], out=after)
        if products is not None:
            torch.sum(products, (0, 1), out=grad_weight[k])
    return as_map(total.to(grad.dtype)), grad_weight


@accumulate_backward.register_fake
def _(grad: Tensor, out: Tensor, weight: Tensor | None, directions: str) -> tuple[Tensor, Tensor]:
    num = len(directions.split())
    channels = grad.shape[1] // num
    return empty_map(grad, channels), grad.new_empty(0 if weight is None else num, channels, dtype=state_type(grad))


def _zeros_of_a_step(rows: Tensor, direction: str) -> Tensor:
    b, h, w, c = rows.shape
    return rows.new_zeros(b, h if is_horizontal(direction) else w, c, dtype=state_type(rows))


def _keep_output(ctx, inputs: tuple, output: Tensor) -> None:
    _, weight, _, ctx.directions = inputs
    ctx.save_for_backward(output, weight)


def _backward(ctx, grad: Tensor):
    out, weight = ctx.saved_tensors
    grad_x, grad_weight = accumulate_backward(grad, out, weight, ctx.directions)
    return grad_x, None if weight is None else grad_weight.to(weight.dtype), None, None


accumulate.register_autograd(_backward, setup_context=_keep_output)
refuse_second_derivative(accumulate_backward, "detection.ops.sweep.dispatch.sweep")
