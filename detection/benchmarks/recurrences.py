"""Sweeps of recurrent cells against the same cells step by step in autograd: time and scratch memory."""

from functools import partial

import torch
from torch import Tensor, nn

from detection import cells as kinds
from detection.analysis.timing import Measurements, interleaved, peak_bytes, settle_on
from detection.cells import Cell
from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.dispatch import Backend, sweep

KINDS: tuple[type[Cell], ...] = (
    kinds.Accumulator, kinds.IndRNN, kinds.MinGRU, kinds.MinLSTM, kinds.GatedLinear, kinds.RGLRU, kinds.IRNN,
    kinds.LSTM, kinds.GRU, kinds.S6, kinds.SSD, kinds.MLSTM,
)  # fmt: skip
ROUNDS = 5


def benchmark_recurrences(device: str) -> Measurements:
    """Measure four directions of each cell over maps of 2x256x38x50, forward and backward, against `backend="steps"`.

    Scratch is the most that a pass holds beyond its input, output and their gradients, in feature maps of one
    direction, over the four directions.
    """
    measured: Measurements = {}
    for kind in KINDS:
        measured |= measure_cell(kind, (2, 256, 38, 50), ROUNDS, device)
    return measured


def measure_cell(kind: type[Cell], shape: tuple[int, int, int, int], rounds: int, device: str) -> Measurements:
    """Measure the four sweeps of a cell of D channels over maps (B, D, H, W)."""
    torch.manual_seed(0)
    b, size, h, w = shape
    cells = nn.ModuleList(kind(size) for _ in DIRECTIONS).to(device)
    last, read = torch.channels_last, kind(size).projection_channels
    x = torch.randn(b, read, h, w, device=device).contiguous(memory_format=last).requires_grad_()
    grad = torch.randn(b, len(DIRECTIONS) * size, h, w, device=device).contiguous(memory_format=last)

    def run(backend: Backend) -> tuple[Tensor, ...]:
        y = sweep(list(cells), x, None, DIRECTIONS, backend=backend)  # type: ignore[arg-type]
        return torch.autograd.grad(y, [x, *cells.parameters()], grad)

    name = kind.__name__
    functions = {f"{name} by steps": partial(run, "steps"), f"{name} ours": partial(run, "auto")}
    measured = interleaved(functions, rounds, settle_on(device))
    one_map = grad.nbytes / len(DIRECTIONS)
    held = peak_bytes(partial(run, "auto"), device) - grad.nbytes - x.nbytes  # the output, and the input's gradient
    return {**measured, f"{name}: scratch (feature maps a direction)": held / one_map / len(DIRECTIONS)}
