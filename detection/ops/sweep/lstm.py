"""Sweeps of the LSTM. A step is one product for all lines of a direction, on CUDA of both along an axis.

The outputs and the cell states are kept for the backward pass, which computes the gates again (`autograd`). Outside the
image the pre-activations of i and f are −∞, which makes c and h exactly 0 and lets no gradient through.
"""

# B images, D hidden size, H×W map, K directions, P of them scanned together, T steps, L lines of an image, N of all,
# S steps of a chunk.

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import custom_op

from detection.ops.sweep.autograd import Chunk, Triple, gated_sweep, gated_sweep_backward, register, split, squash
from detection.ops.sweep.layout import as_map, as_rows, close
from detection.ops.sweep.lines import Steps

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


@custom_op("detection::lstm", mutates_args=())
def lstm(
    x: Tensor, weight: Tensor, bias: Tensor | None, valid: Tensor | None, directions: str, keep: bool
) -> tuple[Tensor, Tensor]:
    """Compute K sweeps of an LSTM, gates in the order i, f, g, o.

    Args:
        x: (B, 4·D, H, W).
        weight: U (K, 4·D, D), in the states' type.
        bias: (K, 4·D), likewise; None for zeros.
        valid: (B, 1, H, W) booleans; None for all.
        directions: K names separated by spaces.
        keep: whether to keep what a backward pass needs.

    Returns:
        The outputs (B, K·D, H, W) in channels-last memory, in the type of x; and the cell states (K, T·N, D), empty
        unless `keep`.
    """
    rows = close(as_rows(x), valid, -torch.inf, -torch.inf, 0, 0)
    return gated_sweep(_scan, rows, weight, bias, directions, keep)


@custom_op("detection::lstm_backward", mutates_args=())
def lstm_backward(
    grad: Tensor,
    out: Tensor,
    c: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    valid: Tensor | None,
    directions: str,
) -> Triple:
    """Return the gradients of x (B, 4·D, H, W), the weight (K, 4·D, D) and the bias (K, 4·D)."""
    total, grad_weight, grad_bias = gated_sweep_backward(_Back, grad, out, c, x, weight, bias, valid, directions)
    return as_map(total.to(grad.dtype)), grad_weight, grad_bias


def _scan(xs: Steps, outs: Steps, weight: Tensor, bias: Tensor, kept: Sequence[Tensor] | None) -> None:
    """Write the outputs of pre-activations, both as views step by step, and the cell states."""
    p, _, size = weight.shape
    transposed = weight.transpose(1, 2)  # (P, D, 4·D)
    h, c = weight.new_zeros(2, p, xs[0][0].shape[:2].numel(), size).unbind()
    gates = weight.new_empty(*h.shape[:2], 4 * size)
    i, f, g, o = gates.chunk(4, -1)
    lines, outputs = split(gates, xs[0][0]), split(h, xs[0][0])
    for t, (views, targets) in enumerate(zip(xs, outs, strict=True)):
        for view, line, of_gates in zip(views, lines, bias, strict=True):
            torch.add(view, of_gates, out=line)
        if t > 0:
            gates.baddbmm_(h, transposed)
        _activate(gates, g)
        c = torch.mul(c, f, out=c if kept is None else kept[t]).addcmul_(i, g)  # c = f·c + i·g
        squash(c, out=h).mul_(o)  # h = o·tanh(c)
        for output, target in zip(outputs, targets, strict=True):
            target.copy_(output)


def _activate(gates: Tensor, g: Tensor) -> None:
    """Turn the pre-activations (…, 4·D), of which g are the third quarter, into gates."""
    if gates.device.type == "cpu":
        # As `squash` for g, with one logistic function for all.
        g.mul_(2)
        gates.sigmoid_()
        g.mul_(2).sub_(1)
    else:
        size = g.shape[-1]
        gates[..., : 2 * size].sigmoid_()
        g.tanh_()
        gates[..., 3 * size :].sigmoid_()


class _Back:
    """The way back over chunks: dh and dc are ∂L/∂h(t) and ∂L/∂c(t), with what comes from the steps after t."""

    def __init__(self, weight: Tensor, bias: Tensor, memory: Tensor, like: Tensor) -> None:
        self.weight, self.bias, self.memory = weight, bias, memory
        self.dh, self.dc = weight.new_zeros(2, len(weight), memory.shape[2], weight.shape[2]).unbind()
        self.scratch = torch.empty_like(self.dh), torch.empty_like(self.dh), torch.empty_like(self.dh)
        self.of_outputs = split(self.dh, like)
        self.slots = [(step, step.chunk(4, -1), split(step, like)) for step in memory.unbind(1)]

    def __call__(self, chunk: Chunk) -> Tensor:
        gates = self.memory[:, : len(chunk.steps)]
        for (_, _, lines), views in zip(self.slots, chunk.xs, strict=False):
            for line, view, bias in zip(lines, views, self.bias, strict=True):
                torch.add(view, bias, out=line)
        # (P, S·N, D) by (P, D, 4·D)
        gates.flatten(1, 2).baddbmm_(chunk.before.flatten(1, 2), self.weight.transpose(1, 2))
        _activate(gates, gates[..., 2 * self.weight.shape[2] : 3 * self.weight.shape[2]])
        if chunk.outside is not None:
            gates.masked_fill_(chunk.outside, 0)
        states = chunk.states.unbind(1)
        for s, t in reversed(list(enumerate(chunk.steps))):
            step, parts, lines = self.slots[s]
            for own, view in zip(self.of_outputs, chunk.grads[s], strict=True):
                own.add_(view)
            self._step(parts, states[t], states[t - 1] if t > 0 else None)
            if t > 0:
                torch.bmm(step, self.weight, out=self.dh)
            chunk.collect(s, lines)
        return gates

    def _step(self, gates: Sequence[Tensor], c: Tensor, before: Tensor | None) -> None:
        """Turn gates (P, N, D) into the gradients of their pre-activations, for states c and the one before."""
        i, f, g, o = gates
        squashed, d, other = self.scratch
        squash(c, out=squashed)  # cheaper to compute again than to keep
        torch.mul(self.dh, squashed, out=d)  # ∂L/∂o
        self.dc.add_(_tanh_backward(self.dh.mul_(o), squashed, grad_input=squashed))
        _sigmoid_backward(d, o, grad_input=o)
        torch.mul(self.dc, g, out=d)  # ∂L/∂i
        torch.mul(self.dc, i, out=other)  # ∂L/∂g
        _tanh_backward(other, g, grad_input=g)
        _sigmoid_backward(d, i, grad_input=i)
        if before is None:
            f.zero_()
        else:
            torch.mul(self.dc, before, out=d)  # ∂L/∂f
            self.dc.mul_(f)  # what it carries back to c(t − 1)
            _sigmoid_backward(d, f, grad_input=f)


register(lstm, lstm_backward)
