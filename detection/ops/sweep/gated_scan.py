"""Sweeps of linear cells on a CPU, gates and recurrence together: minGRU, minLSTM, gated linear, RG-LRU.

A line is scanned in pieces of a few steps: their gates at once, in few and large operations; then the states, for which
a step is one operation. The backward pass goes over the pieces from the end, computes their gates again, carries the
gradient of the state back, and computes all other gradients of a piece at once. Only the input and the output are kept
for it. Outside the image h is 0 and no gradient flows.
"""

# B images, L lines of an image, T steps, S steps of a piece, D hidden size, G gates, V vectors of a cell, H×W map,
# K directions.

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.library import custom_op

from detection.ops.first_order import refuse_second_derivative
from detection.ops.sweep.directions import is_horizontal, is_reversed, to_lines
from detection.ops.sweep.gates import GATES
from detection.ops.sweep.layout import as_map, as_rows, close, empty_map, some_outside, state_type

PIECE = 2**17
"""Values of a piece: few enough for seven such buffers in a cache, enough to hide what it costs to call PyTorch."""


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
        xs, outs = (_lines(t, direction) for t in (rows, out[:, :, :, k]))
        pieces = _pieces(outs, rows.dtype, valid, direction)
        gates = GATES[kind](vectors[k], _memory(rows, pieces, outs))
        wide = None if out.dtype == rows.dtype else _memory(rows, pieces, outs)
        h = rows.new_zeros(outs.shape[1:])
        for piece in pieces:
            parts = xs[piece.steps].chunk(gates.num_gates, -1)
            gates.read(parts, piece.outside, piece.first)
            states = outs[piece.steps] if wide is None else wide[: len(piece.order)]
            h = gates.scan(parts, h, states.unbind(), piece.order)
            if wide is not None:
                outs[piece.steps].copy_(states)
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
        views = (rows, total, grads[:, :, :, k], outs[:, :, :, k])
        xs, totals, gs, hs = (_lines(t, direction) for t in views)  # (T, B, L, …)
        pieces = _pieces(hs, rows.dtype, valid, direction)
        gates = GATES[kind](vectors[k], _memory(rows, pieces, hs))
        memory = _memory(rows, pieces, hs)
        start, carried = rows.new_zeros(1, *hs.shape[1:]), rows.new_zeros(hs.shape[1:])
        for piece in reversed(pieces):
            parts, sums = (t[piece.steps].chunk(gates.num_gates, -1) for t in (xs, totals))
            gates.read(parts, piece.outside, piece.first)
            g = memory[: len(piece.order)].copy_(gs[piece.steps])
            # g(t) = ∂L/∂h(t) + a(t + 1)·g(t + 1), of which `carried` is the second term for the piece's last step.
            g_steps, keep_steps = g.unbind(), gates.keep().unbind()
            g_steps[piece.order[-1]].add_(carried)
            for s, after in zip(piece.order[-2::-1], piece.order[:0:-1], strict=True):
                g_steps[s].addcmul_(g_steps[after], keep_steps[after])
            first = piece.order[0]
            torch.mul(g_steps[first], keep_steps[first], out=carried)
            if piece.outside is not None:
                g.mul_(1 - piece.outside)
            before = start if piece.before is None else hs[piece.before].to(g.dtype)
            gates.collect(parts, before, g, sums)
        grad_vectors[k] = gates.gradients()
    return as_map(total.to(x.dtype)), grad_vectors


@gated_scan_backward.register_fake
def _(grad: Tensor, out: Tensor, x: Tensor, vectors: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return empty_map(x, x.shape[1]), torch.empty_like(vectors)


@dataclass(frozen=True)
class _Piece:
    """Consecutive steps of a scan; the first step is a separate piece, for nothing comes before it.

    Attributes:
        steps: their places on the map.
        before: the places one step before each of them; None for the first step.
        order: the order of the scan among `steps`.
        outside: (S, B, L, 1), 1 at locations outside of the image and else 0; None where all are 0.
        first: the same for locations where a line begins; of any shape that broadcasts to it.
    """

    steps: slice
    before: slice | None
    order: range
    outside: Tensor | None
    first: Tensor | None


def _pieces(lines: Tensor, dtype: torch.dtype, valid: Tensor | None, direction: str) -> list[_Piece]:
    """Cut the steps of lines (T, B, L, D) into pieces of `PIECE` values at most, in the order of the scan."""
    length, most = len(lines), max(1, PIECE // max(1, lines[0].numel()))
    most = -(-length // -(-length // most))  # pieces of about one size
    outside = None if valid is None or not some_outside(valid) else _lines(~as_rows(valid), direction)  # (T, B, L, 1)
    backwards, back = is_reversed(direction), 1 if is_reversed(direction) else -1
    pieces = []
    for low, high in [(0, 1), *((t, min(t + most, length)) for t in range(1, length, most))]:
        steps = slice(length - high, length - low) if backwards else slice(low, high)
        order = range(high - low)[::-1] if backwards else range(high - low)
        before = slice(steps.start + back, steps.stop + back) if low else None
        begins = lines.new_ones(1, 1, 1, 1, dtype=dtype) if before is None else _ones(outside, before, dtype)
        pieces.append(_Piece(steps, before, order, _ones(outside, steps, dtype), begins))
    return pieces


def _ones(mask: Tensor | None, steps: slice, dtype: torch.dtype) -> Tensor | None:
    """Return 1 where a mask (T, B, L, 1) is true at some steps and else 0; None where it is nowhere."""
    return mask[steps].to(dtype) if mask is not None and mask[steps].any() else None


def _lines(rows: Tensor, direction: str) -> Tensor:
    """Return a view (T, B, L, …) of a map (B, H, W, …), steps in the order of the map."""
    return to_lines(rows, "right" if is_horizontal(direction) else "down")


def _memory(rows: Tensor, pieces: list[_Piece], lines: Tensor) -> Tensor:
    """Allocate (S, B, L, D) for the longest of the pieces of lines (T, B, L, D), in the type of the states."""
    return rows.new_empty(max(len(piece.order) for piece in pieces), *lines.shape[1:])


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    x, vectors, valid, ctx.directions, ctx.kind = inputs
    ctx.save_for_backward(output, x, vectors, valid)


def _backward(ctx, grad: Tensor):
    return *gated_scan_backward(grad, *ctx.saved_tensors, ctx.directions, ctx.kind), None, None, None


gated_scan.register_autograd(_backward, setup_context=_keep)
refuse_second_derivative(gated_scan_backward, "detection.ops.sweep.dispatch.sweep")
