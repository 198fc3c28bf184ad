"""Recurrent layers after the stages of any backbone, whose outputs the next stages read."""

# B images, C channels, H×W map.

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detection.backbones.backbone import Backbone, WrappedBackbone, gives_nhwc
from detection.context import RecurrentConv
from detection.contracts import Context
from detection.errors import UserError

RECURRENT_CONV: partial[Context] = partial(RecurrentConv, norm="group", residual=True, init="zero")


class RecurrentStages(WrappedBackbone):
    """A backbone with a layer after each of the named stages, between it and the next stage.

    By default the layer is a residual recurrent convolution (Liang, Hu 2015) that is zero at first, so that a
    pre-trained backbone computes what it did, bit by bit. As the backbone's convolutions, it does not know where an
    image ends and padding begins.

    Args:
        body: the backbone, a partial of its class.
        recurrent_stages: names of the feature maps that are changed.
        layer: a partial of a `Context` that keeps the channels of its input.

    Raises:
        UserError: there is no such stage, or the layer changes the channels.
    """

    def __init__(
        self,
        body: partial[Backbone],
        recurrent_stages: tuple[str, ...] = ("c3", "c4"),
        layer: partial[Context] = RECURRENT_CONV,
    ) -> None:
        super().__init__(body)
        ends, is_nhwc = self.body.ends(), gives_nhwc(self.body)
        self.layers = nn.ModuleDict()
        for stage in recurrent_stages:
            if stage not in ends:
                raise UserError(
                    f"recurrent_stages={recurrent_stages}: no layer can follow {stage!r}; it can {', '.join(ends)}."
                )
            inserted = _Inserted(layer(self.out_channels[stage]), self.out_channels[stage], stage, is_nhwc)
            # A method of a module, so that a copy of the backbone calls its own layers and not this one's.
            ends[stage].register_forward_hook(inserted.after)
            self.layers[stage] = inserted

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each stage by name; the layers are the stage `recurrent`, not frozen with others."""
        return {**self.body.stages(), "recurrent": list(self.layers.values())}


class _Inserted(nn.Module):
    """A layer that changes the output of a module of the backbone."""

    def __init__(self, layer: nn.Module, channels: int, stage: str, is_nhwc: bool) -> None:
        super().__init__()
        if layer.out_channels != channels:
            raise UserError(
                f"recurrent_stages: after {stage!r} a layer has {layer.out_channels} channels and the next one reads "
                f"{channels}; it must keep them."
            )
        self.layer, self.is_nhwc = layer, is_nhwc

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output (B, C, H, W) of x (B, C, H, W), with every location valid."""
        return self.layer(x, torch.ones_like(x[:, :1], dtype=torch.bool))

    def after(self, _module: nn.Module, _inputs: Any, x: Tensor) -> Tensor:
        """Return what a forward hook puts in the place of x, the output of its module."""
        # (B, H, W, C) to (B, C, H, W) and back
        return self(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if self.is_nhwc else self(x)
