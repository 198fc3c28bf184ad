"""A depthwise convolution with a large kernel (RepLKNet, Ding et al. 2022), without recurrence."""

# B images, C channels, H×W map.

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detection.contracts import Context
from detection.errors import UserError
from detection.ranges import Bins, Channels


class LargeKernel(Context):
    """1×1 convolution, ReLU, a large and a small depthwise convolution in parallel, ReLU, 1×1 convolution, ReLU.

    Section 3 of the paper: the small kernel of the parallel branch makes the large one learnable, and the two sum to
    one kernel. Its batch norms are left out, since contexts start from features of any scale under a mask.

    Args:
        in_channels: channels of the input.
        hidden_channels: channels inside and of the output.
        kernel_size: side of the large kernel; odd. Half of it is how far the context sees: 15 locations with 31.
        small_kernel_size: side of the small kernel; odd.

    Raises:
        UserError: an even kernel, or a small one that is larger than the large one.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        hidden_channels: Channels = 512,
        kernel_size: Bins = 31,
        small_kernel_size: Bins = 5,
    ) -> None:
        super().__init__()
        for key, size in (("kernel_size", kernel_size), ("small_kernel_size", small_kernel_size)):
            if size % 2 == 0:
                raise UserError(f"context.{key}={size}: must be odd, to keep the map's size.")
        if small_kernel_size > kernel_size:
            raise UserError(
                f"context.small_kernel_size={small_kernel_size}: must not exceed kernel_size={kernel_size}."
            )
        self.before = nn.Conv2d(in_channels, hidden_channels, 1)
        self.after = nn.Conv2d(hidden_channels, hidden_channels, 1)
        self.large, self.small = (
            nn.Conv2d(hidden_channels, hidden_channels, size, padding=size // 2, groups=hidden_channels, bias=large)
            for size, large in ((kernel_size, True), (small_kernel_size, False))
        )
        self.out_channels = hidden_channels
        for conv in (self.before, self.large, self.small, self.after):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the context (B, `hidden_channels`, H, W) of x (B, C, H, W); padding is zeros, as beyond the border."""
        x = self.before(x * valid).relu() * valid
        if torch.onnx.is_in_onnx_export():  # which takes no computed kernel
            return self.after((self.large(x) + self.small(x)).relu()).relu() * valid
        # One convolution with the sum of both kernels is what two branches compute, in one pass over the map.
        margin = (self.large.kernel_size[0] - self.small.kernel_size[0]) // 2
        kernel = self.large.weight + F.pad(self.small.weight, (margin,) * 4)
        x = F.conv2d(x, kernel, self.large.bias, padding=self.large.padding, groups=len(kernel)).relu()  # type: ignore[arg-type]
        return self.after(x).relu() * valid
