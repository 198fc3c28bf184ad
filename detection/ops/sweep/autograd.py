"""Common parts of the LSTM and GRU operations: loops over directions, memory for states, registration of gradients."""

# B images, C channels, H×W map, K directions, G gates, D hidden size, P directions scanned together, T steps,
# N lines of all images.

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from detection.ops.sweep.layout import as_map, as_rows, empty_map, state_type
from detection.ops.sweep.lines import by_step, groups, separate_steps, shared_steps, weight_gradient

Triple = tuple[Tensor, Tensor, Tensor]


def allocate_states(x: Tensor, weight: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Allocate what a backward pass needs at each location of x (B, C, H, W), for weight (K, G·D, D).

    Returns:
        Gates (K, T·N, G·D) and states (K, T·N, D); empty unless `keep`.
    """
    k, gates, size = weight.shape
    locations = x.shape[0] * x.shape[2] * x.shape[3] if keep else 0
    return weight.new_empty(k, locations, gates), weight.new_empty(k, locations, size)


def gated_sweep(
    scan: Callable[..., None], rows: Tensor, weight: Tensor, bias: Tensor | None, directions: str, keep: bool
) -> Triple:
    """Compute the operation `sweep` of `register` on rows (B, H, W, G·D), closed outside of the image.

    `scan` reads views of the rows and writes to those of the outputs, step by step, and to the gates and states kept.
    """
    out = rows.new_empty(*rows.shape[:3], len(weight), weight.shape[2])  # (B, H, W, K, D)
    gates, states = allocate_states(as_map(rows), weight, keep)
    for places, names in groups(directions, weight.device):
        xs, outs = shared_steps(rows, names), separate_steps(out[:, :, :, places], names)
        kept = [by_step(t[places], len(xs)) for t in (gates, states)] if keep else None
        scan(xs, outs, weight[places], None if bias is None else bias[places], kept)
    return as_map(out.flatten(3)), gates, states  # (B, K·D, H, W) first


def gated_sweep_backward(
    scan_back: Callable[..., Any], grad: Tensor, out: Tensor, kept: list[Tensor], weight: Tensor, directions: str
) -> Triple:
    """Return the gradients of x as rows (B, H, W, G·D), of weight and of bias.

    `scan_back` returns the gradients of U h + b and the outputs (P, T, N, …), and adds those of x to `total`.
    """
    grads, outs = (as_rows(t).unflatten(3, (len(weight), -1)) for t in (grad, out))  # (B, H, W, K, D)
    total = outs.new_zeros(*outs.shape[:3], weight.shape[1], dtype=state_type(grad))
    grad_weight, grad_bias = torch.empty_like(weight), weight.new_empty(weight.shape[:2])
    for places, names in groups(directions, weight.device):
        gs, hs = (separate_steps(t[:, :, :, places], names) for t in (grads, outs))
        own = (by_step(t[places], len(gs)) for t in kept)
        g, hidden = scan_back(gs, hs, *own, weight[places], shared_steps(total, names))
        grad_weight[places] = weight_gradient(g, hidden)
        torch.sum(g, (1, 2), out=grad_bias[places])
    return total, grad_weight, grad_bias


def register(sweep: Any, sweep_backward: Any, masked: bool) -> None:
    """Register shapes and gradient of the operation `sweep(x, weight, bias, valid, directions, keep)`.

    Args:
        sweep: returns the outputs and two kept states.
        sweep_backward: (gradient of the outputs, those three, weight, with `masked` also valid, directions) → gradients
            of x, weight and bias.
        masked: whether `sweep_backward` reads valid.
    """

    def fake(x: Tensor, weight: Tensor, bias: Any, valid: Any, directions: str, keep: bool) -> Triple:
        return empty_map(x, len(weight) * weight.shape[2]), *allocate_states(x, weight, keep)

    def fake_backward(grad: Tensor, out: Tensor, gates: Tensor, kept: Tensor, weight: Tensor, *_: Any) -> Triple:
        return empty_map(grad, weight.shape[1]), torch.empty_like(weight), weight.new_empty(weight.shape[:2])

    def keep_states(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        _, weight, bias, valid, ctx.directions, _ = inputs
        ctx.biased = bias is not None
        ctx.set_materialize_grads(False)  # nobody reads the kept states, so their gradients need no zeros
        ctx.save_for_backward(*output, weight, *([valid] if masked else []))

    def gradients(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        grad_x, grad_weight, grad_bias = sweep_backward(grad, *ctx.saved_tensors, ctx.directions)
        return grad_x, grad_weight, grad_bias if ctx.biased else None, None, None, None

    sweep.register_fake(fake)
    sweep_backward.register_fake(fake_backward)
    sweep.register_autograd(gradients, setup_context=keep_states)
