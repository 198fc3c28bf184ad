"""What the sweeps of LSTM and GRU have in common as operations: room for their states, and how gradients are wired."""

# B images, C channels, H×W map, K directions, G gates, D hidden size, T steps, N lines of all images.

from collections.abc import Callable
from typing import Any

from torch import Tensor


def memory(x: Tensor, weight: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """Room for what a backward pass needs of each cell of the map x (B, C, H, W), by weight (K, G·D, D).

    Returns:
        Gates (K, T·N, G·D) and states (K, T·N, D); empty unless `keep`.
    """
    k, gates, size = weight.shape
    cells = x.shape[0] * x.shape[2] * x.shape[3] if keep else 0
    return weight.new_empty(k, cells, gates), weight.new_empty(k, cells, size)


def register_gradient(sweep: Any, backward: Callable[..., tuple[Tensor, Tensor, Tensor]], masked: bool) -> None:
    """Wire `backward` behind `sweep(x, weight, bias, valid, directions, keep)`.

    Args:
        sweep: a custom operation; returns the outputs and two kept states.
        backward: (gradient of the outputs, those three, weight, with `masked` also valid, directions) → gradients of x,
            weight and bias.
        masked: whether it reads valid.
    """

    def keep_states(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        _, weight, bias, valid, ctx.directions, _ = inputs
        ctx.biased = bias is not None
        ctx.set_materialize_grads(False)  # nobody reads the kept states, so they have no gradients to fill with zeros
        ctx.save_for_backward(*output, weight, *([valid] if masked else []))

    def gradients(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        grad_x, grad_weight, grad_bias = backward(grad, *ctx.saved_tensors, ctx.directions)
        return grad_x, grad_weight, grad_bias if ctx.biased else None, None, None, None

    sweep.register_autograd(gradients, setup_context=keep_states)
