"""Boxes matched to ground truth as torchvision's `Matcher` does, in bounded memory and with regions to ignore.

N boxes and M ground-truth boxes of one image, I regions to ignore; all xyxy in pixels.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_area, box_iou

MAX_PAIRS = 2**24
"""Pairs of boxes whose overlaps are computed at once, about 40 bytes each."""


def chunks_of(boxes: Tensor, others: int) -> tuple[Tensor, ...]:
    """Split rows of boxes (N, …) so that each chunk has at most `MAX_PAIRS` pairs with this number of others."""
    return boxes.split(max(1, MAX_PAIRS // max(others, 1)))


def crowded(boxes: Tensor, ignored: Tensor, share: float) -> Tensor:
    """Return booleans (N,): at least this share of the box (N, 4) is inside of one of the regions (I, 4)."""
    return torch.cat([_shares(own, ignored).ge(share).any(1) for own in chunks_of(boxes, len(ignored))])


def _shares(boxes: Tensor, ignored: Tensor) -> Tensor:
    """Return the share (N, I) of each box that is inside of each region; NaN for a box without area."""
    left_top = torch.maximum(boxes[:, None, :2], ignored[:, :2])
    sides = (torch.minimum(boxes[:, None, 2:], ignored[:, 2:]) - left_top).clamp(min=0)  # (N, I, 2)
    return sides.prod(-1) / box_area(boxes)[:, None]


def left_out(boxes: Tensor, target: Mapping[str, Tensor], share: float | None) -> Tensor:
    """Return booleans (N,): the box is no negative, because a region in `target["ignored"]` has this share of it."""
    if share is None or "ignored" not in target:
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    return crowded(boxes, target["ignored"], share)


def match_boxes(matcher: Matcher, boxes: Tensor, target: Mapping[str, Tensor], ignore_crowd: float | None) -> Tensor:
    """Match boxes (N, 4) to the ground truth of their image.

    Args:
        matcher: its thresholds, and whether each ground truth has a match whatever their IoU.
        boxes: (N, 4), anchors or proposals.
        target: `boxes` (M, 4), and `ignored` (I, 4) where there are regions to ignore.
        ignore_crowd: share of a negative's area in such a region from which on it is ignored; None: never.

    Returns:
        Indices (N,) of ground-truth boxes, −1 for a negative, −2 for what is neither.
    """
    ground_truth = target["boxes"]
    if len(ground_truth) and len(boxes):
        matched = torch.cat(list(_matches(matcher, ground_truth, chunks_of(boxes, len(ground_truth)))))
    else:
        matched = torch.full(boxes.shape[:1], matcher.BELOW_LOW_THRESHOLD, device=boxes.device)
    negative = matched == matcher.BELOW_LOW_THRESHOLD
    return matched.masked_fill(negative & left_out(boxes, target, ignore_crowd), matcher.BETWEEN_THRESHOLDS)


def _matches(matcher: Matcher, ground_truth: Tensor, chunks: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """Return what the matcher gives for each chunk of boxes, as if it had seen all of them."""
    if len(chunks) == 1:
        yield matcher(box_iou(ground_truth, chunks[0]))
        return
    # One more column has the best IoU of each ground truth with any box: only boxes that reach it are its best.
    best = torch.stack([box_iou(ground_truth, own).amax(1) for own in chunks]).amax(0)[:, None]
    for own in chunks:
        yield matcher(torch.cat([box_iou(ground_truth, own), best], dim=1))[:-1]
