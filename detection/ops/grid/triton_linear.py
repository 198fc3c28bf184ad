"""`grid_linear` on CUDA: a Triton kernel in which a program scans a map from a corner for a block of a head's channels.

All anti-diagonals, from all corners, are one launch. The states that a diagonal leaves on its outgoing edges go to
global memory, and threads of the same program read them after a barrier, so that two rows of states for each row of the
map are enough. The way back is two launches: the first keeps the states of all edges; the second is the same scan with
transposed gates from the opposite corner, and sums each gate's gradient over the channels of a block. Blocks and
corners are added behind. States are float32 whatever the type of the maps.
"""

# B images, K corners, G heads, D channels in all, H×W map; (i, j) is a location as seen from the corner.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from detection.ops.grid.corners import CORNERS, opposite

GATES = tl.constexpr(9)
"""In the order of `detection.ops.grid.linear.EdgeGates`."""

MAX_BLOCK = 16
MAX_LINES = 64


@triton.jit
def _gate(place, inside):
    """Return a gate of each row's location, for all channels."""
    return tl.load(place, inside, 0.0).to(tl.float32)[:, None]


@triton.jit
def _store_row(target, gradient, v, h, u, inside):
    """Store the gradients of a row of M."""
    tl.store(target, tl.sum(gradient * v, 1), inside)
    tl.store(target + 1, tl.sum(gradient * h, 1), inside)
    tl.store(target + 2, tl.sum(gradient * u, 1), inside)


@triton.jit(do_not_specialize=["codes"])
def _scan(
    value,
    gates,
    out,
    scratch,
    own_value,
    states,
    grad_gates,
    codes,
    B,
    D,
    G,
    H,
    W,
    K,
    KEEP: tl.constexpr,
    BACK: tl.constexpr,
    LINES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Scan `value`, which corners share unless `BACK`, and write what is read of the states to `out` (B, H, W, K, D).

    Outgoing states are in `scratch`: with `KEEP` of all locations, (B, H, W, K, 2, D), and nothing is read; else of the
    present diagonal and of the one before, (K·B, 2, H, 2, D). With `BACK` the value is the gradient of the outputs, and
    the gradients of gates, from `own_value` and `states` of the scan itself, go to `grad_gates` (blocks, …).
    """
    k = tl.program_id(0) // B
    code = (codes >> (2 * k)) % 4  # the place of the corner in `CORNERS`
    down = tl.where(code >= 2, -W, W)
    along = tl.where(code % 2 == 1, -1, 1)
    first = (tl.program_id(0) % B).to(tl.int64) * H * W
    first += tl.where(code >= 2, (H - 1) * W, 0) + tl.where(code % 2 == 1, W - 1, 0)
    size = D // G
    blocks = tl.cdiv(size, BLOCK)
    group = tl.program_id(1) // blocks
    block = tl.program_id(1) % blocks
    own = block * BLOCK + tl.arange(0, BLOCK)
    is_channel = own < size
    c = (group * size + own)[None, :]
    rows = tl.program_id(0).to(tl.int64) * 2 * H
    for t in range(0, H + W - 1):
        tl.debug_barrier()  # other threads wrote the states that are read of the diagonal before
        stop = tl.minimum(H, t + 1)
        for top in range(tl.maximum(0, t - W + 1), stop, LINES):
            i = top + tl.arange(0, LINES)
            j = t - i
            inside = i < stop
            known = inside[:, None] & is_channel[None, :]
            location = first + i.to(tl.int64) * down + j * along
            by_corner = location * K + k
            gate = gates + (by_corner * G + group) * GATES
            if KEEP:
                place = by_corner * 2
                before_h = ((location - along) * K + k) * 2
                before_u = ((location - down) * K + k) * 2
            else:
                place = (rows + (t % 2) * H + i) * 2
                before_h = (rows + ((t + 1) % 2) * H + i) * 2
                before_u = before_h - 2
            has_h = known & (j > 0)[:, None]
            has_u = known & (i > 0)[:, None]
            h = tl.load(scratch + (before_h * D)[:, None] + c, has_h, 0.0)
            u = tl.load(scratch + (before_u * D + D)[:, None] + c, has_u, 0.0)
            if BACK:
                v = tl.load(value + (by_corner * D)[:, None] + c, known, 0.0).to(tl.float32)
            else:
                v = tl.load(value + (location * D)[:, None] + c, known, 0.0).to(tl.float32)
            # y, h and u are each a row of M times v, h and u; on the way back a column of it.
            row: tl.constexpr = 1 if BACK else 3  # type: ignore[assignment]
            column: tl.constexpr = 3 if BACK else 1  # type: ignore[assignment]
            if not KEEP:
                y = _gate(gate, inside) * v
                y += _gate(gate + column, inside) * h + _gate(gate + 2 * column, inside) * u
                tl.store(out + (by_corner * D)[:, None] + c, y, known)
            for edge in tl.static_range(2):  # type: ignore[misc]
                from_v = gate + (edge + 1) * row
                state = _gate(from_v, inside) * v
                state += _gate(from_v + column, inside) * h + _gate(from_v + 2 * column, inside) * u
                tl.store(scratch + ((place + edge) * D)[:, None] + c, state, known)
            if BACK:
                # Edges into a location of the scan itself are those out of it here.
                after_h = ((location + along) * K + k) * 2
                after_u = ((location + down) * K + k) * 2
                own_h = tl.load(states + (after_h * D)[:, None] + c, known & (j + 1 < W)[:, None], 0.0)
                own_u = tl.load(states + (after_u * D + D)[:, None] + c, known & (i + 1 < H)[:, None], 0.0)
                own_v = tl.load(own_value + (location * D)[:, None] + c, known, 0.0).to(tl.float32)
                target = grad_gates + ((block * B * H * W * K + by_corner) * G + group) * GATES
                _store_row(target, v, own_v, own_h, own_u, inside)
                _store_row(target + 3, h, own_v, own_h, own_u, inside)
                _store_row(target + 6, u, own_v, own_h, own_u, inside)


def launch_grid_linear(value: Tensor, gates: Tensor, corners: str) -> Tensor:
    """Compute the outputs (B, H, W, K·D) on CUDA, in the type of the values.

    Args:
        value: (B, H, W, D), contiguous, and 0 outside the image, as are the gates.
        gates: (B, H, W, K·G·9), contiguous.
        corners: K names separated by spaces.
    """
    names = corners.split()
    b, h, w, size = value.shape
    out = value.new_empty(b, h, w, len(names) * size)
    _launch((value, gates, out, _rows(value, len(names)), None, None, None), value.shape, names)
    return out


def launch_grid_linear_backward(grad: Tensor, value: Tensor, gates: Tensor, corners: str) -> tuple[Tensor, Tensor]:
    """Compute the gradients of the values (B, H, W, D) and of the gates (B, H, W, K·G·9) on CUDA, in float32.

    Args:
        grad: (B, H, W, K·D), contiguous.
        value: as in `launch_grid_linear`.
        gates: as there.
        corners: as there.
    """
    names = corners.split()
    b, h, w, size = value.shape
    states = value.new_empty(b, h, w, len(names), 2, size, dtype=torch.float32)
    _launch((value, gates, None, states, None, None, None), value.shape, names, keep=True)
    found = value.new_empty(b, h, w, len(names), size, dtype=torch.float32)
    blocks = triton.cdiv(_channels(value, gates, names), _block(_channels(value, gates, names)))
    found_gates = value.new_empty(blocks, *gates.shape, dtype=torch.float32)
    tensors = grad, gates, found, _rows(value, len(names)), value, states, found_gates
    _launch(tensors, value.shape, [opposite(name) for name in names], back=True)
    return found.sum(3), found_gates.sum(0)


def _rows(value: Tensor, num: int) -> Tensor:
    """Return room for the states of two diagonals of each scan: (K·B, 2, H, 2, D)."""
    b, h, _, size = value.shape
    return value.new_empty(num * b, 2, h, 2, size, dtype=torch.float32)


def _channels(value: Tensor, gates: Tensor, names: list[str]) -> int:
    """Return the channels of a head."""
    return value.shape[3] * len(names) * GATES.value // gates.shape[3]


def _block(size: int) -> int:
    """Return the channels of a program, for heads of `size` channels."""
    return min(MAX_BLOCK, triton.next_power_of_2(size))


def _launch(
    tensors: tuple[Tensor | None, ...], shape: torch.Size, names: list[str], keep: bool = False, back: bool = False
) -> None:
    """Launch for maps (B, H, W, D); a tensor that is None is not touched."""
    b, h, w, d = shape
    gates = tensors[1]
    assert gates is not None
    groups = gates.shape[3] // (len(names) * GATES.value)
    block, lines = _block(d // groups), min(MAX_LINES, triton.next_power_of_2(min(h, w)))
    codes = sum(CORNERS.index(name) << (2 * k) for k, name in enumerate(names))  # type: ignore[arg-type]
    grid = len(names) * b, groups * triton.cdiv(d // groups, block)
    warps = max(1, lines * block // 256)
    given = (gates if t is None else t for t in tensors)
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(gates):
        kernel: Any = _scan[grid]
        kernel(*given, codes, b, d, groups, h, w, len(names), keep, back, lines, block, num_warps=warps)
