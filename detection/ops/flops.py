"""FLOPs of the sweeps, for `torch.utils.flop_counter.FlopCounterMode`, which knows only PyTorch's operations.

As there, a multiply-add of a matrix product counts 2. Of the cells without products each addition, multiplication and
maximum of the scan counts 1. Pointwise work next to a product and the gates of minGRU and minLSTM count 0, as all
pointwise work does in PyTorch. Importing this module registers the formulas.
"""

# B images, D hidden size, H×W map, K directions, N states of a channel.

import math
from collections.abc import Sequence

import torch
from torch.utils.flop_counter import register_flop_formula

from detection.ops import cross_scan, line_propagation  # noqa: F401 - defines the operations
from detection.ops.grid import linear as grid_linear  # noqa: F401
from detection.ops.grid import lstm as grid  # noqa: F401
from detection.ops.sweep import (  # noqa: F401 - defines the operations
    accumulate,
    gated_scan,
    gru,
    linear_scan,
    lstm,
    matrix_rnn,
    selective_scan,
)

ops = torch.ops.detection


def _product(state: Sequence[int], weight: Sequence[int]) -> int:
    """Return what a product of the states at all locations of a map (B, …, H, W) with U (K, G·D, D) costs."""
    return 2 * state[0] * state[2] * state[3] * math.prod(weight)


@register_flop_formula(ops.accumulate)
def _(x, weight, valid, directions, *_, **__) -> int:
    """Count a sum and a maximum; the product with u."""
    return len(directions.split()) * math.prod(x) * (2 if weight is None else 3)


@register_flop_formula(ops.accumulate_backward)
def _(grad, out, weight, *_, **__) -> int:
    """Count a sum along the scan, the maximum's mask, the sum over directions; with u two products and a sum more."""
    return math.prod(grad) * (3 if weight is None else 6)


@register_flop_formula(ops.gated_scan)
def _(x, vectors, *_, **__) -> int:
    """Count a product and a sum; the gates count 0. The backward pass has a sum and two products."""
    return 2 * x[0] * x[2] * x[3] * vectors[0] * vectors[2]


@register_flop_formula(ops.gated_scan_backward)
def _(grad, *_, **__) -> int:
    return 3 * math.prod(grad)


@register_flop_formula(ops.linear_scan)
def _(a, *_, **__) -> int:
    """Count a product and a sum."""
    return 2 * math.prod(a)


@register_flop_formula(ops.linear_scan_backward)
def _(grad, *_, **__) -> int:
    """Count a sum and two products."""
    return 3 * math.prod(grad)


@register_flop_formula(ops.selective_scan)
def _(lines, decay, *_, **__) -> int:
    """Count a product and a sum for each of N states, and their product with C."""
    return 4 * math.prod(lines[:3]) * math.prod(decay)


@register_flop_formula(ops.selective_scan_backward)
def _(grad, lines, decay, *_, **__) -> int:
    """Count the states again, their gradients, and a product and a sum for each of u, B, C and A."""
    return 12 * math.prod(lines[:3]) * math.prod(decay)


@register_flop_formula(ops.route_scan)
def _(a, *_, **__) -> int:
    """Count a product and a sum, twice, and the product of what is kept along each line."""
    return 5 * math.prod(a)


@register_flop_formula(ops.route_scan_backward)
def _(grad, *_, **__) -> int:
    """Count the same against the route, and the product for the gradient of what is kept."""
    return 6 * math.prod(grad)


@register_flop_formula(ops.line_propagation)
def _(x, weight, directions, *_, **__) -> int:
    """Count a product and a sum for each of three neighbors."""
    return 6 * len(directions.split()) * math.prod(x)


@register_flop_formula(ops.line_propagation_backward)
def _(grad, *_, **__) -> int:
    """Count them for the gradients of states and of weights, and the sum over directions."""
    return 13 * math.prod(grad)


@register_flop_formula([ops.matrix_rnn, ops.lstm, ops.gru])
def _(x, weight, *_, **__) -> int:
    """Count the states' product with U."""
    return _product(x, weight)


@register_flop_formula(ops.matrix_rnn_backward)
def _(grad, out, weight, *_, **__) -> int:
    """Count a product for the gradient of the states and one for that of U; so in the next two."""
    return 2 * _product(grad, weight)


@register_flop_formula(ops.lstm_backward)
def _(grad, out, c, x, weight, *_, **__) -> int:
    """Count a product more: the gates are computed again."""
    return 3 * _product(grad, weight)


@register_flop_formula(ops.gru_backward)
def _(grad, out, new, x, weight, *_, **__) -> int:
    """Count two thirds of a product more: r and z are computed again."""
    return 2 * _product(grad, weight) + 2 * _product(grad, weight) // 3


@register_flop_formula(ops.grid_lstm)
def _(x, weight, *_, **__) -> int:
    """Count the product of both neighbors' states with U."""
    return _product(x, weight)


@register_flop_formula(ops.grid_lstm_backward)
def _(grad, out, gates, states, weight, *_, **__) -> int:
    return 2 * _product(grad, weight)


@register_flop_formula(ops.grid_linear)
def _(value, gates, valid, corners, *_, **__) -> int:
    """Count the product of a value and both states with nine gates."""
    return 15 * len(corners.split()) * math.prod(value)


@register_flop_formula(ops.grid_linear_backward)
def _(grad, *_, **__) -> int:
    """Count the states again, the product with the transposed gates, that for each gate, and the sum over corners."""
    return 44 * math.prod(grad)
