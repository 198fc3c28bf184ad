"""Line propagation against the same lines, one after another, in autograd."""

from functools import partial

import torch
from torch import Tensor

from detection.analysis.timing import Measurements, interleaved, settle_on
from detection.ops.line_propagation import line_propagation, line_propagation_by_steps, neighbor_weights
from detection.ops.sweep.directions import DIRECTIONS

ROUNDS = 7


def benchmark_line_propagation(device: str) -> Measurements:
    """Measure four directions over maps of 2x256x38x50, forward and backward, with 1 and with 8 groups of channels."""
    return measure_groups(1, (2, 256, 38, 50), ROUNDS, device) | measure_groups(8, (2, 256, 38, 50), ROUNDS, device)


def measure_groups(groups: int, shape: tuple[int, int, int, int], rounds: int, device: str) -> Measurements:
    """Measure maps (B, D, H, W) in channels-last memory."""
    torch.manual_seed(0)
    b, size, h, w = shape

    def drawn(channels: int) -> Tensor:
        return torch.randn(b, channels, h, w, device=device).contiguous(memory_format=torch.channels_last)

    x = drawn(size).requires_grad_()
    weight = neighbor_weights(drawn(len(DIRECTIONS) * groups * 3), None, DIRECTIONS).requires_grad_()
    grad, names = drawn(len(DIRECTIONS) * size), " ".join(DIRECTIONS)

    def run(function) -> None:
        torch.autograd.grad(function(x, weight, names), [x, weight], grad)

    functions = {
        f"line propagation of {groups} groups by steps": partial(run, line_propagation_by_steps),
        f"line propagation of {groups} groups, ours": partial(run, line_propagation),
    }
    return interleaved(functions, rounds, settle_on(device))
