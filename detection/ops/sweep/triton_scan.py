"""`accumulate` and `linear_scan` on CUDA: Triton kernels in which a program scans one line for a block of channels.

Maps are channels last, so that a step of a program reads and writes one run of memory. States are float32 whatever the
type of the maps; loads of the steps ahead are pipelined. The mask is read in the kernel. All directions go in one
launch. The gradient of `accumulate` is summed over directions without atomics, by programs that scan all of them.
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
    # Wide, as the offsets of a large batch leave 32 bits.
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
    # Rows and columns share a grid of max(H, W) lines; of those that a map does not have the steps are 0.
    steps, first, stride = _line((codes >> (2 * k)) % 4, scan // lines % B, scan % lines, H, W)
    return k, steps, first, stride


@triton.jit(do_not_specialize=["codes"])
def _accumulate(
    x,
    weight,
    valid,
    out,
    codes,
    B,
    C,
    H,
    W,
    K,
    WEIGHTED: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    k, steps, first, stride = _place(codes, B, H, W)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    h = tl.zeros((BLOCK,), tl.float32)
    u = tl.load(weight + k * C + c, c < C, 0.0).to(tl.float32) if WEIGHTED else h
    for t in tl.range(0, steps, num_stages=STAGES):  # type: ignore[misc]
        location = first + t * stride
        h = (h * u if WEIGHTED else h) + tl.load(x + location * C + c, c < C, 0.0).to(tl.float32)
        # Not `tl.maximum`, which makes 0 of a NaN.
        h = tl.where(h < 0, 0.0, h)
        if MASKED:
            h = tl.where(tl.load(valid + location) == 0, 0.0, h)
        tl.store(out + (location * K + k) * C + c, h, c < C)


@triton.jit(do_not_specialize=["order"])
def _accumulate_backward(
    grad,
    out,
    weight,
    total,
    grad_x,
    grad_weight,
    order,
    C,
    H,
    W,
    K: tl.constexpr,
    WEIGHTED: tl.constexpr,
    LINES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Scan all directions of a block of channels of one image, in turn, so that no other program adds to it.

    `order` has four bits a scan, the rows' first: the direction's code and its place among the outputs. A tile of lines
    is scanned at once; within an axis a location is always of one thread, and between the axes there is a barrier.
    """
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    for j in tl.static_range(K):  # type: ignore[misc]
        code = (order >> (4 * j)) % 4
        k = (order >> (4 * j + 2)) % 4
        horizontal = code < 2
        steps = tl.where(horizontal, W, H)
        lines = tl.where(horizontal, H, W)
        along = tl.where(horizontal, 1, W)  # locations from step to step, in the order of the map
        across = tl.where(horizontal, W, 1)
        u = tl.load(weight + k * C + c, c < C, 0.0).to(tl.float32) if WEIGHTED else tl.zeros((BLOCK,), tl.float32)
        products = tl.zeros((LINES, BLOCK), tl.float32)
        if j > 0:
            # Columns read what other threads wrote for rows.
            tl.debug_barrier()
        for top in range(0, lines, LINES):
            line = top + tl.arange(0, LINES)
            inside = (line < lines)[:, None] & (c < C)[None, :]
            g = tl.zeros((LINES, BLOCK), tl.float32)
            for t in range(0, steps):
                position = tl.where(code % 2 == 1, t, steps - 1 - t)  # against the scan
                location = (b * H * W + line.to(tl.int64) * across + position * along)[:, None]
                place = (location * K + k) * C + c[None, :]
                g = (g * u[None, :] if WEIGHTED else g) + tl.load(grad + place, inside, 0.0).to(tl.float32)
                g = tl.where(tl.load(out + place, inside, 0.0).to(tl.float32) > 0, g, 0.0)  # equation (1)
                if WEIGHTED:
                    before = tl.where(code % 2 == 1, along, -along).to(tl.int64) * K * C
                    earlier = inside & (t + 1 < steps)
                    # Equation (2) of `accumulate`.
                    products += g * tl.load(out + place + before, earlier, 0.0).to(tl.float32)
                own = location * C + c[None, :]
                added = g + tl.load(total + own, inside, 0.0) if j > 0 else g
                if j == K - 1:
                    tl.store(grad_x + own, added, inside)
                else:
                    tl.store(total + own, added, inside)
        if WEIGHTED:
            tl.store(grad_weight + (b * K + k) * C + c, tl.sum(products, 0), c < C)


@triton.jit(do_not_specialize=["codes"])
def _linear(a, b, valid, out, codes, B, C, H, W, K, MASKED: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    k, steps, first, stride = _place(codes, B, H, W)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    h = tl.zeros((BLOCK,), tl.float32)
    for t in tl.range(0, steps, num_stages=STAGES):  # type: ignore[misc]
        location = first + t * stride
        place = (location * K + k) * C + c
        h = tl.load(a + place, c < C, 0.0).to(tl.float32) * h + tl.load(b + place, c < C, 0.0).to(tl.float32)
        if MASKED:
            h = tl.where(tl.load(valid + location) == 0, 0.0, h)
        tl.store(out + place, h, c < C)


@triton.jit(do_not_specialize=["codes"])
def _linear_backward(
    grad,
    out,
    a,
    valid,
    grad_a,
    grad_b,
    codes,
    B,
    C,
    H,
    W,
    K,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    k, steps, first, stride = _place(codes, B, H, W)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    g = tl.zeros((BLOCK,), tl.float32)
    for t in tl.range(0, steps, num_stages=STAGES):  # type: ignore[misc]
        location = first + (steps - 1 - t) * stride
        place = (location * K + k) * C + c
        g += tl.load(grad + place, c < C, 0.0).to(tl.float32)
        if MASKED:
            g = tl.where(tl.load(valid + location) == 0, 0.0, g)
        tl.store(grad_b + place, g, c < C)  # equation (1) of `linear_scan`, then (2)
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
    flags = weight is not None, valid is not None, block, STAGES
    _launch(_accumulate, grid, *pointers, _codes(directions), b, c, h, w, num, *flags)
    return as_map(out)


def launch_accumulate_backward(
    grad: Tensor, out: Tensor, weight: Tensor | None, directions: str
) -> tuple[Tensor, Tensor]:
    """Compute `detection.ops.sweep.accumulate.accumulate_backward` on CUDA."""
    grads, outs, names = as_rows(grad), as_rows(out), directions.split()
    b, h, w, channels = grads.shape
    c = channels // len(names)
    grad_x = grads.new_empty(b, h, w, c)
    # The sum over directions is in float32, and the last one writes it in the map's type.
    total = grad_x if grad.dtype == torch.float32 else grads.new_empty(b, h, w, c, dtype=torch.float32)
    grad_weight = grads.new_empty(0 if weight is None else b, len(names), c, dtype=torch.float32)
    lines, block, warps = _tile(h, w, c)
    given = grads if weight is None else weight.contiguous()
    order = _order(names)
    pointers = grads, outs, given, total, grad_x, grad_weight
    grid = b, triton.cdiv(c, block)
    sizes = c, h, w, len(names), weight is not None, lines, block
    _launch(_accumulate_backward, grid, *pointers, order, *sizes, warps=warps)
    return as_map(grad_x), grad_weight.sum(0) if weight is not None else grad_weight.new_empty(0, c)


def launch_linear_scan(a: Tensor, b: Tensor, valid: Tensor | None, directions: str) -> Tensor:
    """Compute `detection.ops.sweep.linear_scan.linear_scan` on CUDA."""
    keeps, new, num = as_rows(a), as_rows(b), len(directions.split())
    batch, h, w, channels = new.shape
    out = torch.empty_like(new)
    grid, block = _grid(num * batch * max(h, w), channels // num)
    sizes = batch, channels // num, h, w, num
    _launch(
        _linear, grid, keeps, new, _mask(valid, new), out, _codes(directions), *sizes, valid is not None, block, STAGES
    )
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
    _launch(_linear_backward, grid, *pointers, _codes(directions), *sizes, valid is not None, block, STAGES)
    return as_map(grad_a), as_map(grad_b)


def _launch(kernel, grid: tuple[int, int], *arguments: Tensor | float, warps: int = 1) -> None:
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, num_warps=warps)


def _codes(directions: str) -> int:
    """Return the directions' positions in `DIRECTIONS`, two bits each."""
    return sum(DIRECTIONS.index(name) << (2 * k) for k, name in enumerate(directions.split()))  # type: ignore[arg-type]


def _order(names: list[str]) -> int:
    """Return the directions as `_accumulate_backward` scans them, rows first: code and place, four bits each."""
    rows_first = sorted(range(len(names)), key=lambda k: not is_horizontal(names[k]))
    scans = (DIRECTIONS.index(names[k]) + 4 * k for k in rows_first)  # type: ignore[arg-type]
    return sum(scan << (4 * j) for j, scan in enumerate(scans))


def _mask(valid: Tensor | None, rows: Tensor) -> Tensor:
    """Return booleans (B, 1, H, W) as bytes (B, H, W); any tensor where there is no mask, for it is not read."""
    if valid is None:
        return rows
    return valid.reshape(rows.shape[:3]).contiguous().view(torch.uint8)


def _tile(height: int, width: int, channels: int) -> tuple[int, int, int]:
    """Return lines and channels of a tile of `_accumulate_backward`, and its warps: 8 values to a lane."""
    lines = min(64, triton.next_power_of_2(max(height, width)))
    block = min(16, triton.next_power_of_2(channels))
    return lines, block, max(1, min(8, lines * block // 256))


def _grid(lines: int, channels: int) -> tuple[tuple[int, int], int]:
    """Return the programs by line and block of channels, and the size of a block."""
    block = min(MAX_BLOCK, triton.next_power_of_2(channels))
    return (lines, triton.cdiv(channels, block)), block
