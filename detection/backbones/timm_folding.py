"""Classes that timm's convolutions and frozen norms become when they are folded."""

from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame, conv2d_same
from timm.layers.norm_act import FrozenBatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional

from detection.backbones.folding import TORCHVISION, Classes, FoldingConv


class FoldingConvSame(FoldingConv, Conv2dSame):
    """A convolution with TensorFlow's padding."""

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve (B, C, H, W)."""
        settings: Any = (self.stride, self.padding, self.dilation, self.groups)
        return conv2d_same(x, weight, bias, *settings)


class FoldedNormAct(FrozenBatchNormAct2d):
    """A norm with an activation, of which only the activation is left to compute.

    Attributes:
        convolution: in a tuple, so that it is no module of this one.
    """

    convolution: tuple[FoldingConv]
    act: Any
    drop: Any

    def forward(self, x: Tensor) -> Tensor:
        """Activate what the convolution has normalized, or normalize it first."""
        if not self.convolution[0].is_folded:
            return super().forward(x)
        x = self.drop(x)
        # Whether PyTorch's activation in place would copy x for the backward pass.
        is_copied = x.requires_grad and getattr(self.act, "inplace", False) and not torch.compiler.is_compiling()
        return WITHOUT_COPY.get(type(self.act), self.act)(x) if is_copied else self.act(x)


class ReLU6InPlace(torch.autograd.Function):
    """ReLU6 that keeps its result for the backward pass: the gradient follows from it as from what it overwrites.

    PyTorch's in place copies what it overwrites: one more pass over each map, and twice the memory.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return min(max(x, 0), 6) in the memory of x."""
        x.clamp_(0, 6)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        """Return the gradient where 0 < x < 6."""
        (y,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, y, 0, 6)


WITHOUT_COPY: dict[type[nn.Module], Any] = {
    nn.ReLU6: ReLU6InPlace.apply,
    nn.SiLU: functional.silu,
    nn.Hardswish: functional.hardswish,
}
"""Activations that in place copy what they overwrite where there is a backward pass, and what does not."""

TIMM: Classes = {**TORCHVISION, Conv2dSame: FoldingConvSame, FrozenBatchNormAct2d: FoldedNormAct}
