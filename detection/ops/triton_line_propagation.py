"""`line_propagation` on CUDA: Triton kernels in which a program propagates all lines for a block of a group's channels.

All steps, of all directions, are one launch, forward and backward. A line is taken in tiles; what it reads of the line
before was written to global memory by threads of the same program, before a barrier. States are float32 whatever the
type of the maps. The gradient of the weights is a sum over the channels of a block, and the blocks are added behind, as
are the directions for the gradient of x.
"""

# B images, D hidden size, G groups, H×W map, K directions.

import torch
import triton
import triton.language as tl
from torch import Tensor

from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.layout import as_map, as_rows

MAX_BLOCK = 16
MAX_LINES = 64


@triton.jit
def _place(codes, B, H, W, D, G, BLOCK: tl.constexpr):
    """Return direction, steps, length of a line, its first location, strides along and across, group and channels."""
    k = tl.program_id(0) // B
    code = (codes >> (2 * k)) % 4  # the place of the direction in `DIRECTIONS`
    horizontal = code < 2
    steps = tl.where(horizontal, W, H)
    length = tl.where(horizontal, H, W)
    along = tl.where(horizontal, 1, W)
    across = tl.where(horizontal, W, 1)
    first = (tl.program_id(0) % B).to(tl.int64) * H * W
    if code % 2 == 1:  # left and up
        first += (steps - 1) * along
        along = -along
    size = D // G
    blocks = tl.cdiv(size, BLOCK)
    group = tl.program_id(1) // blocks
    own = tl.program_id(1) % blocks * BLOCK + tl.arange(0, BLOCK)
    return k, steps, length, first, along, across, group, group * size + own, own < size


@triton.jit(do_not_specialize=["codes"])
def _propagate(x, weight, out, codes, B, D, G, H, W, K, LINES: tl.constexpr, BLOCK: tl.constexpr):
    k, steps, length, first, along, across, group, c, is_channel = _place(codes, B, H, W, D, G, BLOCK)
    for t in range(0, steps):
        tl.debug_barrier()  # other threads wrote what is read of the line before
        for top in range(0, length, LINES):
            j = top + tl.arange(0, LINES)
            inside = (j < length)[:, None] & is_channel[None, :]
            location = first + t * along + j.to(tl.int64) * across
            place = ((location * K + k) * D)[:, None] + c[None, :]
            h = tl.load(x + (location * D)[:, None] + c[None, :], inside, 0.0).to(tl.float32)
            for n in tl.static_range(3):  # type: ignore[misc]
                near = j + (n - 1)
                is_near = (near >= 0) & (near < tl.where(t > 0, length, 0)) & (j < length)
                w = tl.load(weight + ((location * K + k) * G + group) * 3 + n, is_near, 0.0).to(tl.float32)
                before = place + ((n - 1) * across - along) * K * D
                h += w[:, None] * tl.load(out + before, is_near[:, None] & inside, 0.0)
            tl.store(out + place, h, inside)


@triton.jit(do_not_specialize=["codes"])
def _propagate_backward(
    grad, out, weight, grad_h, grad_weight, codes, B, D, G, H, W, K, LINES: tl.constexpr, BLOCK: tl.constexpr
):
    k, steps, length, first, along, across, group, c, is_channel = _place(codes, B, H, W, D, G, BLOCK)
    block = tl.program_id(1) % tl.cdiv(D // G, BLOCK)
    for s in range(0, steps):
        tl.debug_barrier()
        t = steps - 1 - s  # against the scan
        for top in range(0, length, LINES):
            j = top + tl.arange(0, LINES)
            inside = (j < length)[:, None] & is_channel[None, :]
            location = first + t * along + j.to(tl.int64) * across
            place = ((location * K + k) * D)[:, None] + c[None, :]
            g = tl.load(grad + place, inside, 0.0).to(tl.float32)
            for n in tl.static_range(3):  # type: ignore[misc]
                near = j - (n - 1)  # of the line after, whose neighbor n this is
                is_near = (near >= 0) & (near < tl.where(s > 0, length, 0)) & (j < length)
                after = location + along - (n - 1) * across
                w = tl.load(weight + ((after * K + k) * G + group) * 3 + n, is_near, 0.0).to(tl.float32)
                known = tl.load(grad_h + ((after * K + k) * D)[:, None] + c[None, :], is_near[:, None] & inside, 0.0)
                g += w[:, None] * known
            tl.store(grad_h + place, g, inside)
            for n in tl.static_range(3):  # type: ignore[misc]
                near = j + (n - 1)
                is_near = (near >= 0) & (near < tl.where(t > 0, length, 0)) & (j < length)
                before = place + ((n - 1) * across - along) * K * D
                h = tl.load(out + before, is_near[:, None] & inside, 0.0).to(tl.float32)
                target = (((block * B * H * W + location) * K + k) * G + group) * 3 + n
                tl.store(grad_weight + target, tl.sum(g * h, 1), j < length)


def launch_line_propagation(x: Tensor, weight: Tensor, directions: str) -> Tensor:
    """Compute `detection.ops.line_propagation.line_propagation` on CUDA."""
    rows, weights = as_rows(x), as_rows(weight)
    out = rows.new_empty(*rows.shape[:3], len(directions.split()) * rows.shape[3], dtype=torch.float32)
    _launch(_propagate, (rows, weights, out), rows.shape, weights.shape[3], directions)
    return as_map(out).to(x.dtype)


def launch_line_propagation_backward(
    grad: Tensor, out: Tensor, weight: Tensor, directions: str
) -> tuple[Tensor, Tensor]:
    """Compute `detection.ops.line_propagation.line_propagation_backward` on CUDA."""
    grads, outs, weights, num = as_rows(grad), as_rows(out), as_rows(weight), len(directions.split())
    b, h, w, channels = grads.shape
    size = channels // num
    groups = weights.shape[3] // num // 3
    blocks = triton.cdiv(size // groups, _block(size // groups))
    grad_h = torch.empty_like(grads, dtype=torch.float32)
    grad_weight = grads.new_empty(blocks, *weights.shape, dtype=torch.float32)
    _launch(
        _propagate_backward,
        (grads, outs, weights, grad_h, grad_weight),
        torch.Size((b, h, w, size)),
        weights.shape[3],
        directions,
    )
    grad_x = grad_h.unflatten(3, (num, size)).sum(3)  # (B, H, W, D)
    return as_map(grad_x.to(grad.dtype)), as_map(grad_weight.sum(0).to(weight.dtype))


def _block(size: int) -> int:
    """Return the channels of a program, for groups of `size` channels."""
    return min(MAX_BLOCK, triton.next_power_of_2(size))


def _launch(kernel, tensors: tuple[Tensor, ...], shape: torch.Size, weights: int, directions: str) -> None:
    """Launch for maps (B, H, W, D) with `weights` = K·G·3 weights a location."""
    b, h, w, d = shape
    names = directions.split()
    groups = weights // len(names) // 3
    block, lines = _block(d // groups), min(MAX_LINES, triton.next_power_of_2(max(h, w)))
    codes = sum(DIRECTIONS.index(name) << (2 * k) for k, name in enumerate(names))  # type: ignore[arg-type]
    grid = len(names) * b, groups * triton.cdiv(d // groups, block)
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(tensors[0]):
        kernel[grid](
            *tensors, codes, b, d, groups, h, w, len(names), lines, block, num_warps=max(1, lines * block // 256)
        )
