"""Grid cells as regions (Stewart et al. 2016, ReInspect): the same for every image, with nothing to learn."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from detection.contracts import Features, Regions, Targets
from detection.errors import UserError
from detection.ranges import Pixels


class GridCells(Regions):
    """A window about the center of every grid cell that begins inside the image, row by row.

    ReInspect reads each by `detection.pooling.CenterCell` from a feature map of the same stride; other pools do, too.

    Args:
        in_channels: channels of each feature map by name; none is read here.
        window: pixels of a window's side; 64 in the paper.
        stride: pixels from one window to the next; 32 in the paper.

    Raises:
        UserError: windows that leave gaps.
    """

    def __init__(self, in_channels: Mapping[str, int], *, window: Pixels = 64, stride: Pixels = 32) -> None:
        super().__init__()
        if window < stride:
            raise UserError(
                f"regions.window={window}, stride={stride}: the window must be at least as large as the stride, or "
                "objects between two windows belong to none."
            )
        self.window, self.stride = window, stride

    def forward(
        self, images: ImageList, features: Features, targets: Targets | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the windows (N, 4) of each image, and no losses; only the images' sizes are read."""
        device = images.tensors.device
        windows = {size: self.windows(*size, device) for size in dict.fromkeys(images.image_sizes)}
        return [windows[size] for size in images.image_sizes], {}

    def windows(self, height: int, width: int, device: torch.device | None = None) -> Tensor:
        """Return the windows (N, 4) xyxy of an image of this size; they may reach over its border."""
        y, x = ((torch.arange(0, side, self.stride, device=device) + self.stride / 2) for side in (height, width))
        centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)  # (N, 2)
        return torch.cat([centers - self.window / 2, centers + self.window / 2], dim=1)
