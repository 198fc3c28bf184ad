"""Layers of `GridLSTM`: a 1×1 convolution and scans from some corners, of an LSTM or in pLSTM's linear form."""

# B images, C channels of the input, D hidden size, H×W map, K corners, G heads.

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from detection.context.by_location import initialize_parts, over_rms
from detection.ops.grid.corners import Corner
from detection.ops.grid.linear import EdgeGates, scan_grid_linear
from detection.ops.grid.lstm import GATES, scan_grid_lstm

OPENED = 2.0
"""Initial logit of the linear form's sources and, in mode P, of what it reads of edges; its negative of what it reads
there of a location itself, which otherwise outweighs what comes from afar."""

DIFFUSED = 3.0
"""Initial logit of what mode D reads of edges. Its states are sums over a quadrant, so that a gate that reads them
outweighs with its slope, at the location itself, what comes from afar, unless it is nearly open."""

Mode = Literal["P", "D"]
GridLayer = Callable[[int, int, tuple[Corner, ...], float], nn.Module]
"""From the input's channels, D, corners and the forget bias b to a layer: x (B, C, H, W), valid → (B, K·D, H, W)."""


class LSTMLayer(nn.Module):
    """Scans of a two-dimensional LSTM. Half of its channels start as memories of rows, half of columns."""

    def __init__(
        self, in_channels: int, size: int, corners: tuple[Corner, ...], forget_bias: float, *, stable: bool
    ) -> None:
        super().__init__()
        self.corners, self.stable = corners, stable
        self.conv = nn.Conv2d(in_channels, GATES * size, 1)
        initialize_parts(self.conv, (size,) * GATES)
        self.weight = nn.Parameter(torch.empty(len(corners), GATES * size, 2 * size))
        nn.init.uniform_(self.weight, -((2 * size) ** -0.5), (2 * size) ** -0.5)
        logits = torch.full((size,), forget_bias)
        logits[1::2] *= -1  # even channels keep their vertical neighbor's state, odd ones their horizontal neighbor's
        bias = torch.zeros(len(corners), GATES, size)
        # f and f': of the vertical and the horizontal neighbor, or how much and the vertical one's share.
        bias[:, 1], bias[:, 2] = (forget_bias, logits) if stable else (logits, -logits)
        self.bias = nn.Parameter(bias.flatten(1))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the scans (B, K·D, H, W) of x (B, C, H, W) under `valid` (B, 1, H, W)."""
        return scan_grid_lstm(self.conv(x), self.weight, self.bias, valid, self.corners, stable=self.stable)


class LinearLayer(nn.Module):
    """Scans of pLSTM's linear form, over their root mean square at each location.

    Each of G = gcd(8, D) heads has separate gates in each corner. At first they pass nearly all on, straight ahead:
    σ(b) of a state is kept. In mode P half of the heads turn σ(−b) of that to the other edge, the others up to σ(−1);
    in mode D nothing is turned, and a vertical edge passes σ(−1) to the horizontal one besides. Of the center's
    gradient at least 0.1 is left 40 locations away at first, on a map of 81×81 or a single line, in both modes.
    """

    def __init__(
        self, in_channels: int, size: int, corners: tuple[Corner, ...], forget_bias: float, mode: Mode = "P"
    ) -> None:
        super().__init__()
        self.corners = corners
        self.mode: Mode = mode
        self.heads = math.gcd(8, size)
        self.values = nn.Conv2d(in_channels, size, 1)
        initialize_parts(self.values, (size,))
        starts = _starts(mode, forget_bias, self.heads)  # (gates, G)
        self.gates = nn.Conv2d(in_channels, len(corners) * starts.numel(), 1)
        initialize_parts(self.gates, (self.heads,) * (len(corners) * len(starts)))
        with torch.no_grad():
            self.gates.bias.copy_(starts.flatten().repeat(len(corners)))  # type: ignore[union-attr]
        self.scale = nn.Parameter(torch.ones(len(corners) * size))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the scans (B, K·D, H, W) of x (B, C, H, W) under `valid` (B, 1, H, W)."""
        logits, values = self.gates(x), self.values(x)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        b, channels, height, width = logits.shape
        k = len(self.corners)
        # (B, K, 9 or 8, G, H, W)
        logits = logits.reshape(b, k, channels // (k * self.heads), self.heads, height, width)
        # Sums over a quadrant leave float16's range before they are normalized; bfloat16 holds them.
        wide = values.to(logits.dtype) if values.dtype == torch.float16 else values
        y = scan_grid_linear(wide, edge_gates(logits, self.mode), valid, self.corners)
        with torch.autocast(x.device.type, enabled=False):
            return over_rms(y.to(logits.dtype), self.scale.to(logits.dtype)).to(values.dtype)


def edge_gates(logits: Tensor, mode: Mode) -> EdgeGates:
    """Return the gates of logits (B, K, 9 or 8, G, H, W), so that states stay bounded.

    Mode P, propagation: what an incoming edge passes on, hh + hv or vv + vh, is at most 1, so that the states of a unit
    source sum to at most 1 over each diagonal. Mode D, diffusion: a vertical edge passes to both, a horizontal one only
    straight on, so that a single path leads from an edge to another, and each gate is at most 1. In both a source is at
    most 1, split between its edges.
    """
    amount, direction, *transitions, mark_h, mark_v, mark = torch.sigmoid(logits).unbind(2)
    source_h, source_v = amount * direction, amount * (1 - direction)
    marks = mark, mark_h, mark_v
    if mode == "D":
        hh, vv, vh = transitions
        return EdgeGates(*marks, source_h, hh, vh, source_v, torch.zeros_like(hh), vv)
    # 1 − σ(l) of the gates `straight` as σ(−l), which keeps its digits.
    turned_h, turned_v = torch.sigmoid(-logits[:, :, 3]), torch.sigmoid(-logits[:, :, 5])
    keep_h, straight_h, keep_v, straight_v = transitions
    hh, hv, vv, vh = keep_h * straight_h, keep_h * turned_h, keep_v * straight_v, keep_v * turned_v
    return EdgeGates(*marks, source_h, hh, vh, source_v, hv, vv)


def _starts(mode: Mode, forget_bias: float, heads: int) -> Tensor:
    """Return the initial logits (9 or 8, G): two of the source, those of transitions, three marks."""
    zero, opened, keep = torch.zeros(heads), torch.full((heads,), OPENED), torch.full((heads,), forget_bias)
    # Half of the heads at b, the others down to 1.
    low = min(1.0, forget_bias)
    straight = torch.linspace(2 * forget_bias - low, low, heads).clamp(max=forget_bias)
    if mode == "D":
        diffused = torch.full_like(zero, DIFFUSED)
        return torch.stack([opened, zero, keep, keep, zero - 1, diffused, diffused, zero])
    return torch.stack([opened, zero, keep, straight, keep, straight, opened, opened, -opened])
