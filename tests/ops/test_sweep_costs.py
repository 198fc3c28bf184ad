"""What sweeps cost: FLOPs, states that are kept, scratch memory, scans that go together."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import detection.ops.flops  # noqa: F401 - registers the formulas
from detection.analysis.timing import peak_bytes
from detection.cells import GRU, IRNN, LSTM, S6, Accumulator, IndRNN, MinGRU
from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.dispatch import sweep
from detection.ops.sweep.lines import by_axis
from tests.ops.sweeps import LINEAR, SIZE, B, H, W, name_of


@pytest.mark.parametrize(
    "cell, forward, backward",
    [
        # 4 directions x 2·3·3·4 = 72 values: additions and maxima; sums, masks and the sum over directions.
        (Accumulator, 4 * 72 * 2, 4 * 72 * 3),
        (IndRNN, 4 * 72 * 3, 4 * 72 * 6),
        (MinGRU, 4 * 72 * 2, 4 * 72 * 3),
        (partial(S6, state_size=2), 4 * 72 * 2 * 4, 4 * 72 * 2 * 12),
        # 4 directions x 24 locations x 3·3 products of 2, for each gate; and twice in the backward pass, which computes
        # the LSTM's four gates and two of the GRU's again.
        (IRNN, 4 * 24 * 9 * 2, 4 * 24 * 9 * 4),
        (LSTM, 4 * 24 * 9 * 2 * 4, 4 * 24 * 9 * (4 * 4 + 2 * 4)),
        (GRU, 4 * 24 * 9 * 2 * 3, 4 * 24 * 9 * (4 * 3 + 2 * 2)),
    ],
    ids=name_of,
)
def test_operations_are_counted(cell, forward, backward):
    cells = [cell(SIZE) for _ in DIRECTIONS]
    x = torch.randn(B, cells[0].projection_channels, H, W, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y = sweep(cells, x, None, DIRECTIONS)
    assert counter.get_total_flops() == forward
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == backward


class _Returned(TorchDispatchMode):
    """Count the numbers that our operations return."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.namespace == "detection":
            self.numbers += sum(t.numel() for t in (found if isinstance(found, tuple) else (found,)))
        return found


@pytest.mark.parametrize("cell", [LSTM, GRU], ids=name_of)
def test_states_are_kept_for_a_backward_pass_only(cell):
    """A state at each location and direction, where something learns and gradients are on."""
    cells = nn.ModuleList(cell(SIZE) for _ in DIRECTIONS)
    x = torch.randn(B, cells[0].projection_channels, H, W)
    output = len(DIRECTIONS) * B * SIZE * H * W

    def returned(x):
        with _Returned() as mode:
            sweep(list(cells), x, None, DIRECTIONS)
        return mode.numbers

    assert returned(x) == 2 * output
    with torch.no_grad():
        assert returned(x.clone().requires_grad_()) == output
    cells.requires_grad_(False)
    assert returned(x) == output and returned(x.clone().requires_grad_()) == 2 * output


@pytest.mark.parametrize("cell", [*LINEAR, LSTM, GRU], ids=name_of)
def test_scratch_is_small(cell, monkeypatch):
    """Beyond input, output and their gradients at most two maps a direction, of both passes together."""
    # As small a part of the map as of a large one.
    monkeypatch.setattr("detection.ops.sweep.autograd.CHUNK", 100)
    monkeypatch.setattr("detection.ops.sweep.gated_scan.PIECE", 5000)
    cells = nn.ModuleList(cell(32) for _ in DIRECTIONS)
    x = (
        torch.randn(2, cells[0].projection_channels, 20, 24)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
    )
    grad = torch.randn(2, 128, 20, 24).contiguous(memory_format=torch.channels_last)
    held = peak_bytes(lambda: torch.autograd.grad(sweep(list(cells), x, None, DIRECTIONS), [x], grad), "cpu")
    assert (held - grad.nbytes - x.nbytes) / grad.nbytes <= 2


@pytest.mark.parametrize("count", [1, 16])
def test_scratch_of_a_selective_scan_does_not_grow_with_its_states(count, monkeypatch):
    """Beyond input, output and their gradients at most three maps a direction, of both passes together."""
    monkeypatch.setattr(
        "detection.ops.sweep.selective_scan.PIECE", 8000
    )  # as small a part of the map as of a large one
    cells = nn.ModuleList(S6(64, state_size=count) for _ in DIRECTIONS)
    x = torch.randn(2, cells[0].projection_channels, 20, 24).contiguous(memory_format=torch.channels_last)
    x, grad = x.requires_grad_(), torch.randn(2, 256, 20, 24).contiguous(memory_format=torch.channels_last)
    held = peak_bytes(lambda: torch.autograd.grad(sweep(list(cells), x, None, DIRECTIONS), [x], grad), "cpu")
    assert (held - grad.nbytes - x.nbytes) / grad.nbytes <= 3


def test_neighbors_along_an_axis_are_scanned_together():
    assert by_axis("right left down up") == [(slice(0, 2), ["right", "left"]), (slice(2, 4), ["down", "up"])]
    assert by_axis("left up right") == [(slice(0, 1), ["left"]), (slice(1, 2), ["up"]), (slice(2, 3), ["right"])]
