"""Sweeps of h = max(h + x, 0), ION's accumulator (Bell et al. 2016, section 5), along rows and columns.

Everything lies in channels-last memory: a step along a row or a column is then the sum of whole runs of C numbers, and
each direction writes straight to its channels of the output. Only the output is kept for the backward pass,

    g(t) = 1[h(t) > 0] · (∂L/∂h(t) + g(t + 1)),

whose sum over directions is the gradient of x. Cells outside the image are given x = −∞ once, which keeps h at 0 there
and lets no gradient through.
"""

# B images, C channels, H×W map, K directions.

import torch
from torch import Tensor
from torch.library import custom_op

from detection.ops.directions import steps


@custom_op("detection::accumulate", mutates_args=())
def accumulate(x: Tensor, valid: Tensor | None, directions: str) -> Tensor:
    """Running sums with a ReLU at every step, one after the other along each direction.

    Args:
        x: (B, C, H, W); state and sums are float32 where it is half precision.
        valid: (B, 1, H, W) booleans; None for all.
        directions: of K sweeps, with spaces between.

    Returns:
        (B, K·C, H, W) in channels-last memory, in the type of x; 0 outside of `valid`.
    """
    rows = x.permute(0, 2, 3, 1)
    rows = rows.contiguous() if x.dtype == torch.float64 else rows.float().contiguous()
    if valid is not None and not valid.all():
        rows = rows.masked_fill(~valid.permute(0, 2, 3, 1), -torch.inf)
    channels = rows.shape[-1]
    out = rows.new_empty(*rows.shape[:-1], len(directions.split()) * channels)
    for k, direction in enumerate(directions.split()):
        part = out[..., k * channels : (k + 1) * channels]
        previous = None
        for x_t, h_t in zip(steps(rows, direction), steps(part, direction), strict=True):
            if previous is None:
                torch.clamp(x_t, min=0, out=h_t)
            else:
                torch.add(previous, x_t, out=h_t).clamp_(min=0)
            previous = h_t
    return out.to(x.dtype).permute(0, 3, 1, 2)


@accumulate.register_fake
def _(x: Tensor, valid: Tensor | None, directions: str) -> Tensor:
    b, c, h, w = x.shape
    return x.new_empty(b, h, w, len(directions.split()) * c).permute(0, 3, 1, 2)


@custom_op("detection::accumulate_backward", mutates_args=())
def accumulate_backward(grad: Tensor, out: Tensor, directions: str) -> Tensor:
    """Gradient (B, C, H, W) of x, from that of the output and the output (B, K·C, H, W)."""
    wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
    grads, outs = (t.permute(0, 2, 3, 1) for t in (grad, out))
    b, h, w, channels = *outs.shape[:3], outs.shape[3] // len(directions.split())
    total = outs.new_zeros(b, h, w, channels, dtype=wide)
    for k, direction in enumerate(directions.split()):
        own = slice(k * channels, (k + 1) * channels)
        g = None
        views = (steps(t, direction)[::-1] for t in (grads[..., own], outs[..., own], total))
        for grad_t, h_t, total_t in zip(*views, strict=True):
            g = grad_t.to(wide, copy=True) if g is None else g.add_(grad_t)
            torch.ops.aten.threshold_backward.grad_input(g, h_t.to(wide), 0, grad_input=g)
            total_t.add_(g)
    return total.to(grad.dtype).permute(0, 3, 1, 2)


@accumulate_backward.register_fake
def _(grad: Tensor, out: Tensor, directions: str) -> Tensor:
    b, kc, h, w = grad.shape
    return grad.new_empty(b, h, w, kc // len(directions.split())).permute(0, 3, 1, 2)


def _keep_output(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.directions = inputs[2]
    ctx.save_for_backward(output)


def _backward(ctx, grad: Tensor):
    (out,) = ctx.saved_tensors
    return accumulate_backward(grad, out, ctx.directions), None, None


accumulate.register_autograd(_backward, setup_context=_keep_output)
