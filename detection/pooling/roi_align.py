"""RoIAlign (He et al. 2017) on one feature map or on pyramid levels chosen by box size (Lin et al. 2017, eq. 1)."""

# B images, C channels, N boxes of one image, R of all, h×w bins of a descriptor.

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from detection.contracts import Features, Pool, require_feature_maps
from detection.errors import UserError
from detection.ops.ragged import image_indices
from detection.ops.roi_align import roi_align
from detection.ranges import Bins, Level, Pixels, SamplingRatio


def require_levels(key: str, feature_maps: tuple[str, ...], in_channels: Mapping[str, int]) -> None:
    """Check the names under `key`: one feature map, or levels with the same channels.

    Raises:
        UserError: there are none, one does not exist, or they differ.
    """
    if not feature_maps:
        raise UserError(f"{key}={feature_maps}: name at least one feature map.")
    require_feature_maps(key, feature_maps, in_channels)
    if len({in_channels[name] for name in feature_maps}) > 1:
        raise UserError(f"{key}={feature_maps}: have different channels; use the levels of an FPN, or one feature map.")


def _require_pyramid(stages: tuple[str, ...], strides: Mapping[str, int]) -> None:
    """Check that levels are one after another, as the rule by box size counts them: others would never be read."""
    of_stages = [strides[stage] for stage in stages]
    if any(coarse != 2 * fine for fine, coarse in pairwise(of_stages)):
        raise UserError(
            f"pool: {stages} have strides {', '.join(map(str, of_stages))}: levels that are chosen by a box's size "
            "must be given finest first, each with twice the stride of the one before."
        )


class RoIAlign(Pool):
    """torchvision's `MultiScaleRoIAlign` with the true strides; in training on a CPU a faster one.

    Left alone, torchvision infers the scales from the first batch and keeps them; images much smaller than their
    padding (under about 1.4 strides of the coarsest map) give wrong ones.

    Args:
        in_channels: channels of each feature map by name.
        strides: pixels a location of each stands for, by name.
        stages: the feature map that is read, or levels of a pyramid, finest first, each of twice the stride before it.
        output_size: bins on a side of a descriptor.
        sampling_ratio: samples on a side of each bin; 0 adapts to the box.
        canonical_scale: side in pixels of a box that belongs to the level `canonical_level`.
        canonical_level: log2 of that level's stride.

    Raises:
        UserError: a map that does not exist, or maps that are no such levels.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        strides: Mapping[str, int],
        *,
        stages: tuple[str, ...] = ("p2", "p3", "p4", "p5"),
        output_size: Bins = 7,
        sampling_ratio: SamplingRatio = 2,
        canonical_scale: Pixels = 224,
        canonical_level: Level = 4,
    ) -> None:
        super().__init__()
        require_levels("pool.stages", stages, in_channels)
        _require_pyramid(stages, strides)
        self.stages, self.out_channels, self.output_size = stages, in_channels[stages[0]], output_size
        self.align = MultiScaleRoIAlign(
            list(stages), output_size, sampling_ratio, canonical_scale=canonical_scale, canonical_level=canonical_level
        )
        levels = [int(math.log2(strides[s])) for s in stages]
        self.scales = [1 / strides[s] for s in stages]
        self.map_levels = initLevelMapper(levels[0], levels[-1], canonical_scale, canonical_level)
        self.align.scales, self.align.map_levels = self.scales, self.map_levels

    def forward(self, features: Features, boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> Tensor:
        """Return the descriptors (R, C, h, w) of the boxes (N, 4) xyxy of each image."""
        # A trace or an export holds torchvision's op, and its merging of levels, which ONNX can express.
        if torch.jit.is_tracing() or torch.compiler.is_compiling():  # pyright: ignore[reportPrivateImportUsage]
            return self.align(dict(features), boxes, image_sizes)
        corners = torch.cat(boxes)
        image = image_indices([len(b) for b in boxes], corners.device).to(corners.dtype)
        rois = torch.cat([image[:, None], corners], dim=1)  # (R, 5)
        one = len(self.stages) == 1
        # By box size, equation 1 of Lin et al. 2017.
        levels = rois.new_zeros(len(rois), dtype=torch.int64) if one else self.map_levels([corners])
        read = [features[s] for s in self.stages]
        return roi_align(read, rois, levels, self.scales, self.output_size, self.align.sampling_ratio)
