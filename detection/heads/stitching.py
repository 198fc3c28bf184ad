"""Post-processing of the boxes that the regions of one image decode, each a set of them.

`NMS` knows nothing of regions; `SetNMS` (Chu et al. 2020, CrowdDet) and `Stitch` (Stewart, Andriluka and Ng 2016) trust
that boxes of one region are of different things.

M boxes of one image, n new ones, A accepted ones.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from detection.contracts import at_least_float32
from detection.errors import UserError
from detection.ops.box_iou import pairwise_iou
from detection.ops.double import widen
from detection.ranges import Fraction, Positive

_DEFAULT_IOU = 0.5


class Postprocess(ABC):
    """Choice among the boxes of all regions of one image, each label alone."""

    @abstractmethod
    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, regions: Tensor) -> Tensor:
        """Return the indices of the kept boxes by falling score.

        Args:
            boxes: (M, 4) xyxy.
            scores: (M,).
            labels: (M,).
            regions: (M,), any integers: boxes of equal ones are of one region.
        """


@dataclass(frozen=True)
class NMS(Postprocess):
    """Greedy non-maximum suppression; regions play no part.

    Attributes:
        iou: over which the lower-scored box is dropped.
    """

    iou: Fraction = 0.5

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, regions: Tensor) -> Tensor:
        """Return the indices of the kept boxes by falling score."""
        return batched_nms(boxes, scores, labels, self.iou)


@dataclass(frozen=True)
class SetNMS(Postprocess):
    """NMS in which boxes of one region never suppress each other (Chu et al. 2020).

    Attributes:
        iou: over which the lower-scored box of another region is dropped.
    """

    iou: Fraction = 0.5

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, regions: Tensor) -> Tensor:
        """Return the indices of the kept boxes by falling score; takes memory for M² values."""
        order = scores.argsort(descending=True, stable=True)
        boxes, labels, regions = at_least_float32(boxes)[order], labels[order], regions[order]
        competing = (labels[:, None] == labels) & (regions[:, None] != regions)
        # In float64, as torchvision's NMS compares an IoU with its threshold.
        over = competing & (widen(pairwise_iou(boxes, boxes)[0]) > self.iou)
        over = over.triu(1).float()  # (M, M): the row would suppress the column
        keep = torch.ones_like(order, dtype=torch.bool)
        # Each round settles at least one more box from the top: this ends, and only the greedy answer repeats itself.
        while not torch.equal(keep, settled := keep.float() @ over == 0):
            keep = settled
        return order[keep]


@dataclass(frozen=True)
class Stitch(Postprocess):
    """ReInspect's sequential merging: a box that was accepted drops at most one box of each region.

    Regions come one after another, the most confident first, each with a bipartite matching of its boxes with those
    accepted: as many pairs that overlap as possible, of these the smallest sum of L1 distances. A new box that has a
    partner is dropped, the others are accepted. With one box a region and an IoU this is NMS.

    The authors take regions in the order of the grid, count distances between boxes that do not overlap too, and match
    a region's own accepted boxes once more in each pass; here a box has no partner in its own region.

    Attributes:
        iou: boxes overlap over this IoU; None: by one of the next two, or over 0.5 without either.
        center_offset: they overlap when their centers are no further apart than this part of the accepted box's width
            and height (the paper, 1.0 at inference).
        overlap: `authors`, the rule of the authors' code: their centers are no further apart than 2/3 of the sum of
            both widths, so that boxes that do not touch sideways overlap too, and 1/2 of the sum of both heights.
        replace_iou: a new box that is more confident than its partner and over this IoU takes its place (the authors'
            code, 0.7); None: it is dropped too.
        passes: scores, falling; all regions come once for each, with what is above it and was not above the one
            before, and what is not above the last is dropped (the authors' code, .8 … .05). None: all at once.
    """

    iou: Fraction | None = None
    center_offset: Positive | None = None
    overlap: Literal["authors"] | None = None
    replace_iou: Fraction | None = None
    passes: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        rules = {"iou": self.iou, "center_offset": self.center_offset, "overlap": self.overlap}
        given = [f"{name}={value}" for name, value in rules.items() if value is not None]
        if len(given) > 1:
            raise UserError(f"Stitch({', '.join(given)}): boxes overlap by one rule only; set the others to None.")
        if self.passes is not None and not (self.passes and all(a > b for a, b in pairwise(self.passes))):
            raise UserError(f"Stitch(passes={self.passes}): must be falling scores, such as (0.8, 0.4, 0.05), or None.")

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, regions: Tensor) -> Tensor:
        """Return the indices of the kept boxes by falling score; takes memory for M² values, and loops on the CPU."""
        boxes = at_least_float32(boxes)
        iou = widen(pairwise_iou(boxes, boxes)[0])
        over = self._overlap(boxes, iou) & (labels[:, None] == labels) & (regions[:, None] != regions)
        same = torch.zeros_like(over) if self.replace_iou is None else iou > self.replace_iou
        groups = torch.stack([labels, regions]).unique(dim=1, return_inverse=True)[1]
        arrays = [t.detach().cpu().numpy() for t in (widen(boxes), scores.float(), groups, over, same)]
        kept = torch.tensor(sorted(self._merge(*arrays)), dtype=torch.long, device=boxes.device)
        return kept[scores[kept].argsort(descending=True, stable=True)]

    def _overlap(self, boxes: Tensor, iou: Tensor) -> Tensor:
        """Return booleans (M, M): the row, a new box, overlaps the column, an accepted one."""
        if self.center_offset is None and self.overlap is None:
            return iou > (_DEFAULT_IOU if self.iou is None else self.iou)
        x, y, width, height = box_convert(boxes, "xyxy", "cxcywh").unbind(1)
        apart_x, apart_y = (x[:, None] - x).abs(), (y[:, None] - y).abs()
        if self.center_offset is not None:
            return (apart_x <= self.center_offset * width) & (apart_y <= self.center_offset * height)
        return (apart_x <= (width[:, None] + width) / 1.5) & (apart_y <= (height[:, None] + height) / 2)

    def _merge(
        self, boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, over: np.ndarray, same: np.ndarray
    ) -> list[int]:
        """Return the accepted boxes; a group is what comes together, the boxes of one region and label."""
        accepted: list[int] = []
        order = np.argsort(-scores, kind="stable")
        lows = [-np.inf] if self.passes is None else self.passes
        for high, low in zip([np.inf, *lows], lows, strict=False):
            arrivals: dict[int, list[int]] = {}
            for box in order[(scores[order] > low) & (scores[order] <= high)].tolist():
                arrivals.setdefault(int(groups[box]), []).append(box)
            for group, new in arrivals.items():
                for box, partner in _pairs(boxes, over, new, accepted):
                    if same[box, partner] and scores[box] > scores[partner]:
                        accepted.remove(partner)
                    else:
                        new.remove(box)
                        over[groups == group, partner] = False  # in later passes it drops no other of the group
                accepted += new
        return accepted


def _pairs(boxes: np.ndarray, over: np.ndarray, new: list[int], accepted: list[int]) -> list[tuple[int, int]]:
    """Return the matching of new boxes with accepted ones, as far as they overlap."""
    over = over[new][:, accepted]  # (n, A)
    near = np.flatnonzero(over.any(0))
    if not len(near):
        return []
    partners, over = np.array(accepted)[near], over[:, near]
    distance = np.abs(boxes[new][:, None] - boxes[partners]).sum(-1)
    # The distances of a matching are scaled to a sum below 1, the worth of one pair that overlaps.
    cost = np.where(over, distance / (len(new) * distance.max() + 1) - 1, 0)
    return [(new[i], int(partners[j])) for i, j in zip(*linear_sum_assignment(cost), strict=True) if over[i, j]]
