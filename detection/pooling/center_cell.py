"""The one location of a feature map on which the center of a box is (Stewart et al. 2016, ReInspect)."""

# B images, C channels, H×W map, N boxes of one image, R of all.

from collections.abc import Mapping

import torch
from torch import Tensor

from detection.contracts import Features, Pool, require_feature_maps
from detection.ops.ragged import image_indices


class CenterCell(Pool):
    """The location of a feature map on which the center of a box is: ReInspect's descriptor of a grid cell, exactly.

    torchvision's RoIAlign reads half a location away from it.

    Args:
        in_channels: channels of each feature map by name.
        strides: pixels a location of each stands for, by name.
        stage: the feature map that is read.
    """

    output_size = 1

    def __init__(self, in_channels: Mapping[str, int], strides: Mapping[str, int], *, stage: str = "c5") -> None:
        super().__init__()
        require_feature_maps("pool", (stage,), in_channels)
        self.out_channels = in_channels[stage]
        self.stage, self.stride = stage, strides[stage]

    def forward(self, features: Features, boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> Tensor:
        """Return the descriptors (R, C, 1, 1) of boxes (N, 4) xyxy of each image; a center outside reads the border."""
        feature_map = features[self.stage]
        height, width = feature_map.shape[-2:]
        corners = torch.cat(boxes)
        image = image_indices([len(b) for b in boxes], corners.device)
        column, row = ((corners[:, :2] + corners[:, 2:]) / (2 * self.stride)).floor().long().unbind(1)
        place = (image * height + row.clamp(0, height - 1)) * width + column.clamp(0, width - 1)
        return feature_map.permute(0, 2, 3, 1).flatten(0, 2)[place][..., None, None]  # (R, C, 1, 1)
