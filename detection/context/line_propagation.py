"""Line propagation as a context: a complete line at once, each location from three neighbors in the line before.

    in ─ 1×1 ─► v, λ, u, logits ─► h_i = w_i h_{i−1} + λ_i ⊙ v_i in each direction, u ⊙ h ─► concat ─ 1×1, ReLU ─► out

The spatial propagation network (Liu et al. 2017) with the gates λ and u of GSPN (Wang et al. 2025), from the formulas.
w is tridiagonal, and a softmax of logits makes its rows at least 0 with a sum of 1 over the neighbors inside the image.
After one direction a location depends on the cone of 45° to each side of where the scan comes from; four directions
make that every location of the image.

Equal weights blur: over 40 lines a signal spreads over ±5 locations and its own has 0.08 of it. At first the middle
neighbor has a weight of 0.987, of which 0.59 is left over 40 lines, and λ and u are 1: the first pass is nearly a
running sum along each direction, as an accumulator's.
"""

# B images, C channels, D hidden channels, G groups, H×W map.

from typing import cast

import torch
from torch import Tensor, nn

from detection.context.by_location import convolve_wide, initialize_parts, over_rms
from detection.context.spatial_rnn import check_layers
from detection.contracts import Context
from detection.errors import UserError
from detection.ops.line_propagation import (
    NEIGHBORS,
    line_propagation,
    line_propagation_by_steps,
    neighbor_weights,
)
from detection.ops.sweep.directions import DIRECTIONS, Straight
from detection.ops.sweep.dispatch import refuse_forward_mode
from detection.ops.sweep.layout import state_type
from detection.ops.sweep.traced import refuse_any_length
from detection.ranges import Channels


class LinePropagation(Context):
    """Stacked propagations of lines, each in several directions.

    Args:
        in_channels: channels of the input.
        hidden_channels: channels of the states, D.
        layers: directions of each layer.
        groups: G; the weights of the three neighbors are shared by the channels of a group. GSPN shares them by all.
        out_channels: channels of the output; None for `hidden_channels`.
        middle: logit of the middle neighbor at first, where those of the two others are 0.
        gain: λ at first, what of the input enters a state.
        rms_norm: as in `SpatialRNN`.

    Raises:
        UserError: `groups` does not divide `hidden_channels`.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        hidden_channels: Channels = 512,
        layers: tuple[tuple[Straight, ...], ...] = (DIRECTIONS,),
        groups: Channels = 1,
        out_channels: Channels | None = None,
        middle: float = 5.0,
        gain: float = 1.0,
        rms_norm: bool = False,
    ) -> None:
        super().__init__()
        check_layers(layers, "direction", DIRECTIONS)
        if hidden_channels % groups:
            raise UserError(f"context.groups={groups}: must divide hidden_channels={hidden_channels}.")
        self.layers = layers
        self.hidden_channels = hidden_channels
        self.out_channels = out_channels or hidden_channels
        self.convs = nn.ModuleList()
        for i, layer in enumerate(layers):
            read = in_channels if i == 0 else len(layers[i - 1]) * hidden_channels
            conv = nn.Conv2d(read, 3 * hidden_channels + len(layer) * groups * NEIGHBORS, 1)
            _initialize(conv, hidden_channels, middle, gain)
            self.convs.append(conv)
        widths = [len(layer) * hidden_channels for layer in layers]
        self.scales = nn.ParameterList(torch.ones(width) for width in widths) if rms_norm else None
        self.out = nn.Conv2d(widths[-1], self.out_channels, 1)
        initialize_parts(self.out, (self.out_channels,))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the context (B, `out_channels`, H, W) of x (B, C, H, W), at least 0; `valid` is (B, 1, H, W).

        Under autocast it is float32.
        """
        x = self.convs[0](x.contiguous(memory_format=torch.channels_last))
        # States are sums along lines, which soon leave float16's range, and so do the products that read them.
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(state_type(x))
            for i, layer in enumerate(self.layers):
                if i > 0:
                    x = convolve_wide(cast(nn.Conv2d, self.convs[i]), x)
                x = self._propagate(x, valid, layer)
                if self.scales is not None:
                    x = over_rms(x, self.scales[i])
            return torch.relu(convolve_wide(self.out, x)) * valid

    def _propagate(self, x: Tensor, valid: Tensor, layer: tuple[Straight, ...]) -> Tensor:
        """Return u ⊙ h of each of K directions (B, K·D, H, W), from v, λ, u and logits x (B, 3·D + K·G·3, H, W)."""
        size = self.hidden_channels
        value, take, read, logits = x.split([size, size, size, x.shape[1] - 3 * size], 1)
        taken = torch.where(valid, take * value, 0)
        weight, names = neighbor_weights(logits, valid, layer), " ".join(layer)
        if torch.onnx.is_in_onnx_export():
            refuse_any_length("LinePropagation has no ONNX operator")
            h = line_propagation_by_steps(taken, weight, names)
        else:
            refuse_forward_mode(taken, weight, name="line_propagation", instead="reverse mode")
            h = line_propagation(taken, weight, names)
        return h * torch.cat([read] * len(layer), 1)


def _initialize(conv: nn.Conv2d, size: int, middle: float, gain: float) -> None:
    """Initialize the values as Glorot and Bengio, and the gates and logits as constants."""
    weight, bias = conv.weight.data, cast(Tensor, conv.bias).data
    weight.zero_()
    nn.init.xavier_uniform_(weight[:size])
    bias.zero_()
    bias[size : 2 * size] = gain  # λ
    bias[2 * size : 3 * size] = 1  # u
    bias[3 * size + 1 :: NEIGHBORS] = middle  # of three logits the second
