"""Matching of all images at once is torchvision's of each to the bit; negatives in crowd regions are left out."""

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from detection.ops import box_matching
from detection.ops.box_matching import best_matches, crowded, groups_of_similar, ignored_regions, match_boxes
from detection.ops.ragged import Ragged

COUNTS = [(20, 20, 20), (7,), (0, 30, 2, 1), (0, 0), (90, 3, 0, 4, 85)]


def boxes_like(count, seed):
    """Boxes on a coarse grid, so that many IoUs are equal."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 12, (count, 2), generator=generator) * 8.0
    return torch.cat([corners, corners + torch.randint(1, 5, (count, 2), generator=generator) * 8.0], dim=1)


def by_torchvision(matcher, boxes, ground_truth):
    """States and the best ground truth of each box of one image."""
    if not len(ground_truth):
        return torch.zeros(len(boxes)), torch.zeros(len(boxes))
    matched, iou = matcher(box_iou(ground_truth, boxes)), box_iou(ground_truth, boxes)
    return torch.where(matched >= 0, 1, torch.where(matched == -1, 0, -1)), iou.max(0).indices


@pytest.mark.parametrize("pairs", [1, 40, 700, 10**6])
@pytest.mark.parametrize("padding", [0, 300, 10**6])
@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("counts", COUNTS)
def test_states_are_torchvisions(monkeypatch, pairs, padding, low_quality, counts):
    monkeypatch.setattr(box_matching, "CPU_PAIRS", pairs)
    monkeypatch.setattr(box_matching, "CPU_PADDING", padding)
    for seed, (high, low) in enumerate([(0.7, 0.3), (0.5, 0.5), (0.5, 0.0)]):
        matcher = Matcher(high, low, low_quality)
        ground_truth = [boxes_like(count, 10 * seed + i) for i, count in enumerate(counts)]
        for shared in (True, False):
            boxes = torch.stack([boxes_like(60, seed + 100 + i) for i in range(1 if shared else len(counts))])
            found = match_boxes(matcher, boxes, Ragged.of(ground_truth), None, 0.7)
            best = best_matches(boxes.expand(len(counts), -1, -1), Ragged.of(ground_truth))
            for i, own in enumerate(ground_truth):
                states, indices = by_torchvision(matcher, boxes[0 if shared else i], own)
                assert torch.equal(found[i], states.to(found.dtype)) and torch.equal(best[i], indices.long())


def test_pairs_at_once_are_bounded(monkeypatch):
    """An image of many boxes is matched by chunks of anchors, and does not pad the others."""
    largest, iou_matrix = [], box_matching.iou_matrix

    def watched(boxes, others):
        largest.append(max(len(boxes), len(others)) * boxes.shape[1] * others.shape[1])
        return iou_matrix(boxes, others)

    monkeypatch.setattr(box_matching, "iou_matrix", watched)
    monkeypatch.setattr(box_matching, "CPU_PAIRS", 20_000)
    monkeypatch.setattr(box_matching, "CPU_PADDING", 1000)
    match_boxes(
        Matcher(0.7, 0.3, True),
        boxes_like(500, 0)[None],
        Ragged.of([boxes_like(n, n) for n in (800, 2, 3)]),
        None,
        None,
    )
    assert max(largest) <= 20_000 and sum(largest) <= 2.1 * 500 * 810


def test_images_of_similar_numbers_are_a_group(monkeypatch):
    monkeypatch.setattr(box_matching, "CPU_PADDING", 100)
    cpu = torch.device("cpu")
    assert list(groups_of_similar((3, 9, 4, 8, 0), 10, cpu)) == [[0, 1, 2, 3, 4]]
    assert list(groups_of_similar((3, 14, 4, 8, 0, 33), 10, cpu)) == [[5], [1, 3, 2], [0, 4]]


def test_a_share_of_the_boxs_own_area_makes_it_crowded(monkeypatch):
    ignored = torch.tensor([[0.0, 0, 70, 100], [200, 0, 270, 100]])
    rows = [[0.0, 0, 100, 100], [1, 0, 101, 100], [10, 10, 20, 20], [180, 0, 260, 10], [300, 0, 301, 1], [5, 5, 5, 9]]
    boxes = torch.tensor([rows])
    for pairs in (1, 10**6):
        monkeypatch.setattr(box_matching, "CPU_PAIRS", pairs)
        found = crowded(boxes, Ragged.of([ignored, ignored[:0], ignored[1:]]), 0.7).tolist()
        assert found == [
            [True, False, True, True, False, False],
            [False] * 6,
            [False, False, False, True, False, False],
        ]


def test_only_negatives_are_left_out():
    target = {"boxes": torch.tensor([[10.0, 10, 30, 30]]), "ignored": torch.tensor([[0.0, 0, 50, 50]])}
    boxes = torch.tensor([[[10.0, 10, 30, 30], [10, 10, 30, 20], [30, 30, 50, 50], [60, 60, 80, 80]]])
    ground_truth, ignored = Ragged.of([target["boxes"]] * 2), ignored_regions([target, {}], boxes)
    matcher = Matcher(0.7, 0.3, False)
    assert match_boxes(matcher, boxes, ground_truth, ignored, 0.7).tolist() == [[1, -1, -1, 0], [1, -1, 0, 0]]
    assert match_boxes(matcher, boxes, ground_truth, ignored, None).tolist() == [[1, -1, 0, 0]] * 2
    none = Ragged.of([target["boxes"][:0]] * 2)
    assert match_boxes(matcher, boxes, none, ignored, 0.7).tolist() == [[-1, -1, -1, 0], [0] * 4]
    assert ignored_regions([{}, {}], boxes) is None and ignored_regions([{"ignored": boxes[0, :0]}], boxes) is None
