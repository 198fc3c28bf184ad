"""Routes over a complete map: line by line at once, against step by step; in pieces, against pairs of all locations."""

from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor, nn

from detection import cells as kinds
from detection.analysis.timing import Measurements, interleaved, settle_on
from detection.cells import Cell
from detection.ops.cross_scan import cross_scan, route_scan
from detection.ops.sweep import decay_matrix
from detection.ops.sweep.directions import DIRECTIONS, is_horizontal, is_reversed

IN_PIECES: tuple[type[Cell], ...] = (kinds.SSD, kinds.MLSTM)
ROUNDS = 5
ROUNDS_OF_PAIRS = 3


def benchmark_cross_scan(device: str) -> Measurements:
    """Measure four routes over maps of 2x256x38x50, forward and backward."""
    shape = 2, 256, 38, 50
    measured = measure_routes(shape, ROUNDS, device)
    for kind in IN_PIECES:
        measured |= measure_pieces(kind, shape, ROUNDS_OF_PAIRS, device)
    return measured


def measure_pieces(kind: type[Cell], shape: tuple[int, int, int, int], rounds: int, device: str) -> Measurements:
    """Measure the routes of a cell of matrices over maps (B, D, H, W) in pieces, against pairs of all locations."""
    torch.manual_seed(0)
    b, size, h, w = shape
    cells = nn.ModuleList(kind(size) for _ in DIRECTIONS).to(device)
    last, read = torch.channels_last, kind(size).projection_channels
    x = torch.randn(b, read, h, w, device=device).contiguous(memory_format=last).requires_grad_()
    grad = torch.randn(b, len(DIRECTIONS) * size, h, w, device=device).contiguous(memory_format=last)

    def run(piece: int) -> None:
        with patch.object(decay_matrix, "PIECE", piece):
            y = cross_scan(list(cells), x, None)  # type: ignore[arg-type]
            torch.autograd.grad(y, [x, *cells.parameters()], grad)

    name = kind.__name__
    functions = {f"{name} all pairs": partial(run, h * w), f"{name} in pieces": partial(run, decay_matrix.PIECE)}
    return interleaved(functions, rounds, settle_on(device))


def measure_routes(shape: tuple[int, int, int, int], rounds: int, device: str) -> Measurements:
    """Measure h = a·h + b for maps (B, D, H, W) in channels-last memory."""
    torch.manual_seed(0)
    b, size, h, w = shape

    def drawn() -> Tensor:
        values = torch.rand(b, len(DIRECTIONS) * size, h, w, device=device)
        return values.contiguous(memory_format=torch.channels_last)

    keeps, new, grad = drawn().requires_grad_(), drawn().requires_grad_(), drawn()

    def run(function) -> None:
        torch.autograd.grad(function(keeps, new, " ".join(DIRECTIONS)), [keeps, new], grad)

    functions = {"routes step by step": partial(run, scan_by_steps), "routes ours": partial(run, route_scan)}
    return interleaved(functions, rounds, settle_on(device))


def scan_by_steps(a: Tensor, b: Tensor, routes: str) -> Tensor:
    """Compute `route_scan` by its definition, H·W steps a route."""
    names = routes.split()
    outputs = []
    for keeps, new, route in zip(a.chunk(len(names), 1), b.chunk(len(names), 1), names, strict=True):
        turned = [t if is_horizontal(route) else t.transpose(2, 3) for t in (keeps, new)]
        scans = [t.flatten(2).unbind(2) for t in turned]  # H·W of (B, D)
        scans = [scan[::-1] if is_reversed(route) else scan for scan in scans]
        states = [scans[1][0]]
        for a_t, b_t in zip(scans[0][1:], scans[1][1:], strict=True):
            states.append(a_t * states[-1] + b_t)
        h = torch.stack(states[::-1] if is_reversed(route) else states, 2).unflatten(2, turned[0].shape[2:])
        outputs.append(h if is_horizontal(route) else h.transpose(2, 3))
    return torch.cat(outputs, 1)
