"""Contexts without recurrence, for comparison: those that the Inside-Outside Net was compared with, and more."""

# B images, C channels, H×W map, D hidden channels.

import torch
from torch import Tensor, nn

from detection.context.masked_attention import masked_attention
from detection.contracts import Context, at_least_float32
from detection.errors import UserError
from detection.ranges import Bins, Channels, Count


class NoContext(Context):
    """The identity, the baseline of a comparison in which all else is equal.

    Args:
        in_channels: channels of the input.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = in_channels

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return x (B, C, H, W), 0 outside of `valid` (B, 1, H, W)."""
        return x * valid


class ConvStack(Context):
    """Convolutions with a ReLU after each: ION's baselines "two 3×3 × 512" and "two 5×5 × 256" (Bell et al. 2016).

    Args:
        in_channels: channels of the input.
        kernel_size: side of the kernels; odd.
        hidden_channels: output channels of every convolution.
        num_layers: number of convolutions.

    Raises:
        UserError: an even `kernel_size`.
    """

    def __init__(
        self, in_channels: int, *, kernel_size: Bins = 3, hidden_channels: Channels = 512, num_layers: Count = 2
    ):
        super().__init__()
        if kernel_size % 2 == 0:
            raise UserError(f"context.kernel_size={kernel_size}: must be odd, to keep the map's size.")
        widths = [in_channels] + [hidden_channels] * num_layers
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, kernel_size, padding=kernel_size // 2) for i, o in zip(widths, widths[1:], strict=False)
        )
        self.out_channels = hidden_channels
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the context (B, `hidden_channels`, H, W) of x (B, C, H, W); padding is zeros, as beyond the border."""
        x = x * valid
        for conv in self.convs:
            x = torch.relu(conv(x)) * valid
        return x


class GlobalAverage(Context):
    """The mean over valid locations, a linear layer and a ReLU, the same everywhere (ParseNet, Liu et al. 2015).

    Args:
        in_channels: channels of the input.
        hidden_channels: channels of the output.
    """

    def __init__(self, in_channels: int, *, hidden_channels: Channels = 512) -> None:
        super().__init__()
        self.linear = nn.Conv2d(in_channels, hidden_channels, 1)
        self.out_channels = hidden_channels
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the context (B, `hidden_channels`, H, W) of x (B, C, H, W); without a valid location the mean is 0."""
        # A sum over a large map would leave float16's range.
        total = (at_least_float32(x) * valid).sum((2, 3), keepdim=True)
        mean = total / valid.sum((2, 3), keepdim=True).clamp(min=1)
        return torch.relu(self.linear(mean.to(x.dtype))) * valid


class NonLocal(Context):
    """A non-local block, embedded Gaussian (Wang et al. 2018): every location attends to all valid ones.

    Its last convolution is zero at first, so that the output is the input.

    Args:
        in_channels: channels of the input and of the output.
        hidden_channels: channels of queries, keys and values; None for half of `in_channels`, as in the paper.
    """

    def __init__(self, in_channels: int, *, hidden_channels: Channels | None = None) -> None:
        super().__init__()
        hidden = hidden_channels or max(1, in_channels // 2)
        self.query, self.key, self.value = (nn.Conv2d(in_channels, hidden, 1) for _ in range(3))
        self.out = nn.Conv2d(hidden, in_channels, 1)
        self.out_channels = in_channels
        for conv in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the context (B, C, H, W) of x (B, C, H, W)."""
        # (B, 1, H·W, D) each
        query, key, value = (c(x).flatten(2).transpose(1, 2)[:, None] for c in (self.query, self.key, self.value))
        # The paper's scores are not scaled.
        attended = masked_attention(query, key, value, valid.flatten(1), scale=1.0)[:, 0]
        attended = attended.transpose(1, 2).unflatten(2, x.shape[2:])  # (B, D, H, W)
        return (x + self.out(attended)) * valid
