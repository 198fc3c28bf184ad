"""Sweeps of linear cells on a CPU, gates and recurrence in one pass: minGRU, minLSTM, gated linear, RG-LRU.

Only the input and the output are kept for the backward pass, which computes the gates of a step again. Outside the
image h is 0 and no gradient flows.
"""

# B images, D hidden size, G gates, V vectors of a cell, H×W map, K directions.

import torch
from torch import Tensor
from torch.library import custom_op

from detection.ops.sweep.directions import is_horizontal, steps
from detection.ops.sweep.gates import GATES
from detection.ops.sweep.layout import as_map, as_rows, close, empty_map, some_outside, state_type


@custom_op("detection::gated_scan", mutates_args=())
def gated_scan(x: Tensor, vectors: Tensor, valid: Tensor | None, directions: str, kind: str) -> Tensor:
    """Compute the states h (B, K·D, H, W) in channels-last memory, in the type of x.

    Args:
        x: (B, G·D, H, W), pre-activations.
        vectors: (K, V, D), the cells' `LinearCell.vectors`, in the states' type.
        valid: (B, 1, H, W) booleans; None for all.
        directions: K names separated by spaces.
        kind: name of the cells' class, of `detection.ops.sweep.gates.GATES`.
    """
    rows = close(as_rows(x), valid, 0).to(state_type(x))
    out = x.new_empty(*rows.shape[:3], len(vectors), vectors.shape[2])  # (B, H, W, K, D)
    for k, direction in enumerate(directions.split()):
        h = _state(rows, direction, vectors)
        gates = GATES[kind](vectors[k], h)
        outside = _outside(valid, direction)
        for t, (x_t, out_t) in enumerate(zip(steps(rows, direction), steps(out[:, :, :, k], direction), strict=True)):
            gates.forward(x_t.chunk(gates.num_gates, -1), h, _first(outside, t, h))
            if outside is not None:
                h.masked_fill_(outside[t], 0)
            out_t.copy_(h)
    return as_map(out.flatten(3))  # (B, K·D, H, W)


@gated_scan.register_fake
def _(x: Tensor, vectors: Tensor, valid: Tensor | None, directions: str, kind: str) -> Tensor:
    return empty_map(x, len(vectors) * vectors.shape[2])


@custom_op("detection::gated_scan_backward", mutates_args=())
def gated_scan_backward(
    grad: Tensor, out: Tensor, x: Tensor, vectors: Tensor, valid: Tensor | None, directions: str, kind: str
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x (B, G·D, H, W) and of the vectors (K, V, D)."""
    rows = close(as_rows(x), valid, 0).to(state_type(x))
    grads, outs = (as_rows(t).unflatten(3, (len(vectors), -1)) for t in (grad, out))  # (B, H, W, K, D)
    total, grad_vectors = torch.zeros_like(rows), torch.empty_like(vectors)
    for k, direction in enumerate(directions.split()):
        g, start = _state(rows, direction, vectors), _state(rows, direction, vectors)
        gates = GATES[kind](vectors[k], g)
        outside = _outside(valid, direction)
        xs, totals = steps(rows, direction), steps(total, direction)
        gs, hs = steps(grads[:, :, :, k], direction), steps(outs[:, :, :, k], direction)
        for t in reversed(range(len(xs))):
            g.add_(gs[t])
            if outside is not None:
                g.masked_fill_(outside[t], 0)
            before = hs[t - 1].to(g.dtype) if t else start
            parts, sums = (s[t].chunk(gates.num_gates, -1) for s in (xs, totals))
            gates.backward(parts, before, g, sums, _first(outside, t, g))
        grad_vectors[k] = gates.gradients()
    return as_map(total.to(x.dtype)), grad_vectors


@gated_scan_backward.register_fake
def _(grad: Tensor, out: Tensor, x: Tensor, vectors: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return empty_map(x, x.shape[1]), torch.empty_like(vectors)


def _state(rows: Tensor, direction: str, vectors: Tensor) -> Tensor:
    b, h, w, _ = rows.shape
    return rows.new_zeros(b, h if is_horizontal(direction) else w, vectors.shape[2])


def _outside(valid: Tensor | None, direction: str) -> list[Tensor] | None:
    """Return the locations outside of the mask as booleans (B, L, 1), step by step; None where there are none."""
    if valid is None or not some_outside(valid):
        return None
    return steps(~as_rows(valid), direction)


def _first(outside: list[Tensor] | None, t: int, state: Tensor) -> Tensor | None:
    """Return the lines that begin at step t (B, L, 1), if any may."""
    if t == 0:
        return torch.ones_like(state[..., :1], dtype=torch.bool)
    return None if outside is None else outside[t - 1]


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    x, vectors, valid, ctx.directions, ctx.kind = inputs
    ctx.save_for_backward(output, x, vectors, valid)


def _backward(ctx, grad: Tensor):
    return *gated_scan_backward(grad, *ctx.saved_tensors, ctx.directions, ctx.kind), None, None, None


gated_scan.register_autograd(_backward, setup_context=_keep)
