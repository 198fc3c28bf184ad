"""Feature Pyramid Network (Lin et al. 2017) around any backbone: torchvision's layers, our names."""

from functools import partial
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from detection.backbones.backbone import Backbone, WrappedBackbone
from detection.errors import UserError
from detection.ranges import Channels


class FPN(WrappedBackbone):
    """A pyramid `p2` … next to a backbone's `c2` …, with one more level by subsampling the last.

    Args:
        body: the backbone, a partial of its class.
        stages: names of the feature maps that the pyramid is made of, finest first.
        out_channels: channels of every level.
        norm: batch norm in the pyramid, as in torchvision's `_v2` models, or none.
        levels: names of the levels to compute, the finest among them; None for all with the subsampled one. A level
            that nothing reads would stop training in several processes.

    Raises:
        UserError: there are no such stages or levels, stages in another order, or the finest level would be idle.
    """

    def __init__(
        self,
        body: partial[Backbone],
        stages: tuple[str, ...] = ("c2", "c3", "c4", "c5"),
        out_channels: Channels = 256,
        norm: Literal["batch"] | None = None,
        levels: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(body)
        missing = [s for s in stages if s not in self.body.out_channels]
        if missing:
            known = ", ".join(self.body.out_channels)
            raise UserError(f"FPN stages={stages}: the backbone has no feature map {missing[0]!r}; it has {known}.")
        strides = [self.body.strides[s] for s in stages]
        if not stages or any(coarse <= fine for fine, coarse in pairwise(strides)):
            raise UserError(f"FPN stages={stages}: name at least one, each once and the finest first.")
        self.sources = stages
        self.fpn = FeaturePyramidNetwork(
            [self.body.out_channels[s] for s in stages],
            out_channels,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=nn.BatchNorm2d if norm == "batch" else None,
        )
        names = [f"p{s[1:]}" for s in stages]
        self.levels = [*names, f"p{int(names[-1][1:]) + 1}"]
        self.wanted = self.levels if levels is None else list(levels)
        if not set(self.wanted) <= set(self.levels) or names[0] not in self.wanted:
            raise UserError(
                f"FPN levels={levels}: must be some of {', '.join(self.levels)}, and {names[0]} among them; "
                "for coarser levels only, leave the finest stage out of stages."
            )
        for place, name in enumerate(names):
            # The subsampled level is computed from the last one, which then is not idle.
            if name not in self.wanted and not (name == names[-1] and self.levels[-1] in self.wanted):
                self.fpn.layer_blocks[place] = nn.Identity()
        self.out_channels = {**self.body.out_channels, **dict.fromkeys(self.wanted, out_channels)}
        every = dict(zip(self.levels, [*strides, strides[-1] * 2], strict=True))
        self.strides = {**self.body.strides, **{name: every[name] for name in self.wanted}}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of images (B, 3, H, W) by name."""
        features = self.body(images)
        pyramid = self.fpn({name: features[name] for name in self.sources})
        every = dict(zip(self.levels, pyramid.values(), strict=True))
        return {**features, **{name: every[name] for name in self.wanted}}

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each stage by name; the pyramid is the stage `fpn`."""
        return {**self.body.stages(), "fpn": [self.fpn]}
