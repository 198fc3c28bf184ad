"""The spatial recurrent context of the Inside-Outside Net (Bell et al. 2016, section 3.1), with any recurrent cell.

    in ─ 1×1 ─► pre-activations ─ 4 sweeps ─► concat ─ 1×1 ─► pre-activations ─ 4 sweeps ─► concat ─ 1×1, ReLU ─► out

A 1×1 convolution is the input side of a layer's cells, shared by its directions, and the output side of the layer
before. After one layer of four directions a location depends on its row and its column, after two on all of the image;
one layer of all eight directions adds its two diagonals. Every direction reads the part of a line that is behind it.
"""

# B images, C channels, H×W map.

from contextlib import nullcontext
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from detection.cells import LSTM, Cell, build_cell
from detection.context.by_location import convolve_wide, initialize_parts, over_rms
from detection.contracts import Context
from detection.errors import UserError
from detection.ops.sweep.directions import DIAGONALS, DIRECTIONS, Direction
from detection.ops.sweep.dispatch import sweep
from detection.ranges import Channels


class SpatialRNN(Context):
    """Stacked sweeps of a recurrent cell over rows and columns.

    Args:
        in_channels: channels of the input.
        cell: the recurrent cell, a partial of a `Cell`; each direction of each layer has separate weights.
        hidden_channels: channels of a cell's state.
        layers: directions of each layer; ION's "left/right first, up/down second" is
            `(("right", "left"), ("down", "up"))`. Diagonals are `"down_right"`, `"down_left"`, `"up_right"` and
            `"up_left"`, each named by where its scan goes.
        out_channels: channels of the output; None for `hidden_channels`.
        rms_norm: divide the sweeps at each location by their root mean square over channels, and multiply by a
            learned vector that is 1 at first, before the convolution that reads them. The paper does not. Sums along a
            line grow with its length, and this bounds them; where the pool normalizes the context, as ION's does,
            learning was faster without.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        cell: partial[Cell] = partial(LSTM),
        hidden_channels: Channels = 512,
        layers: tuple[tuple[Direction, ...], ...] = (DIRECTIONS, DIRECTIONS),
        out_channels: Channels | None = None,
        rms_norm: bool = False,
    ) -> None:
        super().__init__()
        check_layers(layers, "direction", DIRECTIONS + DIAGONALS)
        self.layers = layers
        self.out_channels = out_channels or hidden_channels
        self.cells = nn.ModuleList(
            nn.ModuleList(build_cell(cell, hidden_channels, None) for _ in layer) for layer in layers
        )
        parts = cast(Cell, self.cells[0][0]).projection_sizes  # type: ignore[index]
        widths = [in_channels, *(len(layer) * hidden_channels for layer in layers)]
        outputs = [parts] * len(layers) + [(self.out_channels,)]
        self.convs = nn.ModuleList(nn.Conv2d(i, sum(o), 1) for i, o in zip(widths, outputs, strict=True))
        self.scales = nn.ParameterList(torch.ones(width) for width in widths[1:]) if rms_norm else None
        for conv, sizes in zip(self.convs, outputs, strict=True):
            initialize_parts(conv, sizes)  # type: ignore[arg-type]

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the context (B, `out_channels`, H, W) of x (B, C, H, W), at least 0; `valid` is (B, 1, H, W).

        Under float16 autocast it is float32.
        """
        first, *others = self.convs
        x = first(x.contiguous(memory_format=torch.channels_last))
        # Sums along a line soon leave float16's range, and so do the products that read them.
        overflows = x.dtype == torch.float16
        x = x.float() if overflows else x
        with torch.autocast(x.device.type, enabled=False) if overflows else nullcontext():
            for index, (cells, layer, conv) in enumerate(zip(self.cells, self.layers, others, strict=True)):
                x = sweep(list(cells), x, valid, layer)  # type: ignore[arg-type]
                if self.scales is not None:
                    x = over_rms(x, self.scales[index])
                x = convolve_wide(conv, x) if overflows else conv(x)  # type: ignore[arg-type]
        return torch.relu(x) * valid


def check_layers(layers: tuple[tuple[str, ...], ...], what: str, known: tuple[str, ...]) -> None:
    """Raise a `UserError` unless there are layers, each with at least one known direction or corner and none twice.

    Args:
        layers: names.
        what: `direction` or `corner`.
        known: the names to choose from.
    """
    if not layers or not all(layers):
        raise UserError(f"context.layers={layers}: give at least one layer, and each at least one {what}.")
    for layer in layers:
        if len(set(layer)) < len(layer):
            raise UserError(f"context.layers: {layer} names a {what} twice.")
        for name in layer:
            if name not in known:
                raise UserError(f"context.layers: {name} is no {what} here; take {', '.join(known)}.")
