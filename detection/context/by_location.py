"""Parts of contexts that read one location at a time: the root mean square over channels, and 1×1 convolutions."""

# B images, C channels, H×W map.

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def over_rms(x: Tensor, scale: Tensor) -> Tensor:
    """Divide x (B, C, H, W) at each location by its root mean square over channels; zeros stay zeros."""
    if torch.onnx.is_in_onnx_export():  # whose opset 17 has no such norm
        return x * (x.square().mean(1, keepdim=True) + 1e-6).rsqrt() * scale[:, None, None]
    # (B, H, W, C) and back
    return F.rms_norm(x.permute(0, 2, 3, 1), scale.shape, scale.to(x.dtype), 1e-6).permute(0, 3, 1, 2)


def initialize_parts(conv: nn.Conv2d, sizes: tuple[int, ...]) -> None:
    """Initialize as Glorot and Bengio (2010), each part of the output, such as a gate, by the part's fan-out.

    Args:
        conv: its weights and bias, which becomes 0.
        sizes: output channels of each part.
    """
    for part in conv.weight.data.split(sizes):
        nn.init.xavier_uniform_(part)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]


def linear_wide(linear: nn.Module, x: Tensor) -> Tensor:
    """Apply an `nn.Linear` to x (…, I), in float32 or wider, in its own type, as `convolve_wide` does."""
    layer = cast(nn.Linear, linear)
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.to(x.dtype), bias)


def convolve_wide(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve x (B, C, H, W), in float32 or wider, in its own type, also where the weights are in half precision."""
    bias = None if conv.bias is None else conv.bias.to(x.dtype)
    return F.conv2d(x, conv.weight.to(x.dtype), bias)
