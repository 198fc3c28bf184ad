"""Regions: maps → per image boxes (N, 4) xyxy in input pixels, and losses in training.

Grid cells are ReInspect's (Stewart et al. 2016): the same for every image, with nothing to learn.

The Region Proposal Network (Ren et al. 2015, Faster R-CNN) is torchvision's, composed; its predictions are turned to
float32 before any box arithmetic, so that mixed precision does not round boxes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from detection.contracts import Features, Regions, Targets
from detection.errors import UserError
from detection.ranges import Pixels


class GridCells(Regions):
    """A window about the center of every cell of a grid, row by row; those that lie whole outside their image left out.

    ReInspect reads each by `detection.pooling.CenterCell` from a map of the same stride; any other pool will do.

    Args:
        in_channels: channels of each map by name; none is read here.
        window: pixels of a window's side; 64 in the paper.
        stride: pixels from one window to the next; 32 in the paper.

    Raises:
        UserError: windows that leave gaps.
    """

    def __init__(self, in_channels: Mapping[str, int], *, window: Pixels = 64, stride: Pixels = 32) -> None:
        super().__init__()
        if stride < 1 or window < stride:
            raise UserError(
                f"regions.window={window}, stride={stride}: the window must be at least as large as the stride, and "
                "that at least 1, or objects between two windows belong to none."
            )
        self.window, self.stride = window, stride

    def forward(
        self, images: ImageList, features: Features, targets: Targets | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Windows (N, 4) of each image, and no losses.

        Args:
            images: the padded batch and each image's size inside it.
            features: not read.
            targets: not read.
        """
        device = images.tensors.device
        return [self.windows(height, width, device) for height, width in images.image_sizes], {}

    def windows(self, height: int, width: int, device: torch.device | None = None) -> Tensor:
        """The windows (N, 4) xyxy of an image of this size; they may reach over its border."""
        y, x = ((torch.arange(0, side, self.stride, device=device) + self.stride / 2) for side in (height, width))
        centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
        return torch.cat([centers - self.window / 2, centers + self.window / 2], dim=1)
