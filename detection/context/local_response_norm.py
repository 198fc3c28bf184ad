"""Local response normalization (Krizhevsky et al. 2012) with the constants of RCNN-K (Liang, Hu 2015, section 3.2).

    x_k / (1 + α/N · Σ x²)^β over the N channels about k,   α = 0.001,   β = 0.75

PyTorch's scans the window channel by channel, which takes longer than the 3×3 convolution before it. Here the sum is a
1×1 convolution whose weights are a band of α/N, and the power two square roots (`detection benchmark local-response`).
"""

# B images, C channels, H×W map.

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from detection.contracts import at_least_float32

ALPHA = 0.001


class LocalResponseNorm(nn.Module):
    """Normalization over neighboring channels at each location.

    Args:
        channels: of the input.
        size: N, of the window; an odd one is centered, an even one has one more channel before than behind.
    """

    band: Tensor

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        place = torch.arange(channels)
        ahead = place - place[:, None]
        near = (ahead >= -(size // 2)) & (ahead <= (size - 1) // 2)
        self.register_buffer("band", near[:, :, None, None] * (ALPHA / size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x (B, C, H, W), in float32 or wider: a sum of squares soon overflows half precision."""
        with torch.autocast(x.device.type, enabled=False):
            exact = at_least_float32(x)
            root = (conv2d(exact.square(), self.band.to(exact.dtype)) + 1).rsqrt()
            return (exact * root * root.sqrt()).to(x.dtype)  # x·s^(−1/2)·s^(−1/4) = x / s^0.75
