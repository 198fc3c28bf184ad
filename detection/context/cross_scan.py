"""The cross-scan of VMamba ("SS2D"; Liu et al. 2024) with any cell that is linear in its state, as a context.

    in ─ 1×1 ─► pre-activations ─ 4 routes over the map ─► concat ─ 1×1, ReLU ─► out

A route flattens the complete map: row after row, column after column, and both reversed. A location depends on all that
is before it on each route: the rows above and its own up to it, and so on; by all four, on the whole image.
Locations outside of an image are identity steps, so that a route passes over them unchanged.

VMamba sums its routes. Here they are concatenated, as in `SpatialRNN`, with which it is compared: the 1×1 convolution
behind has the sum among what it can learn, and may weigh routes by channel.
"""

# B images, C channels, H×W map.

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from detection.cells import RGLRU, Cell, LinearCell, build_cell
from detection.context.by_location import convolve_wide, initialize_parts, over_rms
from detection.contracts import Context, at_least_float32
from detection.errors import UserError
from detection.ops.cross_scan import cross_scan
from detection.ops.sweep.directions import DIRECTIONS
from detection.ranges import Channels, Count


class CrossScan(Context):
    """Stacked scans of a cell over the complete map, on four routes.

    Args:
        in_channels: channels of the input.
        cell: the recurrent cell, a partial of a `Cell` with an identity step: `MinGRU`, `MinLSTM`, `GatedLinear`,
            `RGLRU`, `S6`, `SSD`, `MLSTM`, or a `ScannedCell` that states one; each route of each layer has separate
            weights. A map has many more locations than a line, over which it must remember.
        hidden_channels: channels of a route's output.
        num_layers: how many scans follow each other.
        out_channels: channels of the output; None for `hidden_channels`.
        rms_norm: as in `SpatialRNN`.

    Raises:
        UserError: the cell has no identity step.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        cell: partial[Cell] = partial(RGLRU),
        hidden_channels: Channels = 512,
        num_layers: Count = 1,
        out_channels: Channels | None = None,
        rms_norm: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels or hidden_channels
        self.cells = nn.ModuleList(
            nn.ModuleList(build_cell(cell, hidden_channels, None) for _ in DIRECTIONS) for _ in range(num_layers)
        )
        own = cast(Cell, self.cells[0][0])  # type: ignore[index]
        _check_cell(own)
        width = len(DIRECTIONS) * hidden_channels
        inputs = [in_channels, *[width] * num_layers]
        outputs = [own.projection_sizes] * num_layers + [(self.out_channels,)]
        self.convs = nn.ModuleList(nn.Conv2d(i, sum(o), 1) for i, o in zip(inputs, outputs, strict=True))
        self.scales = nn.ParameterList(torch.ones(width) for _ in range(num_layers)) if rms_norm else None
        for conv, sizes in zip(self.convs, outputs, strict=True):
            initialize_parts(cast(nn.Conv2d, conv), sizes)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the context (B, `out_channels`, H, W) of x (B, C, H, W), at least 0; `valid` is (B, 1, H, W).

        Under autocast it is float32.
        """
        first, *others = self.convs
        x = at_least_float32(first(x.contiguous(memory_format=torch.channels_last)))
        # As sums along lines, those over a map soon leave float16's range.
        with torch.autocast(x.device.type, enabled=False):
            for index, (cells, conv) in enumerate(zip(self.cells, others, strict=True)):
                x = cross_scan(list(cells), x, valid)  # type: ignore[arg-type]
                if self.scales is not None:
                    x = over_rms(x, self.scales[index])
                x = convolve_wide(cast(nn.Conv2d, conv), x)
        return torch.relu(x) * valid


def _check_cell(cell: Cell) -> None:
    if not isinstance(cell, LinearCell) and getattr(cell, "identity_step", None) is None:
        raise UserError(
            f"context.cell={type(cell).__name__}: CrossScan passes over locations outside of an image by steps that "
            f"leave the state as it is, and this cell has none; take MinGRU, MinLSTM, GatedLinear, RGLRU, S6, SSD or "
            f"MLSTM, or context=SpatialRNN for {type(cell).__name__}."
        )
    if not cell.computes_step:
        method = "coefficients" if isinstance(cell, LinearCell) else "scan"
        raise UserError(
            f"context.cell={type(cell).__name__}: CrossScan computes with its `{method}`, which it has from a class "
            f"with another `step`; write `{method}` too, or take context=SpatialRNN, which computes any step."
        )
