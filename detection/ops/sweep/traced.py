"""Sweeps in an ONNX export: lines of any length, by operators that ONNX has or that a local function composes.

    linear cells, S6                `LinearScan`, h = a·h + b, in ⌈log₂ L⌉ doubling steps
    SSD, MLSTM                      the products of matrices of their own scan, also of pieces of a line
    accumulator, IndRNN             `MaxAffineScan`, h = max(s·h + a, b) with s ≥ 0, which is closed under composition
    tanh RNN, IRNN, LSTM with and without peepholes, GRU
                                    ONNX's `RNN`, `LSTM` and `GRU`, whose input side is the identity
    all others                      one step after another, for the lines of the example only

The two scans are nodes of the domain `detection`; `detection.export.functions` has their bodies.
"""

# B images, C = G·D pre-activations, D hidden size, H×W map, K directions, T steps of a scan, N lines of all images.

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from detection.cells import (
    GRU,
    IRNN,
    LSTM,
    MLSTM,
    RGLRU,
    S6,
    SSD,
    Accumulator,
    Cell,
    GatedLinear,
    IndRNN,
    LinearCell,
    MinGRU,
    MinLSTM,
    PeepholeLSTM,
    ScannedCell,
    TanhRNN,
)
from detection.ops.sweep.any_length import lines_of_any_length as lines_of_any_length
from detection.ops.sweep.any_length import refuse_any_length
from detection.ops.sweep.directions import Direction, is_horizontal, is_reversed

DOMAIN = "detection"

_LINEAR = (MinGRU, MinLSTM, GatedLinear, RGLRU)
# Operator, and the place in our order of each gate in ONNX's: i, o, f, c of an LSTM, z, r, h of a GRU.
_OPERATORS: dict[type[Cell], tuple[str, tuple[int, ...], dict[str, Any]]] = {
    TanhRNN: ("RNN", (0,), {"activations_s": ["Tanh"]}),
    IRNN: ("RNN", (0,), {"activations_s": ["Relu"]}),
    LSTM: ("LSTM", (0, 3, 1, 2), {}),
    PeepholeLSTM: ("LSTM", (0, 3, 1, 2), {}),
    GRU: ("GRU", (1, 0, 2), {}),
}
# ONNX's peepholes are of i, o and f, ours of i, f and o.
_PEEPHOLES = (0, 2, 1)


def traced_sweep(
    cells: Sequence[Cell],
    x: Tensor,
    valid: Tensor | None,
    directions: Sequence[Direction],
    unrolled: Callable[..., Tensor],
    is_sheared: bool = False,
) -> Tensor:
    """Compute `sweep` by operators of an ONNX graph, or by `unrolled` where there are none.

    Args:
        cells: as in `sweep`.
        x: as in `sweep`.
        valid: as in `sweep`, and a rectangle from the top left of each image.
        directions: as in `sweep`.
        unrolled: `sweep` step by step.
        is_sheared: whether the lines are diagonals, so that `valid` is no rectangle. ONNX's recurrent operators begin
            at the first step of each line, and are not for them.

    Raises:
        UserError: lines of any length are wanted of a cell that could only be unrolled.
    """
    scan = _scan_of(cells)
    if scan is None or (is_sheared and scan is _by_operator):
        along = " along diagonals" if is_sheared else ""
        refuse_any_length(f"{type(cells[0]).__name__}{along} has no ONNX operator and no associative form")
        return unrolled(cells, x, valid, directions)
    outputs = [_along(scan, cell, x.float(), valid, name) for cell, name in zip(cells, directions, strict=True)]
    out = torch.cat(outputs, 1)
    return out if valid is None else torch.where(valid, out, 0.0)


Scan = Callable[[Cell, Tensor, Tensor, bool], Tensor]
"""A cell, its pre-activations (T, N, G·D), booleans (T, N, 1) of the locations inside, and whether the scan is against
the order of the lines → outputs (T, N, D)."""


def _scan_of(cells: Sequence[Cell]) -> Scan | None:
    kinds = {type(cell) for cell in cells}
    if len(kinds) > 1:
        return None
    (kind,) = kinds
    if kind in _OPERATORS:
        return _by_operator
    if kind in _LINEAR:
        return _in_order(_linear)
    if kind is S6:
        return _in_order(_selective)
    if kind in (SSD, MLSTM):
        return _by_pairs
    if kind is Accumulator or (kind is IndRNN and all(_is_monotone(cell) for cell in cells)):
        return _in_order(_max_affine)
    return None


def _is_monotone(cell: Cell) -> bool:
    # With a negative weight a step falls with h, and max(s·h + a, b) is not closed under composition.
    return bool((cast(IndRNN, cell).recurrent_weight() >= 0).all())


def _along(scan: Scan, cell: Cell, x: Tensor, valid: Tensor | None, direction: str) -> Tensor:
    """Return the outputs (B, D, H, W) of one direction."""
    inside = torch.ones_like(x[:, :1], dtype=torch.bool) if valid is None else valid
    order = (3, 0, 2, 1) if is_horizontal(direction) else (2, 0, 3, 1)
    lines = x.permute(order)  # (T, B, L, G·D)
    # (T, N, G·D) and (T, N, 1) → (T, N, D)
    found = scan(cell, lines.flatten(1, 2), inside.permute(order).flatten(1, 2), is_reversed(direction))
    shape = lines.shape
    found = found.reshape(shape[0], shape[1], shape[2], cell.hidden_size)  # (T, B, L, D)
    return found.permute((1, 3, 2, 0) if is_horizontal(direction) else (1, 3, 0, 2))  # (B, D, H, W)


def _in_order(scan: Callable[[Cell, Tensor, Tensor], Tensor]) -> Scan:
    """Return a scan in the order of the lines as one in both orders."""

    def both(cell: Cell, x: Tensor, inside: Tensor, is_reversed: bool) -> Tensor:
        if not is_reversed:
            return scan(cell, x, inside)
        return scan(cell, x.flip(0), inside.flip(0)).flip(0)

    return both


def _first(inside: Tensor) -> Tensor:
    """Return booleans (T, N, 1): the location has no location inside before it."""
    return torch.cat([torch.ones_like(inside[:1]), ~inside[:-1]])


def _linear(cell: Cell, x: Tensor, inside: Tensor) -> Tensor:
    first = _first(inside)
    a, b = cast(LinearCell, cell).coefficients(x, first if isinstance(cell, RGLRU) else None)
    if cell.initial is not None:
        b = torch.where(first, b + a * cell.initial[0], b)
    a = torch.where(inside & ~first, a, 0.0)
    return traced_linear_scan(a, torch.where(inside, b, 0.0))


def _selective(cell: Cell, x: Tensor, inside: Tensor) -> Tensor:
    a, b = cast(S6, cell).coefficients(x)  # (T, N, D·states)
    a = torch.where(inside & ~_first(inside), a, 0.0)
    return cast(S6, cell).read(x, traced_linear_scan(a, torch.where(inside, b, 0.0)))


def _by_pairs(cell: Cell, x: Tensor, inside: Tensor, is_reversed: bool) -> Tensor:
    lines, kept = x.transpose(0, 1)[None], inside[..., 0].transpose(0, 1)[None]  # (1, N, T, P)
    return cast(ScannedCell, cell).scan(lines, kept, is_reversed)[0].transpose(0, 1)  # (T, N, D)


def _max_affine(cell: Cell, x: Tensor, inside: Tensor) -> Tensor:
    first = _first(inside)
    scale = torch.ones(1) if isinstance(cell, Accumulator) else cast(IndRNN, cell).recurrent_weight()
    if cell.initial is not None:
        x = torch.where(first, x + scale * cell.initial[0], x)
    scale = (inside & ~first).to(x.dtype) * scale
    x = torch.where(inside, x, 0.0)
    return _MaxAffineScan.apply(scale, x, torch.zeros_like(x))  # type: ignore[return-value]


def _by_operator(cell: Cell, x: Tensor, inside: Tensor, is_reversed: bool) -> Tensor:
    operator, order, settings = _OPERATORS[type(cell)]
    size, count = cell.hidden_size, x.shape[1]

    def by_gate(rows: Tensor) -> Tensor:
        parts = rows.chunk(len(order))
        return torch.cat([parts[place] for place in order])[None]  # (1, G·D, …)

    identity = by_gate(torch.eye(size * len(order)))
    bias = x.new_zeros(len(order) * size) if cell.bias_hh is None else cell.bias_hh
    bias = torch.cat([torch.zeros_like(bias)[None], by_gate(bias)], 1)  # (1, 2·G·D)
    initial = [torch.zeros(size)] * cell.num_states if cell.initial is None else cell.initial.unbind()
    states = [state.expand(1, count, size) for state in initial]  # (1, N, D) each
    # A line's locations inside are its first; a scan against it begins at the last of them.
    lengths = inside[..., 0].sum(0).int()  # (N,)
    peepholes = [cell.peephole[list(_PEEPHOLES)].reshape(1, -1)] if isinstance(cell, PeepholeLSTM) else []  # (1, 3·D)
    if isinstance(cell, GRU):
        settings = {"linear_before_reset_i": int(cell.reset == "after")}
    settings = {**settings, "hidden_size_i": size, "direction_s": "reverse" if is_reversed else "forward"}
    inputs = (x, identity, by_gate(cell.weight_hh), bias, lengths, *states, *peepholes)
    return _Recurrence.apply(operator, settings, *inputs)[:, 0]  # type: ignore[index]


def traced_linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """Compute h = a·h + b over the first axis of (T, N, D), in the graph."""
    return _LinearScan.apply(a, b)  # type: ignore[return-value]


# The graph is made of shapes: what these operations return in a trace is read by nothing.


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        return torch.zeros_like(b)

    @staticmethod
    def symbolic(g: Any, a: Any, b: Any) -> Any:
        return g.op(f"{DOMAIN}::LinearScan", a, b).setType(b.type())


class _MaxAffineScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.zeros_like(b)

    @staticmethod
    def symbolic(g: Any, scale: Any, a: Any, b: Any) -> Any:
        return g.op(f"{DOMAIN}::MaxAffineScan", scale, a, b).setType(b.type())


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operator: str, settings: dict[str, Any], x: Tensor, *rest: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], 1, x.shape[1], settings["hidden_size_i"])

    @staticmethod
    def symbolic(g: Any, operator: str, settings: dict[str, Any], *inputs: Any) -> Any:
        found = g.op(operator, *inputs, **settings, outputs=3 if operator == "LSTM" else 2)[0]
        sizes = list(inputs[0].type().sizes() or [None] * 3)
        shape = [sizes[0], 1, sizes[1], settings["hidden_size_i"]]
        return found.setType(inputs[0].type().with_sizes(shape))
