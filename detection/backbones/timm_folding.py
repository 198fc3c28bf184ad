"""What timm's convolutions and frozen norms become when they are folded."""

from typing import Any

from timm.layers.conv2d_same import Conv2dSame, conv2d_same
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import Tensor

from detection.backbones.folding import TORCHVISION, Classes, FoldingConv


class FoldingConvSame(FoldingConv, Conv2dSame):
    """A convolution with TensorFlow's padding."""

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve (B, C, H, W)."""
        settings: Any = (self.stride, self.padding, self.dilation, self.groups)
        return conv2d_same(x, weight, bias, *settings)


class FoldedNormAct(FrozenBatchNormAct2d):
    """A norm with an activation, which is left.

    Attributes:
        convolution: in a tuple, so that it is no module of this one.
    """

    convolution: tuple[FoldingConv]
    act: Any
    drop: Any

    def forward(self, x: Tensor) -> Tensor:
        """Activate what the convolution has normalized, or normalize it first."""
        return self.act(self.drop(x)) if self.convolution[0].is_folded else super().forward(x)


TIMM: Classes = {**TORCHVISION, Conv2dSame: FoldingConvSame, FrozenBatchNormAct2d: FoldedNormAct}
