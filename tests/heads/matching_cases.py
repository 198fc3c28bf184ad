"""Regions, predictions and ground-truth boxes on which matching, its costs and its loss are tested."""

from dataclasses import dataclass

import torch

from detection.heads.costs import Lexicographic, MatchingCost, ReInspectCost, SetCost
from detection.heads.hungarian import loss_cost
from detection.heads.region_targets import RegionTargets


@dataclass(frozen=True)
class LossCost(MatchingCost):
    """The loss of the strategy `emd`."""

    def cost(self, boxes, codes, logits, region_targets):
        return loss_cost(codes, logits, region_targets, background_weight=0.5, giou_weight=2.0, boxes=boxes)


COSTS = [Lexicographic(), Lexicographic(center_offset=None, iou=0.25), ReInspectCost(), SetCost(), LossCost()]


def make_targets(boxes, labels=None, valid=None):
    """RegionTargets whose codes are their corners in tens of pixels, from boxes (R, N, 4)."""
    boxes = torch.as_tensor(boxes, dtype=torch.float64)
    labels = torch.ones(boxes.shape[:2], dtype=torch.int64) if labels is None else torch.as_tensor(labels)
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool) if valid is None else valid
    return RegionTargets(boxes, boxes / 10, labels, valid)


def random_boxes(*shape, generator, size=40.0):
    corner, sides = torch.rand(2, *shape, 2, generator=generator, dtype=torch.float64)
    return torch.cat([corner * size, corner * size + 1 + sides * size], -1)


def random_case(seed, regions=6, steps=4, count=None, classes=3):
    """Predictions, and ground-truth boxes with 0 … count of them valid, not always the first."""
    generator = torch.Generator().manual_seed(seed)
    count = steps if count is None else count
    boxes = random_boxes(regions, steps, generator=generator)
    logits = torch.randn(regions, steps, 1 + classes, generator=generator, dtype=torch.float64)
    region_targets = make_targets(
        random_boxes(regions, count, generator=generator),
        torch.randint(1, classes + 1, (regions, count), generator=generator),
        torch.rand(regions, count, generator=generator) < torch.rand(regions, 1, generator=generator),
    )
    return boxes, boxes / 10, logits, region_targets
