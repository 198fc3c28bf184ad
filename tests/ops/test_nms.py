"""NMS of all images, levels and classes at once is torchvision's, image by image, to the bit; in parallel, too."""

import pytest
import torch
from torchvision.ops import batched_nms

from detection.ops import nms as our_nms
from detection.ops.nms import (
    keep_in_parallel,
    select_by_class,
    select_by_nms,
    select_classes_in_parallel,
    select_in_parallel,
)
from detection.ops.ragged import Ragged


def drawn(images, levels, seed, crowded=False):
    """Boxes level by level, some equal and some with equal scores, a tenth to leave out."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(levels)
    corners = torch.rand(images, count, 2, generator=generator) * (30 if crowded else 300)
    boxes = torch.cat([corners, corners + 5 + 40 * torch.rand(images, count, 2, generator=generator)], 2)
    boxes[:, 1::7] = boxes[:, :1]
    scores = torch.rand(images, count, generator=generator).mul(50).round().div(50)
    return boxes, scores, torch.rand(images, count, generator=generator) > 0.1


def by_torchvision(boxes, scores, valid, levels, iou, most):
    group = torch.repeat_interleave(torch.arange(len(levels)), torch.tensor(levels))
    found = []
    for i, (box, score, ok) in enumerate(zip(boxes, scores, valid, strict=True)):
        rows = torch.where(ok)[0]
        found.append(rows[batched_nms(box[rows], score[rows], group[rows], iou)][:most] + i * len(score))
    return found


@pytest.mark.parametrize("levels", [(40,), (30, 7, 1), (700, 500, 300), (1500,)])
@pytest.mark.parametrize("crowded", [False, True])
def test_what_is_kept_is_torchvisions(levels, crowded):
    for seed, (iou, most) in enumerate([(0.7, 100), (0.3, 10**6), (0.5, 1)]):
        boxes, scores, valid = drawn(3, levels, seed, crowded)
        valid[2] = False if seed == 1 else valid[2]
        kept, counts = select_by_nms(boxes, scores, valid, levels, iou, most)
        expected = by_torchvision(boxes, scores, valid, levels, iou, most)
        assert counts == [len(rows) for rows in expected]
        assert kept.tolist() == torch.cat(expected).tolist()


@pytest.mark.parametrize("levels", [(40,), (30, 7, 1), (200, 90, 1)])
@pytest.mark.parametrize("crowded", [False, True])
def test_in_parallel_the_same_boxes_are_kept(levels, crowded, monkeypatch):
    monkeypatch.setattr(our_nms, "MAX_PAIRS", 2**17)
    for seed, (iou, most) in enumerate([(0.7, 100), (0.3, 10**6), (0.5, 1)]):
        boxes, scores, valid = drawn(3, levels, seed, crowded)
        valid[2] = False if seed == 1 else valid[2]
        # Whole pixels, so that torchvision's moving of levels apart rounds nothing.
        boxes, expected = boxes.round(), by_torchvision(boxes.round(), scores, valid, levels, iou, most)
        kept, counts = select_in_parallel(boxes, scores.masked_fill(~valid, -1), levels, iou, most)
        assert counts == [len(rows) for rows in expected] and kept.tolist() == torch.cat(expected).tolist()


@pytest.mark.parametrize("counts", [(40, 0, 7), (300, 40), (0,), (0, 0), (1100, 3)])
def test_in_each_class_the_same_boxes_are_kept(counts):
    generator = torch.Generator().manual_seed(0)
    for seed, (iou, most) in enumerate([(0.5, 100), (0.3, 10**6), (0.7, 1)]):
        images = [(b[0].round(), s[0]) for b, s, _ in (drawn(1, (max(n, 1),), seed + n, True) for n in counts)]
        boxes, scores = ([t[:n] for t, n in zip(column, counts, strict=True)] for column in zip(*images, strict=True))
        labels = [torch.randint(1, 4, (n,), generator=generator) for n in counts]
        expected = [batched_nms(*image, iou)[:most] for image in zip(boxes, scores, labels, strict=True)]
        all_boxes = Ragged.of(boxes)
        # Of more than 1000 boxes torchvision returns equal scores in any order.
        for choose in (select_by_class, select_classes_in_parallel)[: 1 + (max(counts) <= 1000)]:
            kept, numbers = choose(all_boxes, torch.cat(labels), torch.cat(scores), iou, most)
            assert numbers == [len(rows) for rows in expected] and kept.dtype == torch.int64
            for rows, own, first in zip(kept.split(numbers), expected, all_boxes.starts, strict=True):
                assert rows.tolist() == (own + first).tolist()


def test_an_iou_that_is_the_threshold_suppresses_nothing():
    """0.7 is no float32: an IoU of the float32 next to it is above it or not, as in float64."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 7]]])
    scores, everything = torch.tensor([[0.9, 0.8]]), torch.ones(1, 2, dtype=torch.bool)
    for iou in (0.7, torch.tensor(0.7).item(), 0.69999998, 0.7000001):
        expected = len(by_torchvision(boxes, scores, everything, (2,), iou, 9)[0])
        assert keep_in_parallel(boxes, scores, (2,), iou)[1] == [expected]


def test_long_chains_take_more_rounds(monkeypatch):
    """Each box suppresses the next: every second one stays, and which is known from the top only."""
    left = torch.arange(101.0) * 4
    boxes = torch.stack([left, torch.zeros(101), left + 10, torch.full((101,), 10.0)], 1)[None]
    scores = torch.linspace(1, 0.1, 101)[None]
    for rounds in (1, 3, 16):
        monkeypatch.setattr(our_nms, "ROUNDS", rounds)
        kept, counts = keep_in_parallel(boxes, scores, (101,), 0.4)
        assert counts == [51] and torch.equal(torch.where(kept[0])[0], torch.arange(0, 101, 2))
