"""Ground-truth boxes that each region may answer for, padded to one count.

R regions, N ground-truth boxes of a region (padded), M ground-truth boxes of one image, T steps, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class RegionTargets:
    """Ground-truth boxes that each region may answer for.

    Attributes:
        boxes: (R, N, 4) xyxy.
        codes: (R, N, 4), the same in the units of the box loss.
        labels: (R, N) 1 … K, anything at padding.
        valid: (R, N), false at padding.
    """

    boxes: Tensor
    codes: Tensor
    labels: Tensor
    valid: Tensor


def keep_nearest(belongs: Tensor, distance: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Choose the ground-truth boxes that each region has steps for: the nearest, whatever their order in the file.

    Args:
        belongs: (R, M), which ground-truth boxes of the image a region may answer for.
        distance: (R, M) from its center; the earlier of two at the same distance comes first.
        steps: T.

    Returns:
        Indices (R, T) of ground-truth boxes, the nearest first, M at padding; and valid (R, T), false there.
    """
    count = belongs.shape[1]
    order = distance.masked_fill(~belongs, torch.inf).argsort(dim=1, stable=True)[:, :steps]
    order = F.pad(order, (0, steps - order.shape[1]), value=count)
    valid = F.pad(belongs, (0, 1)).gather(1, order)
    return order.masked_fill(~valid, count), valid
