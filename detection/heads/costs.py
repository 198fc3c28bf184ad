"""Matching costs of a step and a ground-truth box: ReInspect's, and that of set predictors.

R regions of all images, T steps, N ground-truth boxes of a region (padded), K classes. Boxes are xyxy in pixels, codes
are boxes in the units of the box loss.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert

from detection.errors import UserError
from detection.heads.region_targets import RegionTargets
from detection.ops.box_iou import pairwise_iou
from detection.ops.double import widen, widest
from detection.ranges import NonNegative, Positive, PositiveFraction


class MatchingCost(ABC):
    """Cost of matching a step with a ground-truth box; in float64 where the device has it, without gradient."""

    @abstractmethod
    def cost(self, boxes: Tensor, codes: Tensor, logits: Tensor, region_targets: RegionTargets) -> Tensor:
        """Return costs (R, T, N), anything at padding.

        Args:
            boxes: (R, T, 4) xyxy.
            codes: (R, T, 4), the same in the units of the box loss.
            logits: (R, T, 1 + K), the background first.
            region_targets: the ground truth of each region.
        """


@dataclass(frozen=True)
class Lexicographic(MatchingCost):
    """ReInspect's cost: first to overlap, then the order of the steps, then the L1 distance of the codes.

    Of two matchings the one with fewer steps off their ground-truth boxes is cheaper; if equal, the one with earlier
    steps; if equal, the one with the smaller sum of distances. Classes play no part.

    Attributes:
        center_offset: a step is off its ground truth when its center is further away than this part of the ground
            truth's width, or of its height (the paper); None: by `iou`.
        iou: it is off when its IoU is below this (TensorBox, 0.25).
    """

    center_offset: Positive | None = 0.5
    iou: PositiveFraction | None = None

    def __post_init__(self) -> None:
        if (self.center_offset is None) == (self.iou is None):
            raise UserError(
                f"{type(self).__name__}(center_offset={self.center_offset}, iou={self.iou}): needs exactly one of the "
                "two; for the IoU set center_offset=None, iou=0.25."
            )

    @torch.no_grad()
    def cost(self, boxes: Tensor, codes: Tensor, logits: Tensor, region_targets: RegionTargets) -> Tensor:
        """Return costs (R, T, N) that rank matchings in that order."""
        steps = boxes.shape[1]
        distance = _l1(codes, region_targets.codes)
        # Sums over a matching are compared, so one unit of each place must outweigh all T terms of the next: distances
        # are scaled, region by region, to a sum of at most 1/2, and ranks are integers with a sum below T², the price
        # of one step off. The authors' 100, 1 and 1/2000 fail once distances sum to 2000 pixels.
        own = F.pad(distance.masked_fill(~region_targets.valid[:, None], 0).flatten(1), (0, 1))  # one more, for N = 0
        scale = 2 * steps * own.amax(1).clamp(min=torch.finfo(distance.dtype).tiny)
        rank = torch.arange(steps, device=boxes.device, dtype=widest(boxes.device))
        off = self._off(widen(boxes), widen(region_targets.boxes))
        return steps**2 * off + rank[:, None] + distance / scale[:, None, None]

    def _off(self, boxes: Tensor, region_targets: Tensor) -> Tensor:
        if self.iou is not None:
            return pairwise_iou(boxes, region_targets)[0] < self.iou
        assert self.center_offset is not None
        ours, theirs = (box_convert(b, "xyxy", "cxcywh") for b in (boxes, region_targets))
        offset = (ours[:, :, None, :2] - theirs[:, None, :, :2]).abs()  # (R, T, N, 2)
        return (offset > self.center_offset * theirs[:, None, :, 2:]).any(-1)


@dataclass(frozen=True)
class ReInspectCost(Lexicographic):
    """The same keys in one sum, as the authors' code adds them: 100·off + step + L1 / 2000.

    It ranks as `Lexicographic` does while the distances of a region, in the codes of `PixelOffsets`, stay well below
    2000 pixels in sum and its ranks below 100.

    Attributes:
        off_weight: of a step that is off its ground truth.
        rank_weight: of the step's index.
        distance_weight: of the L1 distance of the codes.
    """

    off_weight: NonNegative = 100.0
    rank_weight: NonNegative = 1.0
    distance_weight: NonNegative = 1 / 2000

    @torch.no_grad()
    def cost(self, boxes: Tensor, codes: Tensor, logits: Tensor, region_targets: RegionTargets) -> Tensor:
        """Return the sums (R, T, N)."""
        off = self._off(widen(boxes), widen(region_targets.boxes))
        rank = torch.arange(boxes.shape[1], device=boxes.device, dtype=widest(boxes.device))
        distance = self.distance_weight * _l1(codes, region_targets.codes)
        return self.off_weight * off + self.rank_weight * rank[:, None] + distance


@dataclass(frozen=True)
class SetCost(MatchingCost):
    """The cost of set predictors (DETR, Carion et al. 2020), a weighted sum.

    Attributes:
        l1: weight of the L1 distance of the codes; DETR's are relative to the image's size.
        giou: weight of −GIoU.
        label: weight of −(probability of the ground truth's class).
    """

    l1: NonNegative = 5.0
    giou: NonNegative = 2.0
    label: NonNegative = 1.0

    @torch.no_grad()
    def cost(self, boxes: Tensor, codes: Tensor, logits: Tensor, region_targets: RegionTargets) -> Tensor:
        """Return the weighted sums (R, T, N)."""
        # (R, T, N); a label at padding may be of no class, and the costs there may be any.
        labels = region_targets.labels.where(region_targets.valid, 0)[:, None].expand(-1, boxes.shape[1], -1)
        probability = widen(logits).softmax(-1).gather(2, labels)
        giou = pairwise_giou(widen(boxes), widen(region_targets.boxes))
        return self.l1 * _l1(codes, region_targets.codes) - self.giou * giou - self.label * probability


def _l1(codes: Tensor, region_targets: Tensor) -> Tensor:
    return torch.cdist(widen(codes), widen(region_targets), p=1)  # (R, T, N); autocast leaves float64 alone


def pairwise_giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the generalized IoUs (…, T, N) of boxes (…, T, 4) and others (…, N, 4) (Rezatofighi et al. 2019)."""
    iou, union = pairwise_iou(boxes, others)
    x1, y1, x2, y2 = boxes[..., :, None, :].unbind(-1)  # (…, T, 1) each
    left, top, right, bottom = others[..., None, :, :].unbind(-1)  # (…, 1, N) each
    # IoU − (hull − union) / hull, the hull being the smallest box around both.
    width = torch.maximum(x2, right) - torch.minimum(x1, left)
    return iou - 1 + union / (width * (torch.maximum(y2, bottom) - torch.minimum(y1, top)))
