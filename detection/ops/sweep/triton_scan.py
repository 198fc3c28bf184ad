"""`accumulate` and `linear_scan` on CUDA: Triton kernels in which a program scans one line for a block of channels.

Maps are channels last, so that a step of a program reads and writes one run of memory. States are float32 whatever the
type of the maps; loads of the steps ahead are pipelined. The mask is read in the kernel. All directions go in one
launch, but for the gradient of `accumulate`: it is summed over directions without atomics, so rows first, then columns.
"""

# B images, C channels, H×W map, K directions, T steps of a line.

import torch
import triton
import triton.language as tl
from torch import Tensor

from detection.ops.sweep.directions import DIRECTIONS, is_horizontal
from detection.ops.sweep.layout import as_map, as_rows

MAX_BLOCK = 128  # channels of a program, four to each of the lanes of its one warp
STAGES = 4


@triton.jit
def _line(code, b, line, H, W):
    """Return the steps of a line (0 if there is none), its first location in the map, and its stride."""
    horizontal = code < 2
    steps = tl.where(horizontal, W, H)
    first = b.to(tl.int64) * H * W + tl.where(horizontal, line * W, line)
    stride = tl.where(horizontal, 1, W)
    if code % 2 == 1:  # left and up
        first += (steps - 1) * stride
        stride = -stride
    return tl.where(line < tl.where(horizontal, H, W), steps, 0), first, stride


@triton.jit
def _place(codes, B, H, W):
    """Return the direction that this program scans, and its line."""
    lines = tl.maximum(H, W)
    scan = tl.program_id(0)
    k = scan // (B * lines)
    steps, first, stride = _line((codes >> (2 * k)) % 4, scan // lines % B, scan % lines, H, W)
    return k, steps, first, stride


@triton.jit(do_not_specialize=["codes"])
def _accumulate(
    x, weight, valid, out, codes, B, C, H, W, K, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr
):
    k, steps, first, stride = _place(codes, B, H, W)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    h = tl.zeros((BLOCK,), tl.float32)
    u = tl.load(weight + k * C + c, c < C, 0.0).to(tl.float32) if WEIGHTED else h
    for t in tl.range(0, steps, num_stages=STAGES):  # type: ignore[misc]
        location = first + t * stride
        h = (h * u if WEIGHTED else h) + tl.load(x + location * C + c, c < C, 0.0).to(tl.float32)
        # Not `tl.maximum`, which makes 0 of a NaN.
        h = tl.where((h < 0) | (tl.load(valid + location) == 0), 0.0, h)
        tl.store(out + (location * K + k) * C + c, h, c < C)


@triton.jit(do_not_specialize=["codes", "places", "num", "written"])
def _accumulate_backward(
    grad,
    out,
    weight,
    total,
    grad_weight,
    codes,
    places,
    num,
    written,
    B,
    C,
    H,
    W,
    K,
    WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Scan the directions along one axis one after the other, so that only this program writes to its line."""
    lines = tl.where(codes % 4 < 2, H, W)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    for j in range(0, num):
        k = (places >> (4 * j)) % 16
        seen = tl.where(written + j > 0, C, 0)  # channels of `total` that hold a sum already
        steps, first, stride = _line((codes >> (2 * j)) % 4, tl.program_id(0) // lines, tl.program_id(0) % lines, H, W)
        g = tl.zeros((BLOCK,), tl.float32)
        product = tl.zeros((BLOCK,), tl.float32)
        u = tl.load(weight + k * C + c, c < C, 0.0).to(tl.float32) if WEIGHTED else g
        for t in tl.range(0, steps, num_stages=STAGES):  # type: ignore[misc]
            location = first + (steps - 1 - t) * stride
            place = (location * K + k) * C + c
            g = (g * u if WEIGHTED else g) + tl.load(grad + place, c < C, 0.0).to(tl.float32)
            g = tl.where(tl.load(out + place, c < C, 0.0).to(tl.float32) > 0, g, 0.0)
            if WEIGHTED:
                last = c < tl.where(t + 1 < steps, C, 0)
                product += g * tl.load(out + place - stride * K * C, last, 0.0).to(tl.float32)
            before = tl.load(total + location * C + c, c < seen, 0.0)
            tl.store(total + location * C + c, before + g, c < C)
        if WEIGHTED:
            tl.store(grad_weight + (tl.program_id(0) * K + k) * C + c, product, c < C)
        # The next direction reads what other threads may have written.
        tl.debug_barrier()


@triton.jit(do_not_specialize=["codes"])
def _linear(a, b, valid, out, codes, B, C, H, W, K, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    k, steps, first, stride = _place(codes, B, H, W)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    h = tl.zeros((BLOCK,), tl.float32)
    for t in tl.range(0, steps, num_stages=STAGES):  # type: ignore[misc]
        location = first + t * stride
        place = (location * K + k) * C + c
        h = tl.load(a + place, c < C, 0.0).to(tl.float32) * h + tl.load(b + place, c < C, 0.0).to(tl.float32)
        h = tl.where(tl.load(valid + location) == 0, 0.0, h)
        tl.store(out + place, h, c < C)


@triton.jit(do_not_specialize=["codes"])
def _linear_backward(
    grad, out, a, valid, grad_a, grad_b, codes, B, C, H, W, K, BLOCK: tl.constexpr, STAGES: tl.constexpr
):
    k, steps, first, stride = _place(codes, B, H, W)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    g = tl.zeros((BLOCK,), tl.float32)
    for t in tl.range(0, steps, num_stages=STAGES):  # type: ignore[misc]
        location = first + (steps - 1 - t) * stride
        place = (location * K + k) * C + c
        g += tl.load(grad + place, c < C, 0.0).to(tl.float32)
        g = tl.where(tl.load(valid + location) == 0, 0.0, g)
        tl.store(grad_b + place, g, c < C)
        last = tl.load(out + place - stride * K * C, c < tl.where(t + 1 < steps, C, 0), 0.0).to(tl.float32)
        tl.store(grad_a + place, g * last, c < C)
        g *= tl.load(a + place, c < C, 0.0).to(tl.float32)


def launch_accumulate(x: Tensor, weight: Tensor | None, valid: Tensor | None, directions: str) -> Tensor:
    """Compute `detection.ops.sweep.accumulate.accumulate` on CUDA."""
    rows, num = as_rows(x), len(directions.split())
    b, h, w, c = rows.shape
    out = rows.new_empty(b, h, w, num * c)
    grid, block = _grid(num * b * max(h, w), c)
    pointers = rows, rows if weight is None else weight.contiguous(), _mask(valid, rows), out
    _launch(_accumulate, grid, *pointers, _codes(directions), b, c, h, w, num, weight is not None, block, STAGES)
    return as_map(out)


def launch_accumulate_backward(
    grad: Tensor, out: Tensor, weight: Tensor | None, directions: str
) -> tuple[Tensor, Tensor]:
    """Compute `detection.ops.sweep.accumulate.accumulate_backward` on CUDA."""
    grads, outs, names = as_rows(grad), as_rows(out), directions.split()
    b, h, w, channels = grads.shape
    c = channels // len(names)
    total = grads.new_empty(b, h, w, c, dtype=torch.float32)
    # A line's program writes the products of its axis only; the sum is over the lines of both.
    grad_weight = total.new_zeros(0 if weight is None else b * max(h, w), len(names), c)
    given = grads if weight is None else weight.contiguous()
    written = 0
    for horizontal in (True, False):
        own = [k for k, name in enumerate(names) if is_horizontal(name) == horizontal]
        if not own:
            continue
        grid, block = _grid(b * (h if horizontal else w), c)
        codes = _codes(" ".join(names[k] for k in own))
        places = sum(k << (4 * j) for j, k in enumerate(own))
        sizes = len(own), written, b, c, h, w, len(names)
        pointers = grads, outs, given, total, grad_weight
        flags = weight is not None, block, STAGES
        _launch(_accumulate_backward, grid, *pointers, codes, places, *sizes, *flags)
        written = 1
    return as_map(total.to(grad.dtype)), grad_weight.sum(0) if weight is not None else grad_weight.new_empty(0, c)


def launch_linear_scan(a: Tensor, b: Tensor, valid: Tensor | None, directions: str) -> Tensor:
    """Compute `detection.ops.sweep.linear_scan.linear_scan` on CUDA."""
    keeps, new, num = as_rows(a), as_rows(b), len(directions.split())
    batch, h, w, channels = new.shape
    out = torch.empty_like(new)
    grid, block = _grid(num * batch * max(h, w), channels // num)
    sizes = batch, channels // num, h, w, num
    _launch(_linear, grid, keeps, new, _mask(valid, new), out, _codes(directions), *sizes, block, STAGES)
    return as_map(out)


def launch_linear_scan_backward(
    grad: Tensor, out: Tensor, a: Tensor, valid: Tensor | None, directions: str
) -> tuple[Tensor, Tensor]:
    """Compute `detection.ops.sweep.linear_scan.linear_scan_backward` on CUDA."""
    grads, outs, keeps, num = as_rows(grad), as_rows(out), as_rows(a), len(directions.split())
    batch, h, w, channels = grads.shape
    grad_a, grad_b = torch.empty_like(keeps), torch.empty_like(grads)
    grid, block = _grid(num * batch * max(h, w), channels // num)
    sizes = batch, channels // num, h, w, num
    pointers = grads, outs, keeps, _mask(valid, grads), grad_a, grad_b
    _launch(_linear_backward, grid, *pointers, _codes(directions), *sizes, block, STAGES)
    return as_map(grad_a), as_map(grad_b)


def _launch(kernel, grid: tuple[int, int], *arguments: Tensor | float) -> None:
    kernel[grid](*arguments, num_warps=1)


def _codes(directions: str) -> int:
    """Return the directions' positions in `DIRECTIONS`, two bits each."""
    return sum(DIRECTIONS.index(name) << (2 * k) for k, name in enumerate(directions.split()))  # type: ignore[arg-type]


def _mask(valid: Tensor | None, rows: Tensor) -> Tensor:
    b, h, w, _ = rows.shape
    if valid is None:
        return torch.ones(b, h, w, dtype=torch.uint8, device=rows.device)
    return valid.reshape(b, h, w).contiguous().view(torch.uint8)  # booleans (B, H, W) as bytes


def _grid(lines: int, channels: int) -> tuple[tuple[int, int], int]:
    """Return the programs by line and block of channels, and the size of a block."""
    block = min(MAX_BLOCK, triton.next_power_of_2(channels))
    return (lines, triton.cdiv(channels, block)), block
