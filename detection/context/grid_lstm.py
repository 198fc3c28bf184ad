"""Two-dimensional recurrences as a context: the MDLSTM (Graves, Fernández, Schmidhuber 2007), and pLSTM's linear form.

    in ─ 1×1 ─► pre-activations ─ 4 corners ─► concat ─ 1×1, ReLU ─► out

A location takes its state from its vertical and its horizontal neighbor. One corner's outputs depend on the quadrant
between the location and that corner, itself included: after one layer of four corners a location depends on the
complete map.
"""

# B images, C channels, H×W map.

from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from detection.context.by_location import initialize_parts
from detection.context.grid_layers import GridLayer, LinearLayer, LSTMLayer, Mode
from detection.context.spatial_rnn import check_layers
from detection.contracts import Context
from detection.errors import UserError
from detection.ops.grid.corners import CORNERS, Corner
from detection.ranges import Channels


class GridLSTM(Context):
    """Stacked scans of a two-dimensional LSTM, by anti-diagonals of all images at once.

    Both forget gates together keep Σ over paths of their products: with each near 1 a memory doubles at every step, and
    with each at 1/2 only 2^−t is left after t steps along a row. So half of the channels start as memories of columns,
    with biases (b, −b) of the vertical and the horizontal forget gate, and half as memories of rows, with (−b, b):
    σ(b) + σ(−b) = 1, and with b = 5 there are 0.76 left after 40 steps along the line. Nothing keeps them there while
    they learn. In the stable form, the default, their sum is at most 1, whatever they learn, and there are 0.58 left.

    Args:
        in_channels: channels of the input.
        hidden_channels: channels of a corner's state.
        layers: corners of each layer, each with its own weights; the 1×1 convolution that is their input side is shared
            by the corners of a layer.
        out_channels: channels of the output; None for `hidden_channels`.
        forget_bias: b.
        stable: one gate for how much is kept, one for how that is divided between both neighbors (Leifert et al. 2016),
            so that states stay in range on any map; false for both forget gates of the paper of 2007.
        linear: pLSTM's form in the place of the LSTM (Pöppel et al. 2025): states on the edges between locations, whose
            gates read the input alone, so that a step is linear in them.
        mode: of the linear form: `P`, directed propagation, the default there, or `D`, diffusion over the quadrant.

    Raises:
        UserError: a layer without a corner, or with one twice; an unknown mode; a mode without `linear`, or
            `stable=False` with it.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        hidden_channels: Channels = 512,
        layers: tuple[tuple[Corner, ...], ...] = (CORNERS,),
        out_channels: Channels | None = None,
        forget_bias: float = 5.0,
        stable: bool = True,
        linear: bool = False,
        mode: Mode | None = None,
    ) -> None:
        super().__init__()
        check_layers(layers, "corner", CORNERS)
        if mode is not None and not linear:
            raise UserError(f"context.mode={mode}: is of the linear form; set linear=true, or leave mode out.")
        if mode not in (None, "P", "D"):
            raise UserError(f"context.mode={mode}: take P or D.")
        if linear and not stable:
            raise UserError("context.stable=false: is of the LSTM; the linear form is always stable, so leave it out.")
        self.out_channels = out_channels or hidden_channels
        layer: GridLayer = partial(LinearLayer, mode=mode or "P") if linear else partial(LSTMLayer, stable=stable)
        widths = [in_channels, *(len(corners) * hidden_channels for corners in layers)]
        self.layers = nn.ModuleList(
            layer(width, hidden_channels, corners, forget_bias)
            for width, corners in zip(widths[:-1], layers, strict=True)
        )
        self.output = nn.Conv2d(widths[-1], self.out_channels, 1)
        initialize_parts(self.output, (self.out_channels,))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the context (B, `out_channels`, H, W) of x (B, C, H, W), at least 0; `valid` is (B, 1, H, W)."""
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x = cast(Tensor, layer(x, valid))
        return torch.relu(self.output(x)) * valid
