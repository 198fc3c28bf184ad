"""The selective scan of S6 over lines: h = exp(Δ A)·h + Δ B x for N states a channel, y = ⟨C, h⟩ + d·x.

On a CPU one of the N states of all channels is scanned after the other, for as many lines at once as fill a cache, so
that D·N states never reach memory; the backward pass computes them again. With q = ∂L/∂(Δ A) and u = Δ x,

    g(t) = ∂L/∂h(t) = C(t)·∂L/∂y(t) + a(t + 1)·g(t + 1),    a = exp(Δ A)        (1)
    ∂L/∂u = Σ_n B·g,   ∂L/∂B = Σ_d u·g,   ∂L/∂C = Σ_d h·∂L/∂y                   (2)
    q(t) = a(t)·h(t − 1)·g(t),   ∂L/∂Δ = x·∂L/∂u + Σ_n A·q,   ∂L/∂A = Σ_t Δ·q   (3)

Outside the image a and u are 0, and so is h. What it costs, and why not less: `docs/results/recurrences_cpu.md`.
"""

# B images, L lines, T steps, D channels, N states of a channel, P = 2·D + 2·N pre-activations, M lines of a piece.

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.library import custom_op

from detection.ops.first_order import refuse_second_derivative
from detection.ops.sweep.triton_dispatch import selective_kernels, use_triton

PIECE = 3 * 2**17
"""Values of a piece: few enough for ten such buffers in a cache, enough to hide what it costs to call PyTorch."""

SERIES = (1 / 13, 1 / 11, 1 / 9, 1 / 7, 1 / 5, 1 / 3, 1.0)
"""Coefficients of the series of artanh, whose rest is below 1e-8."""

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


@custom_op("detection::selective_scan", mutates_args=())
def selective_scan(
    lines: Tensor, decay: Tensor, bias: Tensor, skip: Tensor, inside: Tensor | None, reverse: bool
) -> Tensor:
    """Compute y (B, L, T, D) of all steps.

    Args:
        lines: (B, L, T, P), x, Δ before the softplus, B and C; 0 outside the image.
        decay: (D, N), A.
        bias: (D + 2·N,), added to Δ before the softplus, to B and to C.
        skip: (D,), d.
        inside: (B, L, T) booleans; None for all.
        reverse: scan from the last step to the first.
    """
    if _has_kernel(lines):
        return selective_kernels().launch_selective_scan(lines, decay, bias, skip, inside, reverse)
    out = lines.new_empty(*lines.shape[:3], len(decay))
    rates = decay.t().contiguous()  # (N, D), for vectors of strided values take four times as long
    for piece in _pieces(lines, len(decay)):
        x, _, step, b, c = _read(lines[piece], bias, decay)
        keeps = _kept(inside, piece, x)
        u = step * x
        y = x * skip
        a, h = torch.empty_like(u), torch.empty_like(u)
        scan = _in_order(a, h, reverse)
        for n, rate in enumerate(rates):
            _fill(step, rate, u, b[..., n, None], keeps, a, h)
            _scan(scan)
            y.addcmul_(h, c[..., n, None])
        out[piece].copy_(y.transpose(0, 1))  # (M, T, D)
    return out


@selective_scan.register_fake
def _(lines: Tensor, decay: Tensor, *_: object) -> Tensor:
    return lines.new_empty(*lines.shape[:3], len(decay))


@custom_op("detection::selective_scan_backward", mutates_args=())
def selective_scan_backward(
    grad: Tensor, lines: Tensor, decay: Tensor, bias: Tensor, skip: Tensor, inside: Tensor | None, reverse: bool
) -> Gradients:
    """Return the gradients of lines (B, L, T, P), decay (D, N), bias (D + 2·N,) and skip (D,)."""
    if _has_kernel(lines):
        return selective_kernels().launch_selective_scan_backward(grad, lines, decay, bias, skip, inside, reverse)
    sizes = [len(decay)] * 2 + [decay.shape[1]] * 2
    grad_lines = torch.empty(lines.shape, dtype=lines.dtype, device=lines.device)
    grad_decay, grad_bias, grad_skip = (torch.zeros_like(t) for t in (decay, bias, skip))
    for piece in _pieces(lines, len(decay)):
        x, z, step, b, c = _read(lines[piece], bias, decay)
        keeps = _kept(inside, piece, x)
        dy = grad[piece].transpose(0, 1).contiguous()  # (T, M, D)
        grad_skip.add_(torch.mul(dy, x).sum((0, 1)))
        du, dstep, db, dc = _states_backward(dy, x, step, b, c, decay, keeps, reverse, grad_decay)
        dz = dstep.addcmul_(du, x).mul_(z.sigmoid_())
        dx = du.mul_(step).addcmul_(dy, skip)
        found = (t if keeps is None else t.mul_(keeps) for t in (dx, dz, db, dc))
        for view, part in zip(grad_lines[piece].transpose(0, 1).split(sizes, 2), found, strict=True):
            view.copy_(part)
        grad_bias.add_(torch.cat([t.sum((0, 1)) for t in (dz, db, dc)]))
    return grad_lines, grad_decay, grad_bias, grad_skip


@selective_scan_backward.register_fake
def _(grad: Tensor, lines: Tensor, decay: Tensor, bias: Tensor, skip: Tensor, *_: object) -> Gradients:
    made = torch.empty(lines.shape, dtype=lines.dtype, device=lines.device)
    return made, torch.empty_like(decay), torch.empty_like(bias), torch.empty_like(skip)


def _has_kernel(lines: Tensor) -> bool:
    return use_triton(lines) and selective_kernels().fits(lines)


def _states_backward(
    dy: Tensor,
    x: Tensor,
    step: Tensor,
    b: Tensor,
    c: Tensor,
    decay: Tensor,
    keeps: Tensor | None,
    reverse: bool,
    grad_decay: Tensor,
) -> Gradients:
    """Return the gradients of u, of Δ through A, of B and of C; add that of A to `grad_decay`."""
    u = step * x
    du, dstep = torch.empty_like(u), torch.zeros_like(u)
    db, dc = torch.empty_like(b), torch.empty_like(c)
    a, h, g, q = (torch.empty_like(u) for _ in range(4))
    scan, scan_back = _in_order(a, h, reverse), _in_order(a, g, not reverse)
    # Steps whose predecessor is in the line, and those predecessors.
    after, before = (slice(0, -1), slice(1, None)) if reverse else (slice(1, None), slice(0, -1))
    for n, rate in enumerate(decay.t().contiguous()):
        _fill(step, rate, u, b[..., n, None], keeps, a, h)
        _scan(scan)
        torch.sum(torch.mul(h, dy, out=q), 2, out=dc[..., n])  # equation (2), as the next sums
        torch.mul(dy, c[..., n, None], out=g)
        _scan_back(scan_back)
        torch.sum(torch.mul(g, u, out=q), 2, out=db[..., n])
        torch.mul(g, b[..., n, None], out=du) if n == 0 else du.addcmul_(g, b[..., n, None])
        products = torch.mul(g[after], h[before], out=q[after]).mul_(a[after])  # equation (3)
        dstep[after].addcmul_(products, rate)
        grad_decay[:, n].add_(products.mul_(step[after]).sum((0, 1)))
    return du, dstep, db, dc


def _fill(step: Tensor, decay: Tensor, u: Tensor, b: Tensor, keeps: Tensor | None, a: Tensor, h: Tensor) -> None:
    """Fill a and h (T, M, D) with what a step keeps and takes in of one of the N states."""
    # On a CPU exp2 takes a third of the time of exp.
    torch.mul(step, decay * math.log2(math.e), out=a).exp2_()
    if keeps is not None:
        a.mul_(keeps)
    torch.mul(u, b, out=h)


Scan = Sequence[tuple[Tensor, Tensor]]


def _in_order(a: Tensor, h: Tensor, reverse: bool) -> Scan:
    """Return the steps of a and h (T, M, D) in the order of a scan, pairs of (M, D)."""
    pairs = list(zip(a.unbind(), h.unbind(), strict=True))
    return pairs[::-1] if reverse else pairs


def _scan(scan: Scan) -> None:
    """Compute h from what is kept and what is taken in, in place."""
    last = scan[0][1]
    for a, h in scan[1:]:
        last = h.addcmul_(a, last)


def _scan_back(scan: Scan) -> None:
    """Carry gradients back from the end of a line, equation (1), in place."""
    kept, last = scan[0]
    for a, g in scan[1:]:
        last, kept = g.addcmul_(kept, last), a


Place = tuple[int, slice]


def _pieces(lines: Tensor, size: int) -> Iterator[Place]:
    """Yield places of lines of one image: `PIECE` values of D channels at most, or one line."""
    images, count, length = lines.shape[:3]
    most = max(1, PIECE // max(1, length * size))
    most = -(-count // -(-count // most))  # pieces of about one size
    for image in range(images):
        for start in range(0, count, most):
            yield image, slice(start, start + most)


def _kept(inside: Tensor | None, piece: Place, like: Tensor) -> Tensor | None:
    """Return 1 where a location is inside and else 0, (T, M, 1); None where all are."""
    if inside is None or bool(inside[piece].all()):
        return None
    return inside[piece].transpose(0, 1).to(like.dtype, copy=True)[..., None]  # (T, M, 1)


def _read(lines: Tensor, bias: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return x, Δ before and after the softplus (T, M, D), B and C (T, M, N) of lines (M, T, P)."""
    size, states = decay.shape
    x, z, others = lines.transpose(0, 1).split([size, size, 2 * states], 2)  # (T, M, D), (T, M, D), (T, M, 2·N)
    # Of one layout, in which a step is contiguous: a sum would keep that of the lines.
    x, z = x.contiguous(), torch.add(z, bias[:size], out=z.new_empty(z.shape))
    b, c = (others + bias[size:]).chunk(2, 2)
    return x, z, _softplus(z), b, c


def _softplus(z: Tensor) -> Tensor:
    """Compute log(1 + exp z); in float32 on a CPU in a fraction of the time that PyTorch's logarithms take there.

    That is max(z, 0) + log(1 + w) with w = exp(−|z|), and log(1 + w) = 2·artanh(w/(2 + w)), whose series converges by 9
    a term.
    """
    if z.dtype != torch.float32 or z.device.type != "cpu":
        return torch.where(z > 0, z, 0) + torch.log1p(torch.exp(-z.abs()))
    w = z.abs().mul_(-math.log2(math.e)).exp2_()
    square = torch.add(w, 2)
    torch.div(w, square, out=w)
    torch.mul(w, w, out=square)
    first, second, *others = z.new_tensor(SERIES).unbind()
    series = torch.addcmul(second, square, first)
    for coefficient in others:
        torch.addcmul(coefficient, series, square, out=series)
    return torch.addcmul(torch.clamp(z, min=0, out=square), series, w, value=2, out=series)


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad: Tensor):
    return *selective_scan_backward(grad, *ctx.saved_tensors, ctx.reverse), None, None


selective_scan.register_autograd(_backward, setup_context=_keep)
refuse_second_derivative(selective_scan_backward, "detection.ops.sweep.dispatch.sweep")
