"""The two-dimensional LSTM (MDLSTM; Graves, Fernández, Schmidhuber 2007) as a context, from the corners of the map.

    in ─ 1×1 ─► pre-activations ─ 4 corners ─► concat ─ 1×1, ReLU ─► out

A location takes its state from its vertical and its horizontal neighbor. One corner's outputs depend on the quadrant
between the location and that corner, itself included: after one layer of four corners a location depends on the whole
map.
"""

import torch
from torch import Tensor, nn

from detection.context.by_location import initialize_parts
from detection.contracts import Context
from detection.errors import UserError
from detection.ops.grid.corners import CORNERS, Corner
from detection.ops.grid.lstm import GATES, scan_grid_lstm
from detection.ranges import Channels


class GridLSTM(Context):
    """Stacked scans of a two-dimensional LSTM, by anti-diagonals of all images at once.

    Both forget gates together keep Σ over paths of their products: with each near 1 a memory doubles at every step, and
    with each at 1/2 only 2^−t is left after t steps along a row. So half of the channels start as memories of columns,
    with biases (b, −b) of the vertical and the horizontal forget gate, and half as memories of rows, with (−b, b):
    σ(b) + σ(−b) = 1, and with b = 5 there are 0.77 left after 40 steps along the line.

    Args:
        in_channels: channels of the input.
        hidden_channels: channels of a corner's state.
        layers: corners of each layer, each with its own weights; the 1×1 convolution that is their input side is shared
            by the corners of a layer.
        out_channels: channels of the output; None for `hidden_channels`.
        forget_bias: b.

    Raises:
        UserError: a layer without a corner, or with one twice.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        hidden_channels: Channels = 512,
        layers: tuple[tuple[Corner, ...], ...] = (CORNERS,),
        out_channels: Channels | None = None,
        forget_bias: float = 5.0,
    ) -> None:
        super().__init__()
        check_corners(layers)
        self.layers = layers
        self.out_channels = out_channels or hidden_channels
        size = hidden_channels
        self.weights = nn.ParameterList(torch.empty(len(layer), GATES * size, 2 * size) for layer in layers)
        self.biases = nn.ParameterList(torch.zeros(len(layer), GATES * size) for layer in layers)
        widths = [in_channels, *(len(layer) * size for layer in layers)]
        outputs = [(size,) * GATES] * len(layers) + [(self.out_channels,)]
        self.convs = nn.ModuleList(nn.Conv2d(i, sum(o), 1) for i, o in zip(widths, outputs, strict=True))
        for conv, sizes in zip(self.convs, outputs, strict=True):
            initialize_parts(conv, sizes)  # type: ignore[arg-type]
        with torch.no_grad():
            for weight, bias in zip(self.weights, self.biases, strict=True):
                weight.uniform_(-((2 * size) ** -0.5), (2 * size) ** -0.5)
                logits = torch.full((size,), forget_bias)
                logits[1::2] *= -1
                bias[:, size : 2 * size], bias[:, 2 * size : 3 * size] = logits, -logits

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the context (B, `out_channels`, H, W) of x (B, C, H, W), at least 0; `valid` is (B, 1, H, W)."""
        first, *others = self.convs
        x = first(x.contiguous(memory_format=torch.channels_last))
        for weight, bias, layer, conv in zip(self.weights, self.biases, self.layers, others, strict=True):
            x = conv(scan_grid_lstm(x, weight, bias, valid, layer))
        return torch.relu(x) * valid


def check_corners(layers: tuple[tuple[Corner, ...], ...]) -> None:
    """Check that each layer has at least one corner and none twice."""
    if not layers or not all(layers):
        raise UserError(f"context.layers={layers}: give at least one layer, and each at least one corner.")
    for layer in layers:
        if len(set(layer)) < len(layer):
            raise UserError(f"context.layers: {layer} names a corner twice.")
