"""Two-dimensional recurrences against the same by steps in autograd: diagonal by diagonal, and location by location.

Of the linear form the scratch memory, too.
"""

from functools import partial

import torch
from torch import Tensor

from detection.analysis.timing import Measurements, interleaved, peak_bytes, settle_on
from detection.context.grid_layers import edge_gates
from detection.ops.grid.corners import CORNERS, anti_diagonals
from detection.ops.grid.linear import GATES as EDGE_GATES
from detection.ops.grid.linear import Backend as LinearBackend
from detection.ops.grid.linear import EdgeGates, scan_grid_linear
from detection.ops.grid.lstm import GATES, Backend, scan_grid_lstm

ROUNDS = 3
LINEAR_ROUNDS = 7
HEADS = 8


def benchmark_grid(device: str) -> Measurements:
    """Measure the two-dimensional LSTM and the linear form from four corners over 2x256x38x50, forward and backward.

    Location by location the LSTM is measured from one corner, and only once, for it takes long. The scratch of the
    linear form is what a forward and backward pass holds at most without its output and gradients, over the corners.
    """
    shape = 2, 256, 38, 50
    return measure_linear(shape, LINEAR_ROUNDS, device) | measure_grid(shape, ROUNDS, device)


def measure_linear(shape: tuple[int, int, int, int], rounds: int, device: str) -> Measurements:
    """Measure maps (B, D, H, W) with gates of 8 heads in mode P."""
    torch.manual_seed(0)
    b, size, height, width = shape
    last = torch.channels_last
    value = torch.randn(shape, device=device).contiguous(memory_format=last).requires_grad_()
    logits = torch.randn(b, height, width, len(CORNERS), EDGE_GATES, HEADS, device=device).permute(0, 3, 4, 5, 1, 2)
    gates = EdgeGates(*(gate.requires_grad_() for gate in edge_gates(logits, "P")))
    grad = torch.randn(b, len(CORNERS) * size, height, width, device=device).contiguous(memory_format=last)

    def run(backend: LinearBackend) -> tuple[Tensor, ...]:
        y = scan_grid_linear(value, gates, None, CORNERS, backend=backend)
        return torch.autograd.grad(y, (value, *gates), grad)

    functions = {"linear GridLSTM by diagonals": partial(run, "steps"), "linear GridLSTM ours": partial(run, "ours")}
    measured = interleaved(functions, rounds, settle_on(device))
    returned = sum(t.nbytes for t in (value, *gates, grad))  # gradients and the output are as large
    for name, function in functions.items():
        held = peak_bytes(function, device) - returned
        measured[f"{name}: scratch (feature maps a corner)"] = held / value.nbytes / len(CORNERS)
    return measured


def measure_grid(shape: tuple[int, int, int, int], rounds: int, device: str) -> Measurements:
    """Measure maps (B, D, H, W)."""
    torch.manual_seed(0)
    b, size, height, width = shape
    last = torch.channels_last
    x = torch.randn(b, GATES * size, height, width, device=device).contiguous(memory_format=last).requires_grad_()
    weight = (torch.randn(len(CORNERS), GATES * size, 2 * size, device=device) / (2 * size) ** 0.5).requires_grad_()
    bias = torch.zeros(len(CORNERS), GATES * size, device=device, requires_grad=True)
    grad = torch.randn(b, len(CORNERS) * size, height, width, device=device).contiguous(memory_format=last)

    def run(backend: Backend) -> tuple[Tensor, ...]:
        y = scan_grid_lstm(x, weight, bias, None, CORNERS, backend=backend)
        return torch.autograd.grad(y, (x, weight, bias), grad)

    def one_corner(by_location: bool) -> tuple[Tensor, ...]:
        if by_location:
            y = _by_location(x, weight[0], bias[0])
        else:
            y = scan_grid_lstm(x, weight[:1], bias[:1], None, CORNERS[:1], backend="ours")
        return torch.autograd.grad(y, (x, weight, bias), grad[:, :size])

    functions = {"GridLSTM by diagonals": partial(run, "steps"), "GridLSTM ours": partial(run, "ours")}
    one = {"one corner by location": partial(one_corner, True), "one corner ours": partial(one_corner, False)}
    settle = settle_on(device)
    return {**interleaved(functions, rounds, settle), **interleaved(one, 1, settle)}


def _by_location(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute the scan from the top left, one location of all images at a time in the order of the diagonals."""
    b, _, height, width = x.shape
    size = weight.shape[1] // 2
    zero = x.new_zeros(b, size)
    states: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    inputs = x.flatten(2).unbind(2)  # a selection of each would add gradients of the size of the map
    for step in anti_diagonals(height, width, "top_left"):
        for k in range(step.count):
            row, column = step.row + k, step.column - k
            (h, c), (other_h, other_c) = (
                states.get(place, (zero, zero)) for place in ((row - 1, column), (row, column - 1))
            )
            gates = inputs[row * width + column] + torch.nn.functional.linear(torch.cat([h, other_h], 1), weight, bias)
            i, f, other_f, o, g = gates.chunk(GATES, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(other_f) * other_c + torch.sigmoid(i) * torch.tanh(g)
            states[row, column] = torch.sigmoid(o) * torch.tanh(c), c
    rows = [torch.stack([states[row, column][0] for column in range(width)], -1) for row in range(height)]
    return torch.stack(rows, -2)
