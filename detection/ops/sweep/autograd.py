"""Common parts of the LSTM and GRU operations: memory for their states, shapes, and the registration of gradients."""

# B images, C channels, H×W map, K directions, G gates, D hidden size, T steps, N lines of all images.

from typing import Any

import torch
from torch import Tensor

from detection.ops.sweep.layout import empty_map

Gradients = tuple[Tensor, Tensor, Tensor]


def allocate_states(x: Tensor, weight: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Allocate what a backward pass needs at each location of x (B, C, H, W), for weight (K, G·D, D).

    Returns:
        Gates (K, T·N, G·D) and states (K, T·N, D); empty unless `keep`.
    """
    k, gates, size = weight.shape
    locations = x.shape[0] * x.shape[2] * x.shape[3] if keep else 0
    return weight.new_empty(k, locations, gates), weight.new_empty(k, locations, size)


def register(sweep: Any, sweep_backward: Any, masked: bool) -> None:
    """Register shapes and gradient of the operation `sweep(x, weight, bias, valid, directions, keep)`.

    Args:
        sweep: returns the outputs and two kept states.
        sweep_backward: (gradient of the outputs, those three, weight, with `masked` also valid, directions) → gradients
            of x, weight and bias.
        masked: whether `sweep_backward` reads valid.
    """

    def fake(x: Tensor, weight: Tensor, bias: Any, valid: Any, directions: str, keep: bool) -> Gradients:
        return empty_map(x, len(weight) * weight.shape[2]), *allocate_states(x, weight, keep)

    def fake_backward(grad: Tensor, out: Tensor, gates: Tensor, kept: Tensor, weight: Tensor, *_: Any) -> Gradients:
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
