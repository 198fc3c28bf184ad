"""Sweeps: a recurrent cell scanned along the rows and columns of a feature map under a valid mask.

`sweep` is one function with several backends; all compute what `sweep_by_steps` computes.

    accumulator, IndRNN             `accumulate`: sums of contiguous runs of channels; Triton on CUDA
    minGRU, minLSTM, gated linear, RG-LRU
                                    `gated_scan` on a CPU, `linear_scan` elsewhere
    S6, SSD, mLSTM                  `ScannedCell.scan`, an operation for complete lines
    tanh RNN, IRNN, LSTM, GRU       `matrix_rnn`, `lstm`, `gru`: a product a step for all lines; `cudnn` on CUDA
    tied and peephole LSTM, sLSTM, GRU that resets before the product, MUT1–3, learned initial states, a
    cell from outside               `sweep_by_lines`
    any cell in an ONNX export      `traced_sweep`
"""

# B images, C = G·D pre-activations, D hidden size, H×W map, K directions, L lines of an image, T steps.

from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from detection.cells import (
    GRU,
    IRNN,
    LSTM,
    RGLRU,
    Accumulator,
    Cell,
    GatedLinear,
    IndRNN,
    LinearCell,
    MinGRU,
    MinLSTM,
    ScannedCell,
    State,
    TanhRNN,
)
from detection.errors import UserError
from detection.ops.sweep.accumulate import accumulate
from detection.ops.sweep.cudnn import cudnn_computes, cudnn_is_allowed, cudnn_sweep
from detection.ops.sweep.diagonals import sweep_by_shear
from detection.ops.sweep.directions import (
    DIAGONALS,
    DIRECTIONS,
    Direction,
    first_locations,
    from_lines,
    is_diagonal,
    is_horizontal,
    is_reversed,
    steps,
)
from detection.ops.sweep.gated_scan import gated_scan
from detection.ops.sweep.gru import gru
from detection.ops.sweep.layout import as_map, as_rows, state_type
from detection.ops.sweep.linear_scan import linear_scan
from detection.ops.sweep.lstm import lstm
from detection.ops.sweep.matrix_rnn import matrix_rnn
from detection.ops.sweep.traced import traced_sweep

Backend = Literal["auto", "ours", "cudnn", "lines", "steps"]

_OURS = {Accumulator, IndRNN, MinGRU, MinLSTM, GatedLinear, RGLRU, TanhRNN, IRNN, LSTM, GRU}


def sweep(
    cells: Sequence[Cell],
    x: Tensor,
    valid: Tensor | None,
    directions: Sequence[Direction],
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Scan a cell along each direction, from its initial state at the border of the image.

    Args:
        cells: one for each direction, without an input side, all of one class.
        x: pre-activations (B, G·D, H, W) that all directions share.
        valid: (B, 1, H, W) booleans, the locations inside each image; None for all. Outside of it states are 0.
        directions: `right` takes its state from the left neighbor, `down_right` from the one above it, and so on.
        backend: `ours`, `cudnn`, `lines` or `steps` (see the module), where the cell has it; `auto` for the fastest.

    Returns:
        The outputs of all directions concatenated (B, K·D, H, W), in the type of x; states are kept in float32.

    Raises:
        NotImplementedError: forward-mode differentiation through `ours` or `cudnn`, which have no such derivative.
        UserError: there is no such direction, or `backend` has no operation for these cells.
    """
    if unknown := set(directions) - {*DIRECTIONS, *DIAGONALS}:
        known = ", ".join((*DIRECTIONS, *DIAGONALS))
        raise UserError(f"sweep: no direction is called {sorted(unknown)[0]!r}; known are {known}.")
    if any(is_diagonal(direction) for direction in directions):
        return sweep_by_shear(partial(_sweep_straight, backend=backend), cells, x, valid, directions)
    return _sweep_straight(cells, x, valid, directions, False, backend)


def _sweep_straight(
    cells: Sequence[Cell],
    x: Tensor,
    valid: Tensor | None,
    directions: Sequence[Direction],
    is_sheared: bool,
    backend: Backend,
) -> Tensor:
    """Compute `sweep` along rows and columns of a map, or of a sheared one, whose mask is no rectangle."""
    if torch.onnx.is_in_onnx_export():
        return traced_sweep(cells, x, valid, directions, sweep_by_lines, is_sheared)
    if backend == "auto":
        backend = _fastest(cells, x, valid)
    elif backend in ("ours", "cudnn"):
        _require_operation(cells, backend, valid)
    with torch.autocast(x.device.type, enabled=False):
        if backend == "steps" or x.numel() == 0:
            return sweep_by_steps(cells, x, valid, directions)
        if backend == "lines":
            return sweep_by_lines(cells, x, valid, directions)
        return _sweep(cells, x, valid, " ".join(directions), backend)


def _fastest(cells: Sequence[Cell], x: Tensor, valid: Tensor | None) -> Backend:
    kind = type(cells[0])
    # Nobody has tried our operations on the GPU of a Mac; steps in autograd are what torch supports there.
    if x.device.type == "mps" or not _is_ours(cells):
        return "lines"
    # The compiler cannot trace cuDNN's kernels, and float64 is for tests, which should run our code.
    has_cudnn = x.is_cuda and x.dtype != torch.float64 and not torch.compiler.is_compiling()
    return "cudnn" if has_cudnn and cudnn_is_allowed() and cudnn_computes(kind, valid) else "ours"


def _is_ours(cells: Sequence[Cell]) -> bool:
    """Return whether all are of one class that has an operation; a subclass has none, for its step may differ."""
    if any(cell.initial is not None or (isinstance(cell, GRU) and cell.reset == "before") for cell in cells):
        return False
    kinds = {type(cell) for cell in cells}
    kind = type(cells[0])
    return len(kinds) == 1 and (kinds < _OURS or (issubclass(kind, ScannedCell) and kind.computes_step))


def _require_operation(cells: Sequence[Cell], backend: Backend, valid: Tensor | None) -> None:
    kind = type(cells[0])
    if not _is_ours(cells) or (backend == "cudnn" and not cudnn_computes(kind, valid)):
        raise UserError(
            f"sweep: backend={backend!r} has no operation for these cells ({kind.__name__}), their settings or a mask; "
            "take 'auto', or 'lines', which computes any."
        )


def _sweep(cells: Sequence[Cell], x: Tensor, valid: Tensor | None, directions: str, backend: Backend) -> Tensor:
    kind, wide = type(cells[0]), state_type(x)
    refuse_forward_mode(x, *(parameter for cell in cells for parameter in cell.parameters()))
    if isinstance(cells[0], ScannedCell):
        return _scan_whole_lines(cast(Sequence[ScannedCell], cells), x, valid, directions.split())
    if kind is Accumulator:
        return accumulate(x, None, valid, directions)
    if isinstance(cells[0], LinearCell) and _scans_gates(x):
        vectors = torch.stack([cast(LinearCell, cell).vectors(x.new_empty(0, dtype=wide)) for cell in cells])
        return gated_scan(x, vectors, valid, directions, kind.__name__)
    if isinstance(cells[0], LinearCell):
        rows = x.to(wide).movedim(1, -1)  # (B, H, W, G·D)
        coefficients = [
            cast(LinearCell, cell).coefficients(rows, first_locations(x, valid, d) if kind is RGLRU else None)
            for cell, d in zip(cells, directions.split(), strict=True)
        ]
        a, b = (as_map(torch.cat(parts, -1)) for parts in zip(*coefficients, strict=True))
        return linear_scan(a, b, valid, directions).to(x.dtype)
    if kind is IndRNN:
        weight = torch.stack([cast(IndRNN, cell).recurrent_weight() for cell in cells]).to(wide)
        return accumulate(x, weight, valid, directions)
    weight = torch.stack([cell.weight_hh for cell in cells]).to(wide)  # U (K, G·D, D)
    biases = [cell.bias_hh for cell in cells if cell.bias_hh is not None]
    bias = torch.stack(biases).to(wide) if biases else None
    if backend == "cudnn":
        return cudnn_sweep(kind, x.to(wide), weight, bias, valid, directions).to(x.dtype)
    if kind is IRNN or kind is TanhRNN:
        return matrix_rnn(x, weight, bias, valid, directions, kind is IRNN)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    return (lstm if kind is LSTM else gru)(x, weight, bias, valid, directions, keep)[0]


def _scans_gates(x: Tensor) -> bool:
    """Return whether gates are computed step by step, in a CPU's caches, or before the scan."""
    return x.device.type == "cpu"


def refuse_forward_mode(
    *tensors: Tensor, name: str = "sweep", instead: str = "backend='lines', or reverse mode"
) -> None:
    """Raise a `NotImplementedError` where a tensor has a tangent."""
    # PyTorch takes the tangent of a custom operation for 0 without an error.
    if not torch.compiler.is_compiling() and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise NotImplementedError(f"{name}: its operations have no forward-mode derivative; use {instead}.")


def _scan_whole_lines(
    cells: Sequence[ScannedCell], x: Tensor, valid: Tensor | None, directions: Sequence[str]
) -> Tensor:
    rows = as_rows(x).to(state_type(x))  # (B, H, W, P)
    inside = None if valid is None else as_rows(valid)[..., 0]  # (B, H, W)
    # Whether anything is outside is not asked, which a compiler could not.
    rows = rows if inside is None else rows.where(inside[..., None], 0)
    outputs = []
    for cell, direction in zip(cells, directions, strict=True):
        across = not is_horizontal(direction)
        # Columns are the lines of the map with its sides exchanged: (B, L, T, P), (B, L, T)
        lines, mask = (t.transpose(1, 2) if across and t is not None else t for t in (rows, inside))
        found = cell.scan(cast(Tensor, lines), mask, is_reversed(direction))
        outputs.append(found.transpose(1, 2) if across else found)  # (B, H, W, D)
    return as_map(torch.cat(outputs, 3)).to(x.dtype)


def sweep_by_lines(cells: Sequence[Cell], x: Tensor, valid: Tensor | None, directions: Sequence[Direction]) -> Tensor:
    """Compute `sweep` for any cell by its `step` and autograd, all lines at once; the map is cut into steps once."""
    rows = as_rows(x.to(state_type(x)))
    inside = None if valid is None else as_rows(valid)
    outputs = [_scan_lines(cell, rows, inside, d) for cell, d in zip(cells, directions, strict=True)]
    return as_map(torch.cat(outputs, 3)).to(x.dtype)


def _scan_lines(cell: Cell, rows: Tensor, inside: Tensor | None, direction: Direction) -> Tensor:
    state: tuple[Tensor, ...] | None = None
    outputs: list[Tensor] = []
    masks = None if inside is None else steps(inside, direction)
    scan = steps(rows, direction)
    for t, x_t in enumerate(scan):
        lines = x_t.flatten(0, 1)  # (B·L, G·D)
        state = cell.next_state(lines, state)
        if masks is not None:
            inside_t = masks[t].flatten(0, 1)  # (B·L, 1)
            state, output = _inside(cell, state, inside_t)
        else:
            output = state[0]
        outputs.append(output.unflatten(0, x_t.shape[:2]))  # (B, L, D)
    lines = torch.stack(outputs[::-1] if is_reversed(direction) else outputs)  # (T, B, L, D) in the order of the map
    return from_lines(lines, "right" if is_horizontal(direction) else "down")


def _inside(cell: Cell, state: State, inside: Tensor) -> tuple[State, Tensor]:
    """Return the state that the next step reads, the initial one behind locations (N, 1) outside, and the output."""
    kept = tuple(torch.where(inside, s, 0) for s in state)
    if cell.initial is None:
        return kept, kept[0]
    return tuple(torch.where(inside, s, s0) for s, s0 in zip(state, cell.initial_state(state[0]), strict=True)), kept[0]


def sweep_by_steps(cells: Sequence[Cell], x: Tensor, valid: Tensor | None, directions: Sequence[Direction]) -> Tensor:
    """Compute `sweep` by its definition, step by step: the reference of every faster backend."""
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(state_type(x))
        outputs = [_scan(cell, wide, valid, d) for cell, d in zip(cells, directions, strict=True)]
        return torch.cat(outputs, dim=1).to(x.dtype)


def _scan(cell: Cell, x: Tensor, valid: Tensor | None, direction: Direction) -> Tensor:
    along = 3 if is_horizontal(direction) else 2
    order = reversed(range(x.shape[along])) if is_reversed(direction) else range(x.shape[along])
    outputs: dict[int, Tensor] = {}
    state = None
    for t in order:
        x_t = x.select(along, t).movedim(1, -1)  # (B, L, G·D)
        lines = x_t.flatten(0, 1)  # (B·L, G·D)
        state = cell.next_state(lines, state)
        if valid is not None:
            inside = valid.select(along, t).reshape(-1, 1)  # (B·L, 1)
            state, output = _inside(cell, state, inside)
        else:
            output = state[0]
        outputs[t] = output.unflatten(0, x_t.shape[:2]).movedim(-1, 1)  # (B, D, L)
    return torch.stack([outputs[t] for t in sorted(outputs)], dim=along)
