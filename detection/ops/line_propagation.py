"""Line propagation: each location of a line takes its state from three neighbors in the line before.

    h_i(j) = w_i(j, −1)·h_{i−1}(j − 1) + w_i(j, 0)·h_{i−1}(j) + w_i(j, 1)·h_{i−1}(j + 1) + x_i(j)

The spatial propagation network (Liu et al. 2017), from its formula; GSPN (Wang et al. 2025) shares the weights between
channels, here within each of G groups. Rows of weights are at least 0 and sum to 1, so that states stay bounded
(`neighbor_weights`). Memory is channels last. Only the output is kept for the backward pass,

    g_i(j) = ∂L/∂h_i(j) + Σ_n w_{i+1}(j − n, n)·g_{i+1}(j − n),      (1)
    ∂L/∂w_i(j, n) = Σ g_i(j)·h_{i−1}(j + n) over a group's channels,  (2)

and the gradient of x is the sum of g over directions.
"""

# B images, D hidden size, G groups, H×W map, K directions, L locations of a line.

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn import functional as F

from detection.ops.first_order import refuse_second_derivative
from detection.ops.sweep.directions import is_horizontal, is_reversed, steps
from detection.ops.sweep.layout import as_map, as_rows, empty_map, state_type
from detection.ops.sweep.triton_dispatch import line_kernels, use_triton

NEIGHBORS = 3
"""Neighbors in the line before: with the smaller index along the line, the same and the larger one."""

_FAR = -1e30
"""Logit of a neighbor outside; not −∞, of which a softmax without any neighbor would make NaN."""


def neighbor_weights(logits: Tensor, valid: Tensor | None, directions: Sequence[str]) -> Tensor:
    """Return weights (B, K·G·3, H, W) ≥ 0 that sum to 1 over the neighbors inside the image, in float32 or wider.

    They are 0 for neighbors outside of `valid` and of the map, and at locations outside; all are where a line has no
    neighbor in the line before, so that states begin at 0 there.

    Args:
        logits: (B, K·G·3, H, W), ordered by direction, group and neighbor.
        valid: (B, 1, H, W) booleans; None for all.
        directions: K names.
    """
    inside = torch.ones_like(logits[:, :1], dtype=torch.bool) if valid is None else valid
    near = torch.stack([_neighbors(inside, direction) for direction in directions], 1)  # (B, K, 3, H, W)
    near = near[:, :, None] & inside[:, :, None, None]  # (B, K, 1, 3, H, W)
    grouped = logits.to(state_type(logits)).unflatten(1, (len(directions), -1, NEIGHBORS))  # (B, K, G, 3, H, W)
    # Without any neighbor the softmax is 1/3 each, and the product 0.
    return (grouped.where(near, _FAR).softmax(3) * near).flatten(1, 3)  # (B, K·G·3, H, W)


def _neighbors(inside: Tensor, direction: str) -> Tensor:
    """Return whether each of three neighbors in the line before is inside: (B, 1, H, W) → (B, 3, H, W)."""
    h, w = inside.shape[2:]
    padded = F.pad(inside, (1, 1, 1, 1))
    before = 2 if is_reversed(direction) else 0  # where the lines before begin in the padded map
    if is_horizontal(direction):
        return torch.cat([padded[:, :, n : n + h, before : before + w] for n in range(NEIGHBORS)], 1)
    return torch.cat([padded[:, :, before : before + h, n : n + w] for n in range(NEIGHBORS)], 1)


@custom_op("detection::line_propagation", mutates_args=())
def line_propagation(x: Tensor, weight: Tensor, directions: str) -> Tensor:
    """Compute the states h (B, K·D, H, W) in channels-last memory, in the type of x.

    Args:
        x: (B, D, H, W), what a step adds, the same for all directions; states are float32 where it is half precision.
        weight: (B, K·G·3, H, W), of `neighbor_weights`; G divides D.
        directions: K names separated by spaces.
    """
    names = directions.split()
    if use_triton(x) and x.numel():
        return line_kernels().launch_line_propagation(x, weight, directions)
    rows, weights = _grouped(x, weight, len(names))
    out = rows.new_empty(*rows.shape[:3], len(names), *rows.shape[3:])  # (B, H, W, K, G, D/G)
    for k, name in enumerate(names):
        xs = steps(rows, name)
        hs, lower, upper = (steps(t, name) for t in _shifts(out[:, :, :, k], name))
        to_upper, same, to_lower = _by_neighbor(weights[:, :, :, k], name)
        hs[0].copy_(xs[0])
        for t in range(1, len(xs)):
            torch.addcmul(xs[t], same[t], hs[t - 1], out=hs[t])
            upper[t].addcmul_(to_upper[t], lower[t - 1])  # w(j, −1)·h(j − 1)
            lower[t].addcmul_(to_lower[t], upper[t - 1])  # w(j, 1)·h(j + 1)
    return as_map(out.flatten(3)).to(x.dtype)  # (B, K·D, H, W)


@line_propagation.register_fake
def _(x: Tensor, weight: Tensor, directions: str) -> Tensor:
    return empty_map(x, len(directions.split()) * x.shape[1])


@custom_op("detection::line_propagation_backward", mutates_args=())
def line_propagation_backward(grad: Tensor, out: Tensor, weight: Tensor, directions: str) -> tuple[Tensor, Tensor]:
    """Return the gradients of x (B, D, H, W) and of the weights (B, K·G·3, H, W)."""
    names = directions.split()
    if use_triton(grad) and grad.numel():
        return line_kernels().launch_line_propagation_backward(grad, out, weight, directions)
    num, size = len(names), grad.shape[1] // len(names)
    wide, weights = _grouped(out, weight, num)
    groups = weights.shape[4]
    # (B, H, W, K, G, D/G) each
    outs, grads = (t.reshape(*wide.shape[:3], num, groups, size // groups) for t in (wide, as_rows(grad)))
    total = wide.new_empty(*wide.shape[:3], groups, size // groups)
    grad_weight = torch.zeros_like(weights)  # (B, H, W, K, G, 3)
    for k, name in enumerate(names):
        _propagate_back(
            grads[:, :, :, k], outs[:, :, :, k], weights[:, :, :, k], name, total, grad_weight[:, :, :, k], k
        )
    return as_map(total.flatten(3).to(grad.dtype)), as_map(grad_weight.flatten(3).to(weight.dtype))


@line_propagation_backward.register_fake
def _(grad: Tensor, out: Tensor, weight: Tensor, directions: str) -> tuple[Tensor, Tensor]:
    return empty_map(grad, grad.shape[1] // len(directions.split())), empty_map(weight, weight.shape[1])


def _propagate_back(
    grads: Tensor, outs: Tensor, weights: Tensor, name: str, total: Tensor, grad_weight: Tensor, k: int
) -> None:
    """Add the gradients of x (B, H, W, G, D/G) along one direction to `total`, and write those of the weights."""
    gs, totals, hs = (steps(t, name) for t in (grads, total, outs))
    _, lower, upper = (steps(t, name) for t in _shifts(outs, name))
    weight_to_upper, same, weight_to_lower = _by_neighbor(weights, name)
    to_upper, to_same, to_lower = _by_neighbor(grad_weight, name)
    g, after, product = (torch.empty_like(gs[0], dtype=outs.dtype).contiguous() for _ in range(3))
    for t in reversed(range(len(gs))):
        if t + 1 < len(gs):
            torch.addcmul(gs[t], same[t + 1], after, out=g)  # equation (1)
            _lower(g).addcmul_(weight_to_upper[t + 1], _upper(after))
            _upper(g).addcmul_(weight_to_lower[t + 1], _lower(after))
        else:
            g.copy_(gs[t])
        totals[t].copy_(g) if k == 0 else totals[t].add_(g)
        if t > 0:  # equation (2)
            _sum_of_products(g, hs[t - 1], product, to_same[t])
            _sum_of_products(_upper(g), lower[t - 1], _upper(product), to_upper[t])
            _sum_of_products(_lower(g), upper[t - 1], _lower(product), to_lower[t])
        g, after = after, g  # the next step overwrites what this one read


def _sum_of_products(a: Tensor, b: Tensor, product: Tensor, out: Tensor) -> None:
    torch.mul(a, b, out=product)
    torch.sum(product, -1, keepdim=True, out=out)


def _upper(lines: Tensor) -> Tensor:
    """Return the locations of lines (B, L, …) that have a neighbor with a smaller index."""
    return lines[:, 1:]


def _lower(lines: Tensor) -> Tensor:
    """Return the locations of lines (B, L, …) that have a neighbor with a larger index."""
    return lines[:, :-1]


def _grouped(x: Tensor, weight: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Return x as rows (B, H, W, G, …) and the weights as (B, H, W, K, G, 3), both in the states' type."""
    weights = as_rows(weight).to(state_type(x)).unflatten(3, (num, -1, NEIGHBORS))
    return as_rows(x).to(state_type(x)).unflatten(3, (weights.shape[4], -1)), weights


def _shifts(rows: Tensor, direction: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return a map (B, H, W, …), it without the last location of each line, and without the first."""
    across = 1 if is_horizontal(direction) else 2
    length = rows.shape[across] - 1
    return rows, rows.narrow(across, 0, length), rows.narrow(across, 1, length)


def _by_neighbor(weights: Tensor, direction: str) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return weights (B, H, W, G, 3) step by step, (B, L, G, 1) each, of the three neighbors.

    Those of the first neighbor are without the first location, which has none, and those of the third without the last.
    """
    first, same, third = weights.unsqueeze(-2).unbind(-1)
    return (
        steps(_shifts(first, direction)[2], direction),
        steps(same, direction),
        steps(_shifts(third, direction)[1], direction),
    )


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    _, weight, ctx.directions = inputs
    ctx.save_for_backward(output, weight)


def _backward(ctx, grad: Tensor):
    return *line_propagation_backward(grad, *ctx.saved_tensors, ctx.directions), None


line_propagation.register_autograd(_backward, setup_context=_keep)
refuse_second_derivative(line_propagation_backward)


def line_propagation_by_steps(x: Tensor, weight: Tensor, directions: str) -> Tensor:
    """Compute `line_propagation` by its definition, line by line under autograd: its reference, and its ONNX graph."""
    outputs = []
    wide = x.to(state_type(x))
    maps = weight.to(wide.dtype).unflatten(1, (len(directions.split()), -1, NEIGHBORS)).unbind(1)  # (B, G, 3, H, W)
    for name, own in zip(directions.split(), maps, strict=True):
        along = 3 if is_horizontal(name) else 2
        lines, weights = wide.unbind(along), own.unbind(along + 1)
        order = range(len(lines))
        h, found = None, {}
        for t in reversed(order) if is_reversed(name) else order:
            if h is None:
                h = lines[t]
            else:
                padded = F.pad(h, (1, 1)).unflatten(1, (own.shape[1], -1))  # (B, G, D/G, L + 2)
                near = [padded[..., n : n + h.shape[2]] * weights[t][:, :, n, None] for n in range(NEIGHBORS)]
                h = (near[0] + near[1] + near[2]).flatten(1, 2) + lines[t]  # (B, D, L)
            found[t] = h
        outputs.append(torch.stack([found[t] for t in order], along))
    return torch.cat(outputs, 1).to(x.dtype)
