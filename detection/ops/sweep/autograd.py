"""Common parts of the LSTM and GRU operations: loops over directions, backward passes in chunks, gradients.

A forward pass keeps one state a location, and of its gates those of one step. The backward pass computes the gates of a
chunk of steps again, from x and the outputs, by one product; all of them would be 3 or 4 feature maps a direction.
Where outputs are in half precision, these gates follow from the rounded ones.

On a CPU, four directions over 2×256×38×50, forward and backward: 1.04 (LSTM) and 1.02 (GRU) times the time that it took
with all gates kept, and 1.9 and 1.7 feature maps of scratch a direction in the place of 8.1 and 6.9 (`detection
benchmark recurrences`), of which one is the state that is kept and half of one weights and their gradients.
"""

# B images, C channels, H×W map, K directions, G gates, D hidden size, P directions scanned together, T steps,
# L lines of an image, N lines of all images, S steps of a chunk.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detection.ops.first_order import refuse_second_derivative
from detection.ops.sweep.layout import as_map, as_rows, empty_map, some_outside, state_type
from detection.ops.sweep.lines import Steps, by_step, groups, read_all, separate_steps, shared_steps

Triple = tuple[Tensor, Tensor, Tensor]

CHUNK = 900
"""Locations of a chunk on a CPU: enough for a large product, few enough for the cache to hold their gates."""


def squash(x: Tensor, out: Tensor) -> Tensor:
    """Compute tanh; on a CPU as 2·σ(2·x) − 1, within 1e-7 in float32 and in a third of the time."""
    if x.device.type != "cpu":
        return torch.tanh(x, out=out)
    return torch.mul(x, 2, out=out).sigmoid_().mul_(2).sub_(1)


def split(lines: Tensor, like: Tensor) -> list[Tensor]:
    """Return lines (P, N, C) as P views (B, L, C) of the shape of a step's view."""
    return [line.view(*like.shape[:2], -1) for line in lines.unbind()]


@dataclass(frozen=True)
class Chunk:
    """Consecutive steps of P directions in a backward pass.

    Attributes:
        steps: their places in the scan.
        xs: views (B, L, G·D) of the pre-activations, step by step.
        grads: views (B, L, D) of the gradients of the outputs.
        totals: views (B, L, G·D) of the gradients of x, summed over directions.
        is_first: whether `totals` is not yet written.
        before: (P, S, N, D), the outputs one step before, zeros before the first.
        states: (P, T, N, D), what the forward pass kept, of all steps.
        outside: (P, S, N, 1) booleans, the locations outside of the image; None where there are none.
    """

    steps: range
    xs: Steps
    grads: Steps
    totals: Steps
    is_first: bool
    before: Tensor
    states: Tensor
    outside: Tensor | None

    def collect(self, s: int, parts: Sequence[Tensor], columns: slice = slice(None)) -> None:
        """Add the gradients (B, L, …) of some columns of the pre-activations, for each of P directions."""
        for view, part in zip(self.totals[s], parts, strict=True):
            view = view[..., columns]
            view.copy_(part) if self.is_first else view.add_(part)


def allocate_states(x: Tensor, weight: Tensor, keep: bool) -> Tensor:
    """Allocate a state (K, T·N, D) at each location of x (B, C, H, W), for weight (K, G·D, D); none unless `keep`."""
    return weight.new_empty(len(weight), x.shape[0] * x.shape[2] * x.shape[3] if keep else 0, weight.shape[2])


def gated_sweep(
    scan: Callable[..., None], rows: Tensor, weight: Tensor, bias: Tensor | None, directions: str, keep: bool
) -> tuple[Tensor, Tensor]:
    """Compute the operation `sweep` of `register` on rows (B, H, W, G·D), closed outside of the image.

    `scan` reads views of the rows and writes to those of the outputs, step by step, and to the state kept.
    """
    bias = weight.new_zeros(weight.shape[:2]) if bias is None else bias
    out = rows.new_empty(*rows.shape[:3], len(weight), weight.shape[2])  # (B, H, W, K, D)
    states = allocate_states(as_map(rows), weight, keep)
    for places, names in groups(directions, weight.device):
        xs, outs = shared_steps(rows, names), separate_steps(out[:, :, :, places], names)
        scan(xs, outs, weight[places], bias[places], by_step(states[places], len(xs)).unbind(1) if keep else None)
    return as_map(out.flatten(3)), states  # (B, K·D, H, W) first


def gated_sweep_backward(
    begin: Callable[..., Callable[[Chunk], Tensor]],
    grad: Tensor,
    out: Tensor,
    kept: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    valid: Tensor | None,
    directions: str,
) -> Triple:
    """Return the gradients of x as rows (B, H, W, G·D), of weight and of bias.

    `begin` starts at the end of a scan, with the weight and bias of its directions, memory (P, S, N, 4·D) for a chunk,
    and a view (B, L, …) of a step. It returns what goes back over a chunk: it collects the gradients of x, and returns
    those of U h + b (P, S, N, G·D).
    """
    bias = weight.new_zeros(weight.shape[:2]) if bias is None else bias
    rows = as_rows(x)
    grads, outs = (as_rows(t).unflatten(3, (len(weight), -1)) for t in (grad, out))  # (B, H, W, K, D)
    total = torch.empty_like(rows, dtype=state_type(grad))
    grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    for places, names in groups(directions, weight.device):
        # Of two directions at once each adds to it; the first alone writes to it, which saves the zeros.
        if places.start == 0 and len(names) > 1:
            total.zero_()
        scans = [shared_steps(t, names) for t in (rows, total)]
        scans += [separate_steps(t[:, :, :, places], names) for t in (grads, outs)]
        is_first = places.start == 0 and len(names) == 1
        states, outside = by_step(kept[places], len(scans[0])), _outside(valid, names)
        sums = grad_weight[places], grad_bias[places]
        _scan_back(begin, states, weight[places], bias[places], outside, scans, is_first, sums)
    return total, grad_weight, grad_bias


def _scan_back(
    begin: Callable[..., Callable[[Chunk], Tensor]],
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    outside: Tensor | None,
    scans: Sequence[Steps],
    is_first: bool,
    sums: tuple[Tensor, Tensor],
) -> None:
    """Go back over the chunks of P directions; add to `sums`, the gradients of weight (P, G·D, D) and bias (P, G·D).

    `scans` are views of x, of the sum of its gradients, of the outputs' gradients and of the outputs.
    """
    xs, totals, grads, outs = scans
    length, most = len(xs), _chunk_length(states)
    before = torch.empty_like(states[:, :most])
    gates = before.new_empty(*before.shape[:3], 4 * before.shape[3])
    go_back = begin(weight, bias, gates, grads[0][0])
    for end in range(length, 0, -most):
        steps = range(max(0, end - most), end)
        part = slice(steps.start, end)
        masks = None if outside is None else outside[:, part]
        outputs = _before(before, outs, steps)
        chunk = Chunk(steps, xs[part], grads[part], totals[part], is_first, outputs, states, masks)
        g = go_back(chunk).flatten(1, 2)  # (P, S·N, G·D)
        sums[0].baddbmm_(g.transpose(1, 2), outputs.flatten(1, 2))  # (P, G·D, S·N) by (P, S·N, D)
        sums[1].add_(g.sum(1))


def _chunk_length(states: Tensor) -> int:
    """Return the steps of a chunk for states (P, T, N, D): all on an accelerator, for which launches are dear."""
    length, lines = states.shape[1:3]
    return max(1, min(length, CHUNK // max(lines, 1))) if states.device.type == "cpu" else length


def _before(memory: Tensor, outs: Steps, steps: range) -> Tensor:
    """Fill memory (P, most, N, D) with the outputs one step before each of some steps."""
    before = memory[:, : len(steps)]
    if steps.start == 0:
        before[:, 0] = 0
        read_all(before[:, 1:], outs[: steps.stop - 1])
        return before
    return read_all(before, outs[steps.start - 1 : steps.stop - 1])


def _outside(valid: Tensor | None, names: list[str]) -> Tensor | None:
    """Return the locations outside of the mask as booleans (P, T, N, 1); None where there are none."""
    if valid is None or not some_outside(valid):
        return None
    scans = shared_steps(~as_rows(valid), names)
    return torch.stack([torch.stack([view.reshape(-1, 1) for view in views]) for views in scans], 1)


def register(sweep: Any, sweep_backward: Any) -> None:
    """Register shapes and gradient of the operation `sweep(x, weight, bias, valid, directions, keep)`.

    Args:
        sweep: returns the outputs and the states that are kept.
        sweep_backward: (gradient of the outputs, those two, x, weight, bias, valid, directions) → gradients of x,
            weight and bias.
    """

    def fake(x: Tensor, weight: Tensor, bias: Any, valid: Any, directions: str, keep: bool) -> tuple[Tensor, Tensor]:
        return empty_map(x, len(weight) * weight.shape[2]), allocate_states(x, weight, keep)

    def fake_backward(grad: Tensor, out: Tensor, kept: Tensor, x: Tensor, weight: Tensor, *_: Any) -> Triple:
        return empty_map(grad, weight.shape[1]), torch.empty_like(weight), weight.new_empty(weight.shape[:2])

    def keep_states(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        x, weight, bias, valid, ctx.directions, _ = inputs
        ctx.set_materialize_grads(False)  # nobody reads the kept states, so their gradient needs no zeros
        ctx.save_for_backward(*output, x, weight, bias, valid)

    def gradients(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        saved = ctx.saved_tensors  # read once, which is as often as an activation checkpoint permits
        bias = saved[4]
        grad_x, grad_weight, grad_bias = sweep_backward(grad, *saved, ctx.directions)
        return grad_x, grad_weight, None if bias is None else grad_bias, None, None, None

    sweep.register_fake(fake)
    sweep_backward.register_fake(fake_backward)
    sweep.register_autograd(gradients, setup_context=keep_states)
    refuse_second_derivative(sweep_backward, "detection.ops.sweep.dispatch.sweep")
