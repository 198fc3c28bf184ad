"""Sweeps of the GRU that resets after its product.

A step is one product for all lines of a direction, on CUDA of both along an axis. The outputs and U h + b of n are kept
for the backward pass, which computes the gates again (`autograd`). Outside the image the pre-activations of r and z are
−∞ and that of n is 0, which makes h exactly 0.
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


@custom_op("detection::gru", mutates_args=())
def gru(
    x: Tensor, weight: Tensor, bias: Tensor | None, valid: Tensor | None, directions: str, keep: bool
) -> tuple[Tensor, Tensor]:
    """Compute K sweeps of a GRU, gates in the order r, z, n.

    Arguments and results are those of `detection.ops.sweep.lstm.lstm`, with 3·D in the place of 4·D and the recurrent
    side of n in the place of the cell states.
    """
    rows = close(as_rows(x), valid, -torch.inf, -torch.inf, 0)
    return gated_sweep(_scan, rows, weight, bias, directions, keep)


@custom_op("detection::gru_backward", mutates_args=())
def gru_backward(
    grad: Tensor,
    out: Tensor,
    new: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    valid: Tensor | None,
    directions: str,
) -> Triple:
    """Return the gradients of x (B, 3·D, H, W), the weight (K, 3·D, D) and the bias (K, 3·D)."""
    total, grad_weight, grad_bias = gated_sweep_backward(_Back, grad, out, new, x, weight, bias, valid, directions)
    return as_map(close(total, valid, 0).to(grad.dtype)), grad_weight, grad_bias


def _scan(xs: Steps, outs: Steps, weight: Tensor, bias: Tensor, kept: Sequence[Tensor] | None) -> None:
    """Write the outputs of pre-activations, both as views step by step, and the recurrent side of n."""
    p, _, size = weight.shape
    transposed, bias = weight.transpose(1, 2), bias[:, None]  # (P, D, 3·D), (P, 1, 3·D)
    h = weight.new_zeros(p, xs[0][0].shape[:2].numel(), size)
    recurrent, n = weight.new_empty(*h.shape[:2], 3 * size), torch.empty_like(h)
    rz, new = recurrent[..., : 2 * size], recurrent[..., 2 * size :]
    r, z = rz.chunk(2, -1)
    of_gates, of_r, of_new, of_n, outputs = (split(t, xs[0][0]) for t in (rz, r, new, n, h))
    for t, (views, targets) in enumerate(zip(xs, outs, strict=True)):
        torch.baddbmm(bias, h, transposed, out=recurrent)
        if kept is not None:
            kept[t].copy_(new)
        for q, view in enumerate(views):
            of_gates[q].add_(view[..., : 2 * size]).sigmoid_()
            torch.addcmul(view[..., 2 * size :], of_r[q], of_new[q], out=of_n[q])
        torch.lerp(squash(n, out=n), h, z, out=h)  # h = (1 − z)·n + z·h
        for output, target in zip(outputs, targets, strict=True):
            target.copy_(output)


class _Back:
    """The way back over chunks: dh is ∂L/∂h(t), with what comes from the steps after t.

    Memory (P, S, N, 4·D) has r, z, a place for the gradient of U h + b of n, and n.
    """

    def __init__(self, weight: Tensor, bias: Tensor, memory: Tensor, like: Tensor) -> None:
        self.weight, self.memory, self.size = weight, memory, weight.shape[2]
        self.rz_weight, self.rz_bias = weight[:, : 2 * self.size].transpose(1, 2), bias[:, : 2 * self.size]
        self.dh = weight.new_zeros(len(weight), memory.shape[2], self.size)
        self.scratch = torch.empty_like(self.dh), torch.empty_like(self.dh)
        self.of_outputs = split(self.dh, like)
        self.slots = [self._slot(step, like) for step in memory.unbind(1)]

    def _slot(self, step: Tensor, like: Tensor) -> tuple:
        rz, n = step[..., : 2 * self.size], step[..., 3 * self.size :]
        return step[..., : 3 * self.size], step.chunk(4, -1), split(rz, like), split(n, like)

    def __call__(self, chunk: Chunk) -> Tensor:
        gates, states = self._gates(chunk), chunk.states.unbind(1)
        for s, t in reversed(list(enumerate(chunk.steps))):
            step, parts, of_gates, of_n = self.slots[s]
            for own, view in zip(self.of_outputs, chunk.grads[s], strict=True):
                own.add_(view)
            self._step(parts, states[t], chunk.before[:, s])
            self.dh.baddbmm_(step, self.weight)
            chunk.collect(s, of_gates, slice(0, 2 * self.size))
            chunk.collect(s, of_n, slice(2 * self.size, None))
        return gates[..., : 3 * self.size]

    def _gates(self, chunk: Chunk) -> Tensor:
        gates = self.memory[:, : len(chunk.steps)]
        for (_, _, of_gates, of_n), views in zip(self.slots, chunk.xs, strict=False):
            for lines, n, view, bias in zip(of_gates, of_n, views, self.rz_bias, strict=True):
                torch.add(view[..., : 2 * self.size], bias, out=lines)
                n.copy_(view[..., 2 * self.size :])
        rz, n = gates[..., : 2 * self.size], gates[..., 3 * self.size :]
        rz.flatten(1, 2).baddbmm_(chunk.before.flatten(1, 2), self.rz_weight)  # (P, S·N, D) by (P, D, 2·D)
        rz.sigmoid_()
        n.addcmul_(rz[..., : self.size], chunk.states[:, chunk.steps.start : chunk.steps.stop])
        squash(n, out=n)
        return gates if chunk.outside is None else gates.masked_fill_(chunk.outside, 0)

    def _step(self, parts: Sequence[Tensor], new: Tensor, before: Tensor) -> None:
        """Turn r, z and n (P, N, D) into the gradients of their pre-activations, and fill that of U h + b of n."""
        r, z, d_new, n = parts
        d_n, d = self.scratch
        torch.sub(before, n, out=d).mul_(self.dh)  # ∂L/∂z
        torch.addcmul(self.dh, self.dh, z, value=-1, out=d_n)  # ∂L/∂n
        self.dh.mul_(z)  # ∂L/∂h(t − 1) but for the product with U
        _sigmoid_backward(d, z, grad_input=z)
        _tanh_backward(d_n, n, grad_input=n)
        torch.mul(n, new, out=d)  # ∂L/∂r, n being the gradient of its pre-activation now
        torch.mul(n, r, out=d_new)
        _sigmoid_backward(d, r, grad_input=r)


register(gru, gru_backward)
