"""The two-dimensional LSTM (MDLSTM; Graves, Fernández, Schmidhuber 2007) over a feature map, from its corners.

    i, f, f', o = σ(x + U h + U' h' + b),  g = tanh(likewise),
    c = f·c + f'·c' + i·g,  h = o·tanh(c)       of the vertical neighbor h, c and the horizontal one h', c'

and in its stable form (Leifert et al. 2016; recalled), where f is how much is kept and f' which neighbor's,

    c = f·(f'·c + (1 − f')·c') + i·g.

Without the peepholes of the first paper. By anti-diagonals: a step is two products for all its locations of all images.
The operation keeps gates and cell states in the order of the scan; its backward pass sums the gradient of U in chunks.
Outside the image the pre-activations of i, f and f' are −∞, which makes c and h exactly 0 and lets no gradient through.
It has no Triton kernel: each step multiplies all channels' states by U, which does not fit one program, and in one
launch its programs would have to wait for each other at every diagonal, for which Triton has no barrier.
"""

# B images, D hidden size, H×W map, K corners, n locations of a diagonal, N = H·W·B locations of a scan.

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.library import custom_op

from detection.ops.first_order import refuse_second_derivative
from detection.ops.grid.corners import AntiDiagonal, anti_diagonals, by_anti_diagonal, from_anti_diagonals, shifted
from detection.ops.sweep.autograd import CHUNK, squash
from detection.ops.sweep.dispatch import refuse_forward_mode
from detection.ops.sweep.layout import as_map, as_rows, close, empty_map, state_type
from detection.ops.sweep.traced import refuse_any_length

Backend = Literal["auto", "ours", "steps"]

GATES = 5
CLOSED = (-torch.inf, -torch.inf, -torch.inf, 0.0, 0.0)
"""Pre-activations outside the image, by gate: i, f of the vertical neighbor, f' of the horizontal one, o, g."""

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


def scan_grid_lstm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    valid: Tensor | None,
    corners: Sequence[str],
    *,
    stable: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Compute `grid_lstm` by the operation, or `grid_lstm_by_steps` where it cannot be: in a trace, on a Mac's GPU.

    Args:
        x: as there, in any type; states are kept in float32 or wider.
        weight: as there.
        bias: as there.
        valid: as there.
        corners: K names.
        stable: as there.
        backend: `ours` or `steps`; `auto` for the fastest.

    Raises:
        UserError: maps of any size are wanted of an export.
        NotImplementedError: forward-mode differentiation through `ours`, which has no such derivative.
    """
    exported = torch.onnx.is_in_onnx_export()
    if exported:
        refuse_any_length("GridLSTM has no ONNX operator and no associative form")
    if backend == "auto":
        backend = "steps" if exported or x.device.type == "mps" or x.numel() == 0 else "ours"
    wide = state_type(x)
    weight, bias = weight.to(wide), bias.to(wide)
    with torch.autocast(x.device.type, enabled=False):
        if backend == "steps":
            return grid_lstm_by_steps(x, weight, bias, valid, corners, stable)
        refuse_forward_mode(x, weight, bias, name="grid_lstm", instead="backend='steps', or reverse mode")
        keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias))
        return grid_lstm(x, weight, bias, valid, " ".join(corners), stable, keep)[0]


def grid_lstm_by_steps(
    x: Tensor, weight: Tensor, bias: Tensor, valid: Tensor | None, corners: Sequence[str], stable: bool = False
) -> Tensor:
    """Compute `grid_lstm` diagonal by diagonal in autograd, from the sheared map: its reference.

    Args:
        x: (B, 5·D, H, W).
        weight: (K, 5·D, 2·D).
        bias: (K, 5·D).
        valid: (B, 1, H, W) booleans; None for all.
        corners: K names.
        stable: whether both neighbors' states are averaged, so that c stays in range over any map.

    Returns:
        The outputs (B, K·D, H, W) in the type of x.
    """
    wide = x.to(state_type(x))
    inside = torch.ones_like(x[:, :1], dtype=torch.bool) if valid is None else valid
    outputs = []
    for corner, own_weight, own_bias in zip(corners, weight, bias, strict=True):
        seen = by_anti_diagonal(torch.where(inside, wide, 0.0), corner)  # (T, B, H, 5·D)
        mask = by_anti_diagonal(inside.to(wide.dtype), corner)  # (T, B, H, 1)
        outputs.append(from_anti_diagonals(_steps(seen, mask, own_weight, own_bias, stable), corner))
    return torch.cat(outputs, 1).to(x.dtype)


def _steps(x: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stable: bool) -> Tensor:
    h = c = x.new_zeros(*x.shape[1:3], weight.shape[1] // 2)  # (B, H, D)
    outputs = []
    for x_t, inside in zip(x.unbind(), mask.unbind(), strict=True):
        both = torch.cat([shifted(h), h], -1)
        gates = x_t + torch.nn.functional.linear(both, weight, bias)
        i, f, other_f, o, g = gates.chunk(GATES, -1)
        f, other_f = torch.sigmoid(f), torch.sigmoid(other_f)
        if stable:
            f, other_f = f * other_f, f * (1 - other_f)
        c = f * shifted(c) + other_f * c + torch.sigmoid(i) * torch.tanh(g)
        c = c * inside
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs)  # (T, B, H, D)


@custom_op("detection::grid_lstm", mutates_args=())
def grid_lstm(
    x: Tensor, weight: Tensor, bias: Tensor, valid: Tensor | None, corners: str, stable: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the scans of a two-dimensional LSTM, gates in the order i, f (vertical), f' (horizontal), o, g.

    Args:
        x: (B, 5·D, H, W), pre-activations that all corners share.
        weight: U of the vertical neighbor and U' of the horizontal one (K, 5·D, 2·D), in the states' type.
        bias: (K, 5·D), likewise.
        valid: (B, 1, H, W) booleans; None for all.
        corners: K names separated by spaces.
        stable: whether both neighbors' states are averaged.
        keep: whether to keep what a backward pass needs.

    Returns:
        The outputs (B, K·D, H, W) in channels-last memory, in the type of x; the gates (K, N, 5·D) and the cell states
        (K, N, D) in the order of each scan, empty unless `keep`.
    """
    rows = close(as_rows(x), valid, *CLOSED)
    size = weight.shape[2] // 2
    out = rows.new_empty(*rows.shape[:3], len(weight), size)  # (B, H, W, K, D)
    gates, states = _allocate(x, weight, keep)
    for k, corner in enumerate(corners.split()):
        kept = (gates[k], states[k]) if keep else None
        _scan(rows, out[:, :, :, k], weight[k], bias[k], corner, stable, kept)
    return as_map(out.flatten(3)), gates, states  # (B, K·D, H, W) first


def _allocate(x: Tensor, weight: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    count = x.shape[0] * x.shape[2] * x.shape[3] if keep else 0
    return weight.new_empty(len(weight), count, weight.shape[1]), weight.new_empty(
        len(weight), count, weight.shape[2] // 2
    )


def _scan(
    rows: Tensor,
    out: Tensor,
    weight: Tensor,
    bias: Tensor,
    corner: str,
    stable: bool,
    kept: tuple[Tensor, Tensor] | None,
) -> None:
    """Write the outputs (B, H, W, D) of pre-activations (B, H, W, 5·D), and what is kept."""
    images, height, width, _ = rows.shape
    size = weight.shape[1] // 2
    vertical, horizontal = weight.t().split(size)  # (D, 5·D)
    h, c = weight.new_zeros(2, height + 2, images, size).unbind()
    most = min(height, width) * images
    scratch = (weight.new_empty(most, weight.shape[0]), weight.new_empty(most, size)) if kept is None else kept
    shares = weight.new_empty(2, most, size) if stable else None
    for step in anti_diagonals(height, width, corner):
        places = step.places(images) if kept else slice(0, step.count * images)
        gates, state = (part[places] for part in scratch)
        torch.add(step.of(rows), bias, out=gates.view(step.count, images, -1))  # (n, B, 5·D)
        if step.start > 0:  # (n·B, D) of each neighbor by (D, 5·D)
            gates.addmm_(h[step.above].view(-1, size), vertical).addmm_(h[step.own].view(-1, size), horizontal)
        _activate(gates, size)
        i, _, _, o, g = gates.chunk(GATES, 1)
        f, other_f = _forgets(gates, shares)
        own = c[step.own].view(-1, size)
        torch.mul(own, other_f, out=state).addcmul_(c[step.above].view(-1, size), f).addcmul_(i, g)
        own.copy_(state)
        squash(state, out=h[step.own].view(-1, size)).mul_(o)
        step.of(out).copy_(h[step.own])


def _activate(gates: Tensor, size: int) -> None:
    """Turn the pre-activations (n·B, 5·D), of which g are the last, into gates."""
    g = gates[:, -size:]
    if gates.device.type == "cpu":
        g.mul_(2)  # as `squash`, with one logistic function for all
        gates.sigmoid_()
        g.mul_(2).sub_(1)
    else:
        gates[:, :-size].sigmoid_()
        g.tanh_()


def _forgets(gates: Tensor, shares: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what is kept of the vertical and of the horizontal neighbor (n·B, D); `shares` (2, …, D): room for both.

    That is f and f' themselves, or in the stable form, which asks for room, f·f' and f·(1 − f').
    """
    _, f, other_f, _, _ = gates.chunk(GATES, 1)
    if shares is None:
        return f, other_f
    vertical, horizontal = (part[: len(gates)] for part in shares)
    return torch.mul(f, other_f, out=vertical), torch.sub(f, vertical, out=horizontal)


@custom_op("detection::grid_lstm_backward", mutates_args=())
def grid_lstm_backward(
    grad: Tensor, out: Tensor, gates: Tensor, states: Tensor, weight: Tensor, corners: str, stable: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x (B, 5·D, H, W), the weight (K, 5·D, 2·D) and the bias (K, 5·D)."""
    num, size = len(weight), weight.shape[2] // 2
    grads, outs = (as_rows(t).unflatten(3, (num, size)) for t in (grad, out))  # (B, H, W, K, D)
    total = grads.new_zeros(*grads.shape[:3], weight.shape[1], dtype=state_type(grad))
    grad_weight, grad_bias = torch.zeros_like(weight), weight.new_zeros(weight.shape[:2])
    for k, corner in enumerate(corners.split()):
        back = _Back(outs[:, :, :, k], gates[k], states[k], weight[k], (grad_weight[k], grad_bias[k]), stable)
        steps = anti_diagonals(grads.shape[1], grads.shape[2], corner)
        for step, before in zip(reversed(steps), [*reversed(steps[:-1]), None], strict=True):
            back(step, before, step.of(grads[:, :, :, k]), step.of(total))
        back.collect()
    return as_map(total.to(grad.dtype)), grad_weight, grad_bias


class _Back:
    """The way back of one scan: dh and dc (H + 2, B, D) are ∂L/∂h and ∂L/∂c by the diagonals after the present one."""

    def __init__(
        self, out: Tensor, gates: Tensor, states: Tensor, weight: Tensor, sums: tuple[Tensor, Tensor], stable: bool
    ) -> None:
        self.out, self.gates, self.states, self.sums = out, gates, states, sums
        images, height, width, size = out.shape
        self.images, self.size = images, size
        self.of_vertical, self.of_horizontal = weight.split(size, 1)  # (5·D, D)
        self.dh, self.dc, self.h, self.c = weight.new_zeros(4, height + 2, images, size).unbind()
        most = min(height, width) * images
        self.scratch = weight.new_empty(4, most, size)
        self.shares = weight.new_empty(2, most, size) if stable else None
        # Of a chunk: the gradients of pre-activations, and both neighbors' outputs.
        self.memory = weight.new_empty(max(CHUNK, most), weight.shape[0])
        self.neighbors = weight.new_zeros(max(CHUNK, most), 2 * size)
        self.filled = 0

    def __call__(self, step: AntiDiagonal, before: AntiDiagonal | None, grad: Tensor, total: Tensor) -> None:
        """Go back over a diagonal: gradient (n, B, D) of its outputs; add to that of its inputs (n, B, 5·D)."""
        count, size = step.count * self.images, self.size
        if self.filled + count > len(self.memory):
            self.collect()
        part = slice(self.filled, self.filled + count)
        g = self.memory[part]
        dc = self._gradients(step, before, grad, g)
        forgets = _forgets(self.gates[step.places(self.images)], self.shares)
        neighbors = self.neighbors[part]
        for own, column, weight, forget in zip(
            (step.above, step.own), (0, size), (self.of_vertical, self.of_horizontal), forgets, strict=True
        ):
            self.dc[own].view(-1, size).addcmul_(dc, forget)
            if before is not None:
                self.dh[own].view(-1, size).addmm_(g, weight)
                neighbors[:, column : column + size].copy_(self.h[own].view(-1, size))
        if before is None:
            neighbors.zero_()
        total.add_(g.view(total.shape))
        self.filled += count

    def _gradients(self, step: AntiDiagonal, before: AntiDiagonal | None, grad: Tensor, g: Tensor) -> Tensor:
        """Fill g (n·B, 5·D) with the gradients of the pre-activations, empty dh and dc, and return ∂L/∂c (n·B, D)."""
        self._read(before)
        i, f, other_f, o, new = self.gates[step.places(self.images)].chunk(GATES, 1)
        di, df, dother, do, dnew = g.chunk(GATES, 1)
        dh, dc, squashed, d = (part[: len(g)] for part in self.scratch)
        torch.add(self.dh[step.own], grad, out=dh.view(grad.shape))
        squash(self.states[step.places(self.images)], out=squashed)
        _sigmoid_backward(torch.mul(dh, squashed, out=d), o, grad_input=do)
        _tanh_backward(dh.mul_(o), squashed, grad_input=dc)
        dc.add_(self.dc[step.own].view(-1, self.size))
        self.dh.zero_()
        self.dc.zero_()
        _tanh_backward(torch.mul(dc, i, out=d), new, grad_input=dnew)
        _sigmoid_backward(torch.mul(dc, new, out=d), i, grad_input=di)
        vertical, horizontal = (self.c[own].view(-1, self.size) for own in (step.above, step.own))  # (n·B, D) each
        if self.shares is None:
            _sigmoid_backward(torch.mul(dc, vertical, out=d), f, grad_input=df)
            _sigmoid_backward(torch.mul(dc, horizontal, out=d), other_f, grad_input=dother)
        else:
            torch.lerp(horizontal, vertical, other_f, out=squashed)  # ∂c/∂f = f'·c + (1 − f')·c'
            _sigmoid_backward(torch.mul(dc, squashed, out=d), f, grad_input=df)
            torch.sub(vertical, horizontal, out=squashed).mul_(f)  # ∂c/∂f' = f·(c − c')
            _sigmoid_backward(torch.mul(dc, squashed, out=d), other_f, grad_input=dother)
        return dc

    def _read(self, before: AntiDiagonal | None) -> None:
        """Put outputs and states of a diagonal in their rows, zeros elsewhere."""
        self.h.zero_()
        self.c.zero_()
        if before is not None:
            self.h[before.own].copy_(before.of(self.out))
            self.c[before.own].copy_(self.states[before.places(self.images)].view(before.count, self.images, -1))

    def collect(self) -> None:
        """Add a chunk to the gradients of weight (5·D, 2·D) and bias (5·D)."""
        g = self.memory[: self.filled]
        self.sums[0].addmm_(g.t(), self.neighbors[: self.filled])
        self.sums[1].add_(g.sum(0))
        self.filled = 0


@grid_lstm.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Any, valid: Any, corners: str, stable: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return empty_map(x, len(weight) * (weight.shape[2] // 2)), *_allocate(x, weight, keep)


@grid_lstm_backward.register_fake
def _(
    grad: Tensor, out: Tensor, gates: Tensor, states: Tensor, weight: Tensor, corners: str, stable: bool
) -> tuple[Tensor, ...]:
    return empty_map(grad, weight.shape[1]), torch.empty_like(weight), weight.new_empty(weight.shape[:2])


def _keep(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    _, weight, _, _, ctx.corners, ctx.stable, _ = inputs
    ctx.set_materialize_grads(False)  # nobody reads the gates and states, so their gradients need no zeros
    ctx.save_for_backward(*output, weight)


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    return *grid_lstm_backward(grad, *ctx.saved_tensors, ctx.corners, ctx.stable), None, None, None, None


grid_lstm.register_autograd(_backward, setup_context=_keep)
refuse_second_derivative(grid_lstm_backward, "detection.ops.grid.lstm.scan_grid_lstm")
