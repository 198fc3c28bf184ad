"""Contexts without recurrence, for a fair comparison: those that the Inside-Outside Net was compared with, and more.

Each reads and returns what `SpatialRNN` does (see `detection.context`).
"""

import torch
from torch import Tensor, nn

from detection.errors import UserError


class NoContext(nn.Module):
    """The map as it is: what the others are compared with when all else stays the same.

    Args:
        in_channels: of the map.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = in_channels

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """The map (B, C, H, W), 0 outside of `valid` (B, 1, H, W)."""
        return x * valid


class ConvStack(nn.Module):
    """Convolutions with a ReLU after each: ION's baselines "two 3×3 × 512" and "two 5×5 × 256" (Bell et al. 2016, sec.
    5).

    Args:
        in_channels: of the map.
        kernel_size: cells on a side; odd.
        hidden_channels: of every convolution.
        num_layers: how many.
    """

    def __init__(self, in_channels: int, *, kernel_size: int = 3, hidden_channels: int = 512, num_layers: int = 2):
        super().__init__()
        if kernel_size % 2 == 0 or num_layers < 1:
            raise UserError(
                f"context.kernel_size={kernel_size}, num_layers={num_layers}: the kernel must be odd, for a map of the "
                "same size, and there must be a layer."
            )
        widths = [in_channels] + [hidden_channels] * num_layers
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, kernel_size, padding=kernel_size // 2) for i, o in zip(widths, widths[1:], strict=False)
        )
        self.out_channels = hidden_channels
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Context (B, hidden_channels, H, W) of a map (B, C, H, W); padding counts as the zeros beyond the border."""
        x = x * valid
        for conv in self.convs:
            x = torch.relu(conv(x)) * valid
        return x


class GlobalAverage(nn.Module):
    """The mean over all valid cells, a fully connected layer and a ReLU, the same at every cell (ParseNet, Liu 2015).

    Args:
        in_channels: of the map.
        hidden_channels: of the context.
    """

    def __init__(self, in_channels: int, *, hidden_channels: int = 512) -> None:
        super().__init__()
        self.linear = nn.Conv2d(in_channels, hidden_channels, 1)
        self.out_channels = hidden_channels
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Context (B, hidden_channels, H, W) of a map (B, C, H, W); an image without a valid cell has a mean of 0."""
        total = (x.to(torch.promote_types(x.dtype, torch.float32)) * valid).sum((2, 3), keepdim=True)
        mean = total / valid.sum((2, 3), keepdim=True).clamp(min=1)
        return torch.relu(self.linear(mean.to(x.dtype))) * valid


class NonLocal(nn.Module):
    """A non-local block, embedded Gaussian (Wang et al. 2018): every cell attends to all valid cells.

    Its last convolution starts at zero, so that the map goes through unchanged at first.

    Args:
        in_channels: of the map, and of the context.
        hidden_channels: of queries, keys and values; None: half of `in_channels`, as in the paper.
    """

    def __init__(self, in_channels: int, *, hidden_channels: int | None = None) -> None:
        super().__init__()
        hidden = hidden_channels or in_channels // 2
        self.query, self.key, self.value = (nn.Conv2d(in_channels, hidden, 1) for _ in range(3))
        self.out = nn.Conv2d(hidden, in_channels, 1)
        self.out_channels = in_channels
        for conv in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Context (B, C, H, W) of a map (B, C, H, W)."""
        query, key, value = (conv(x).flatten(2).transpose(1, 2) for conv in (self.query, self.key, self.value))
        scores = query @ key.transpose(1, 2)  # (B, H·W, H·W)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        # Finite, so that an image without any valid cell gives no NaN.
        scores = scores.masked_fill(~valid.flatten(2), torch.finfo(scores.dtype).min)
        attended = scores.softmax(-1).to(value.dtype) @ value
        return (x + self.out(attended.transpose(1, 2).unflatten(2, x.shape[2:]))) * valid
