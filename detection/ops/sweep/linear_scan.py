"""Sweeps of h = a·h + b, with separate a and b for each direction: the cells that are linear in h.

As in `accumulate`, memory is channels last and each direction writes directly to its channels. The gradients are

    ∂L/∂b(t) = g(t) = ∂L/∂h(t) + a(t + 1)·g(t + 1),      (1)
    ∂L/∂a(t) = g(t)·h(t − 1).                            (2)

Outside the image a and b are 0, and so is h.
"""

# B images, D hidden size, H×W map, K directions.

import torch
from torch import Tensor
from torch.library import custom_op

from detection.ops.first_order import refuse_second_derivative
from detection.ops.sweep.directions import steps
from detection.ops.sweep.layout import as_map, as_rows, close, empty_map, state_type
from detection.ops.sweep.triton_dispatch import triton_kernels, use_triton


@custom_op("detection::linear_scan", mutates_args=())
def linear_scan(a: Tensor, b: Tensor, valid: Tensor | None, directions: str) -> Tensor:
    """Compute the states h (B, K·D, H, W) in channels-last memory, in the type of b.

    Args:
        a: (B, K·D, H, W), what each step keeps.
        b: (B, K·D, H, W), what it takes in.
        valid: (B, 1, H, W) booleans; None for all.
        directions: K names separated by spaces.
    """
    if use_triton(b):
        return triton_kernels().launch_linear_scan(a, b, valid, directions)
    num = len(directions.split())
    keeps, new = (close(as_rows(t), valid, 0).unflatten(3, (num, -1)) for t in (a, b))  # (B, H, W, K, D)
    out = torch.empty_like(new)
    for k, direction in enumerate(directions.split()):
        h = None
        views = (steps(t[:, :, :, k], direction) for t in (keeps, new, out))
        for a_t, b_t, h_t in zip(*views, strict=True):
            h = b_t.to(state_type(b), copy=True) if h is None else h.mul_(a_t).add_(b_t)
            h_t.copy_(h)
    return as_map(out.flatten(3))  # (B, K·D, H, W)


@linear_scan.register_fake
def _(a: Tensor, b: Tensor, valid: Tensor | None, directions: str) -> Tensor:
    return empty_map(b, b.shape[1])


@custom_op("detection::linear_scan_backward", mutates_args=())
def linear_scan_backward(
    grad: Tensor, out: Tensor, a: Tensor, valid: Tensor | None, directions: str
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a and b, (B, K·D, H, W) each."""
    if use_triton(grad):
        return triton_kernels().launch_linear_scan_backward(grad, out, a, valid, directions)
    num = len(directions.split())
    grads, outs, keeps = (as_rows(t).unflatten(3, (num, -1)) for t in (grad, out, a))  # (B, H, W, K, D)
    keeps = close(keeps.flatten(3), valid, 0).unflatten(3, (num, -1))  # (B, H, W, K, D)
    grad_a, grad_b = torch.empty_like(keeps), torch.empty_like(grads)
    for k, direction in enumerate(directions.split()):
        g = None
        views = [steps(t[:, :, :, k], direction)[::-1] for t in (grads, outs, keeps, grad_a, grad_b)]
        for t, (grad_t, _, a_t, grad_a_t, grad_b_t) in enumerate(zip(*views, strict=True)):
            g = grad_t.to(state_type(grad), copy=True) if g is None else g.add_(grad_t)  # equation (1)
            grad_b_t.copy_(g)
            if t + 1 < len(views[1]):
                torch.mul(g, views[1][t + 1], out=grad_a_t)  # equation (2)
            else:
                grad_a_t.zero_()
            g.mul_(a_t)
    # (B, K·D, H, W) each
    return tuple(as_map(close(t.flatten(3), valid, 0)) for t in (grad_a, grad_b))  # type: ignore[return-value]


@linear_scan_backward.register_fake
def _(grad: Tensor, out: Tensor, a: Tensor, valid: Tensor | None, directions: str) -> tuple[Tensor, Tensor]:
    return empty_map(a, a.shape[1]), empty_map(grad, grad.shape[1])


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    a, _, valid, ctx.directions = inputs
    ctx.save_for_backward(output, a, valid)


def _backward(ctx, grad: Tensor):
    return *linear_scan_backward(grad, *ctx.saved_tensors, ctx.directions), None, None


linear_scan.register_autograd(_backward, setup_context=_keep)
refuse_second_derivative(linear_scan_backward, "detection.ops.sweep.dispatch.sweep")
