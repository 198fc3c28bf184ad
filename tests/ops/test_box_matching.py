"""Matching by chunks is torchvision's to the bit; negatives in crowd regions are left out."""

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from detection.ops import box_matching
from detection.ops.box_matching import crowded, match_boxes


def boxes_like(count, seed):
    """Boxes on a coarse grid, so that many IoUs are equal."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 12, (count, 2), generator=generator) * 8.0
    return torch.cat([corners, corners + torch.randint(1, 5, (count, 2), generator=generator) * 8.0], dim=1)


@pytest.mark.parametrize("pairs", [1, 40, 700, 10**6])
@pytest.mark.parametrize("low_quality", [False, True])
def test_chunks_change_nothing(monkeypatch, pairs, low_quality):
    monkeypatch.setattr(box_matching, "MAX_PAIRS", pairs)
    matcher, largest = Matcher(0.7, 0.3, low_quality), []
    monkeypatch.setattr(box_matching, "box_iou", lambda a, b: largest.append(len(a) * len(b)) or box_iou(a, b))
    for seed in range(5):
        ground_truth, boxes = boxes_like(20, seed), boxes_like(300, seed + 100)
        found = match_boxes(matcher, boxes, {"boxes": ground_truth}, 0.7)
        assert torch.equal(found, matcher(box_iou(ground_truth, boxes)))
    assert max(largest) <= max(pairs, 20)


def test_a_share_of_the_boxs_own_area_makes_it_crowded(monkeypatch):
    ignored = torch.tensor([[0.0, 0, 70, 100], [200, 0, 270, 100]])
    boxes = [[0.0, 0, 100, 100], [1, 0, 101, 100], [10, 10, 20, 20], [180, 0, 260, 10], [300, 0, 301, 1], [5, 5, 5, 9]]
    for pairs in (1, 10**6):
        monkeypatch.setattr(box_matching, "MAX_PAIRS", pairs)
        assert crowded(torch.tensor(boxes), ignored, 0.7).tolist() == [True, False, True, True, False, False]
    assert crowded(torch.tensor(boxes), ignored[:0], 0.7).tolist() == [False] * 6


def test_only_negatives_are_left_out():
    target = {"boxes": torch.tensor([[10.0, 10, 30, 30]]), "ignored": torch.tensor([[0.0, 0, 50, 50]])}
    boxes = torch.tensor([[10.0, 10, 30, 30], [10, 10, 30, 20], [30, 30, 50, 50], [60, 60, 80, 80]])
    matcher = Matcher(0.7, 0.3, False)
    assert match_boxes(matcher, boxes, target, 0.7).tolist() == [0, -2, -2, -1]
    assert match_boxes(matcher, boxes, target, None).tolist() == [0, -2, -1, -1]
    empty = {**target, "boxes": target["boxes"][:0]}
    assert match_boxes(matcher, boxes, empty, 0.7).tolist() == [-2, -2, -2, -1]
