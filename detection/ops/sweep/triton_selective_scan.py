"""`selective_scan` on CUDA: Triton kernels in which a program scans one line for a block of channels.

A line is a tile of T×D values, and each of the N states is scanned over it in registers, by an associative scan, so
that states never reach memory. All of it is float32. The gradients of B and C are sums over channels: each program
writes those of its block, and they are added behind.
"""

# B images, L lines, T steps, D channels, N states of a channel, P = 2·D + 2·N pre-activations.

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_TILE = 4096
"""Values of a tile, steps by channels."""

MAX_STEPS = 1024
"""Steps of the longest line, of which a tile then has four channels; longer ones are compiled for minutes."""


@triton.jit
def _softplus(z):
    return tl.maximum(z, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(z)))


@triton.jit
def _compose(a, b, a_next, b_next):
    """Return the step h ↦ a_next·(a·h + b) + b_next."""
    return a_next * a, a_next * b + b_next


@triton.jit
def _tile(T, D, REVERSE: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr):
    """Return the place of each step of a scan in its line, the channels, and what is of the line."""
    t = tl.arange(0, STEPS)
    place = tl.where(t < T, T - 1 - t, t) if REVERSE else t
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    return place, d, (t < T)[:, None] & (d < D)[None, :]


@triton.jit
def _read(lines, bias, line, place, d, known, L, D, stride_b, stride_l, stride_t):
    """Return a pointer to the line, x, and Δ before the softplus."""
    base = lines + (line // L) * stride_b + (line % L) * stride_l
    rows = base + place[:, None].to(tl.int64) * stride_t
    x = tl.load(rows + d[None, :], known, 0.0)
    z = tl.load(rows + D + d[None, :], known, 0.0) + tl.load(bias + d, d < D, 0.0)[None, :]
    return base, x, z


@triton.jit
def _vectors(base, bias, place, n, T, D, stride_t, N: tl.constexpr):
    """Return B and C of a state at each step."""
    vectors = base + place.to(tl.int64) * stride_t + 2 * D + n
    b = tl.load(vectors, place < T, 0.0) + tl.load(bias + D + n)
    c = tl.load(vectors + N, place < T, 0.0) + tl.load(bias + D + N + n)
    return b, c


@triton.jit
def _forward(
    lines,
    decay,
    bias,
    skip,
    inside,
    out,
    L,
    T,
    D,
    stride_b,
    stride_l,
    stride_t,
    N: tl.constexpr,
    MASKED: tl.constexpr,
    REVERSE: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)
    place, d, known = _tile(T, D, REVERSE, STEPS, BLOCK)
    base, x, z = _read(lines, bias, line, place, d, known, L, D, stride_b, stride_l, stride_t)
    step = _softplus(z)
    u = step * x
    open_ = place < T
    if MASKED:
        open_ = tl.load(inside + line * T + place, open_, 0) != 0
    y = x * tl.load(skip + d, d < D, 0.0)[None, :]
    for n in range(0, N):
        a = tl.exp(step * tl.load(decay + d * N + n, d < D, 0.0)[None, :])
        a = tl.where(open_[:, None], a, 0.0)
        b, c = _vectors(base, bias, place, n, T, D, stride_t, N)
        _, h = tl.associative_scan((a, u * b[:, None]), 0, _compose)
        y += h * c[:, None]
    target = out + (line * T + place[:, None]) * D + d[None, :]
    tl.store(target, tl.where(open_[:, None], y, 0.0), known)


@triton.jit
def _backward(
    grad,
    lines,
    decay,
    bias,
    skip,
    inside,
    grad_lines,
    grad_pairs,
    grad_decay,
    grad_bias,
    grad_skip,
    L,
    T,
    D,
    stride_b,
    stride_l,
    stride_t,
    N: tl.constexpr,
    MASKED: tl.constexpr,
    REVERSE: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)
    lines_in_all = tl.num_programs(0)
    place, d, known = _tile(T, D, REVERSE, STEPS, BLOCK)
    base, x, z = _read(lines, bias, line, place, d, known, L, D, stride_b, stride_l, stride_t)
    step = _softplus(z)
    u = step * x
    # The step after each one in the scan, whose decay carries the gradient back; there is none after the last.
    after = place - 1 if REVERSE else place + 1
    has_after = (place < T) & (after >= 0) & (after < T)
    later = base + after[:, None].to(tl.int64) * stride_t + D + d[None, :]
    shift = tl.load(bias + d, d < D, 0.0)[None, :]
    step_after = _softplus(tl.load(later, known & has_after[:, None], 0.0) + shift)
    open_ = place < T
    if MASKED:
        open_ = tl.load(inside + line * T + place, open_, 0) != 0
        has_after = has_after & (tl.load(inside + line * T + after, has_after, 0) != 0)
    location = line * T + place
    dy = tl.load(grad + location[:, None] * D + d[None, :], known & open_[:, None], 0.0)
    du = tl.zeros((STEPS, BLOCK), tl.float32)
    dstep = tl.zeros((STEPS, BLOCK), tl.float32)
    # (blocks, B·L·T, 2·N)
    pairs = grad_pairs + (tl.program_id(1).to(tl.int64) * lines_in_all * T + location) * (2 * N)
    for n in range(0, N):
        rate = tl.load(decay + d * N + n, d < D, 0.0)
        a = tl.where(open_[:, None], tl.exp(step * rate[None, :]), 0.0)
        b, c = _vectors(base, bias, place, n, T, D, stride_t, N)
        taken = u * b[:, None]
        _, h = tl.associative_scan((a, taken), 0, _compose)
        a_after = tl.where(has_after[:, None], tl.exp(step_after * rate[None, :]), 0.0)
        # Equations (1) to (3) of `selective_scan`.
        _, g = tl.associative_scan((a_after, dy * c[:, None]), 0, _compose, reverse=True)
        tl.store(pairs + n, tl.where(open_, tl.sum(g * u, 1), 0.0), place < T)
        tl.store(pairs + N + n, tl.sum(h * dy, 1), place < T)
        du += g * b[:, None]
        q = g * (h - taken)  # a(t)·h(t − 1) = h(t) − u·B
        q = tl.where(open_[:, None], q, 0.0)
        dstep += q * rate[None, :]
        tl.store(grad_decay + (line * D + d) * N + n, tl.sum(q * step, 0), d < D)
    dz = (dstep + du * x) * tl.sigmoid(z)
    dz = tl.where(open_[:, None], dz, 0.0)
    dx = tl.where(open_[:, None], du * step + dy * tl.load(skip + d, d < D, 0.0)[None, :], 0.0)
    own = grad_lines + location[:, None] * (2 * D + 2 * N) + d[None, :]
    tl.store(own, dx, known)
    tl.store(own + D, dz, known)
    tl.store(grad_bias + line * D + d, tl.sum(dz, 0), d < D)
    tl.store(grad_skip + line * D + d, tl.sum(dy * x, 0), d < D)


def fits(lines: Tensor) -> bool:
    """Return whether lines (B, L, T, P) are short enough for a tile."""
    return lines.shape[2] <= MAX_STEPS


def launch_selective_scan(
    lines: Tensor, decay: Tensor, bias: Tensor, skip: Tensor, inside: Tensor | None, reverse: bool
) -> Tensor:
    """Compute `detection.ops.sweep.selective_scan.selective_scan` on CUDA."""
    lines = _by_location(lines)
    out = lines.new_empty(*lines.shape[:3], len(decay))
    grid, sizes, flags = _sizes(lines, decay, inside, reverse)
    vectors = (v.contiguous() for v in (decay, bias, skip))
    _launch(_forward, grid, lines, *vectors, _mask(inside, lines), out, *sizes, *flags)
    return out


def launch_selective_scan_backward(
    grad: Tensor, lines: Tensor, decay: Tensor, bias: Tensor, skip: Tensor, inside: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute `detection.ops.sweep.selective_scan.selective_scan_backward` on CUDA."""
    lines = _by_location(lines)
    size, states = decay.shape
    grid, sizes, flags = _sizes(lines, decay, inside, reverse)
    images, count, length = lines.shape[:3]
    found = torch.empty(lines.shape, dtype=lines.dtype, device=lines.device)
    pairs = lines.new_empty(grid[1], images, count, length, 2 * states)
    sums = [lines.new_empty(images * count, *v.shape) for v in (decay, skip, skip)]
    vectors = (v.contiguous() for v in (decay, bias, skip))
    pointers = grad.contiguous(), lines, *vectors, _mask(inside, lines), found, pairs, *sums
    _launch(_backward, grid, *pointers, *sizes, *flags)
    found[..., 2 * size :] = pairs.sum(0)
    grad_bias = torch.cat([sums[1].sum(0), found[..., 2 * size :].sum((0, 1, 2))])
    return found, sums[0].sum(0), grad_bias, sums[2].sum(0)


def _by_location(lines: Tensor) -> Tensor:
    """Return lines (B, L, T, P), whatever their strides, with the channels of a location in one run of memory."""
    return lines if lines.stride(3) == 1 else lines.contiguous()


def _mask(inside: Tensor | None, lines: Tensor) -> Tensor:
    """Return booleans (B, L, T) as bytes; any tensor where there is no mask, for it is not read."""
    return lines if inside is None else inside.contiguous().view(torch.uint8)


def _sizes(
    lines: Tensor, decay: Tensor, inside: Tensor | None, reverse: bool
) -> tuple[tuple[int, int], tuple[int, ...], tuple[int | bool, ...]]:
    """Return the programs by line and block of channels, the sizes and strides, and the kernels' constants."""
    images, count, length = lines.shape[:3]
    size, states = decay.shape
    steps = triton.next_power_of_2(length)
    block = max(1, min(32, MAX_TILE // steps, triton.next_power_of_2(size)))
    grid = images * count, triton.cdiv(size, block)
    return grid, (count, length, size, *lines.stride()[:3]), (states, inside is not None, reverse, steps, block)


def _launch(kernel, grid: tuple[int, int], *arguments: Tensor | float) -> None:
    *_, steps, block = arguments
    # 16 values of a tile to a lane at most: with 32 the backward pass has more than there are registers.
    warps = max(4, int(steps * block) // 512)
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, num_warps=warps)
