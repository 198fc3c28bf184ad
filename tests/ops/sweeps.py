"""Cells, maps and masks on which the sweeps are tested, and the comparison of their backends."""

from functools import partial

import pytest
import torch
from torch import nn

from detection import cells as kinds
from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.dispatch import sweep

B, SIZE, H, W = 2, 3, 3, 4
LINEAR = [kinds.MinGRU, kinds.MinLSTM, kinds.GatedLinear, kinds.RGLRU]
POINTWISE = [kinds.Accumulator, kinds.IndRNN, *LINEAR]
PRODUCTS = [kinds.TanhRNN, kinds.IRNN, kinds.LSTM, kinds.GRU]
OTHERS = [
    kinds.TiedLSTM, kinds.PeepholeLSTM, partial(kinds.GRU, reset="before"), kinds.MUT1, kinds.MUT2, kinds.MUT3,
    kinds.SLSTM,
]  # fmt: skip
SCANNED = [partial(kinds.S6, state_size=2), partial(kinds.SSD, num_heads=3), partial(kinds.MLSTM, num_heads=3)]
CELLS = POINTWISE + PRODUCTS + OTHERS + SCANNED


def name_of(value):
    if isinstance(value, partial):
        return "_".join([value.func.__name__, *map(str, value.keywords.values())])
    return getattr(value, "__name__", None) or str(value)


every_cell = pytest.mark.parametrize("cell", CELLS, ids=name_of)
fast_cells = pytest.mark.parametrize("cell", POINTWISE + PRODUCTS + SCANNED, ids=name_of)


def make(cell, directions=DIRECTIONS, dtype=torch.float64, **settings):
    """A cell for each direction, every parameter drawn at random."""
    cells = [cell(SIZE, **settings).to(dtype) for _ in directions]
    for parameter in (p for c in cells for p in c.parameters()):
        nn.init.normal_(parameter, std=0.6)
    return cells


def draw(cells, shape=(B, H, W), dtype=torch.float64):
    b, h, w = shape
    x = torch.randn(b, cells[0].projection_channels, h, w, dtype=dtype, requires_grad=True)
    return x, torch.randn(b, len(cells) * SIZE, h, w, dtype=dtype)


def corner(shape=(B, H, W)):
    """The first image is smaller than the map, in its top left."""
    valid = torch.ones(shape[0], 1, *shape[1:], dtype=torch.bool)
    valid[:1, :, (shape[1] + 1) // 2 :] = False
    valid[:1, :, :, (shape[2] + 1) // 2 :] = False
    return valid


def holes(shape=(B, H, W)):
    return torch.rand(shape[0], 1, *shape[1:], generator=torch.Generator().manual_seed(1)) > 0.3


def with_gradients(backend, cells, x, valid, directions, grad):
    """Output and gradients of x and every parameter."""
    y = sweep(cells, x, valid, directions, backend=backend)
    parameters = [p for c in cells for p in c.parameters()]
    return [y, *torch.autograd.grad(y, [x, *parameters], grad)]


def assert_backends_agree(backends, cells, x, valid, directions, grad, **tolerance):
    expected = with_gradients("steps", cells, x, valid, directions, grad)
    for backend in backends:
        for a, b in zip(with_gradients(backend, cells, x, valid, directions, grad), expected, strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, **tolerance)
