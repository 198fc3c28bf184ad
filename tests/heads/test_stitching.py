"""Merging boxes of regions: by hand, against NMS, naive loops and all matchings, by property."""

from functools import partial
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, nms

from detection.config.serialization import from_plain
from detection.errors import UserError
from detection.heads.stitching import NMS, Postprocess, SetNMS, Stitch

MERGES = [
    NMS(),
    SetNMS(),
    Stitch(),
    Stitch(center_offset=0.5, replace_iou=0.7, passes=(0.8, 0.4, 0.05)),
    Stitch(overlap="authors"),
]


def boxes_of(rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


@st.composite
def crowds(draw, least=0, most=14, labels=2, regions=4):
    """Integer boxes that overlap often, different scores, labels, regions."""
    count = draw(st.integers(least, most))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    corner = torch.randint(0, 12, (count, 2), generator=generator).float()
    boxes = torch.cat([corner, corner + torch.randint(1, 14, (count, 2), generator=generator)], 1)
    scores = torch.randperm(count, generator=generator).float().add(1) / (count + 1)
    label = torch.randint(1, labels + 1, (count,), generator=generator)
    return boxes, scores, label, torch.randint(0, regions, (count,), generator=generator)


def naive_set_nms(boxes, scores, labels, regions, iou):
    over = box_iou(boxes, boxes).double() > iou
    kept = []
    for j in scores.argsort(descending=True, stable=True).tolist():
        if not any(over[i, j] and labels[i] == labels[j] and regions[i] != regions[j] for i in kept):
            kept.append(j)
    return kept


def centers_near(boxes, part):
    centers, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return ((centers[:, None] - centers).abs() <= part * sides).all(-1)


def near_to_the_authors(boxes):
    near = torch.zeros(len(boxes), len(boxes), dtype=torch.bool)
    for i, (left, top, right, bottom) in enumerate(boxes.tolist()):
        for j, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            apart_x, apart_y = abs((left + right - x1 - x2) / 2), abs((top + bottom - y1 - y2) / 2)
            widths, heights = right - left + x2 - x1, bottom - top + y2 - y1
            near[i, j] = apart_x <= widths / 1.5 and apart_y <= heights / 2
    return near


def naive_stitch(boxes, scores, labels, regions, over):
    """All matchings of every region tried, the most overlaps and then the least distance between these."""
    kept = []
    order = scores.argsort(descending=True).tolist()
    for label in set(labels.tolist()):
        accepted, done = [], []
        for first in [i for i in order if labels[i] == label]:
            region = regions[first].item()
            if region in done:
                continue
            done.append(region)
            new = [i for i in order if labels[i] == label and regions[i] == region]
            best = min(
                permutations(accepted + [None] * len(new), len(new)),
                key=lambda chosen, new=new: (
                    -sum(a is not None and bool(over[i, a]) for i, a in zip(new, chosen, strict=True)),
                    sum(
                        (boxes[i] - boxes[a]).abs().sum().item()
                        for i, a in zip(new, chosen, strict=True)
                        if a is not None and over[i, a]
                    ),
                ),
            )
            accepted += [i for i, a in zip(new, best, strict=True) if a is None or not over[i, a]]
        kept += accepted
    return sorted(kept, key=order.index)


@settings(max_examples=150, deadline=None)
@given(crowd=crowds(most=30), iou=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1 / 3]))
def test_one_box_a_region_is_nms(crowd, iou):
    boxes, scores, labels, _ = crowd
    own = torch.arange(len(boxes))
    for merge in (Stitch(iou=iou), SetNMS(iou)):
        assert torch.equal(merge(boxes, scores, torch.ones_like(labels), own), nms(boxes, scores, iou))
        expected = [
            one[nms(boxes[one], scores[one], iou)] for one in ((labels == k).nonzero().flatten() for k in (1, 2))
        ]
        assert set(merge(boxes, scores, labels, own).tolist()) == set(torch.cat(expected).tolist())


@settings(max_examples=150, deadline=None)
@given(crowd=crowds(most=30), iou=st.sampled_from([0.0, 0.3, 0.5, 0.7]))
def test_set_nms_is_the_greedy_loop(crowd, iou):
    assert SetNMS(iou)(*crowd).tolist() == naive_set_nms(*crowd, iou)


@settings(max_examples=100, deadline=None)
@given(crowd=crowds(least=5, most=8, labels=1, regions=3), part=st.sampled_from([0.05, 0.1, 0.3, 0.5]))
def test_stitch_is_the_best_matching_region_by_region(crowd, part):
    boxes, *seen = crowd
    boxes = boxes + torch.rand(boxes.shape, generator=torch.Generator().manual_seed(len(boxes))) / 8  # no ties
    overlapping = box_iou(boxes, boxes).double() > part
    assert Stitch(iou=part)(boxes, *seen).tolist() == naive_stitch(boxes, *seen, overlapping)
    near = centers_near(boxes, part)
    assert Stitch(iou=None, center_offset=part)(boxes, *seen).tolist() == naive_stitch(boxes, *seen, near)
    found = Stitch(overlap="authors")(boxes, *seen).tolist()
    assert found == naive_stitch(boxes, *seen, near_to_the_authors(boxes))


@pytest.mark.parametrize("merge", MERGES, ids=repr)
@settings(max_examples=25, deadline=None)
@given(crowd=crowds())
def test_every_merge_sorts_and_sees_each_label_alone(merge, crowd):
    boxes, scores, labels, regions = crowd
    kept = merge(*crowd)
    assert kept.dtype == torch.int64 and torch.equal(kept, kept[scores[kept].argsort(descending=True)])
    for label in labels.unique():
        own = (labels == label).nonzero().flatten()
        assert set(own[merge(*(t[own] for t in crowd))].tolist()) == set(kept[labels[kept] == label].tolist())
    order = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(0))
    assert torch.equal(order[merge(*(t[order] for t in crowd))], kept)


@settings(max_examples=50, deadline=None)
@given(crowd=crowds())
def test_one_region_keeps_all(crowd):
    boxes, scores, labels, regions = crowd
    for merge in (SetNMS(), Stitch(), Stitch(passes=(0.5, 0.0)), Stitch(iou=None, center_offset=9.0, replace_iou=0.0)):
        assert len(merge(boxes, scores, labels, torch.zeros_like(regions))) == len(boxes)


# Two people one behind the other, both seen by each of two regions.
COUPLE = boxes_of([[0, 0, 10, 20], [2, 0, 12, 20], [0.2, 0, 10.2, 20], [2.2, 0, 12.2, 20]])
SEEN = (torch.tensor([0.9, 0.6, 0.8, 0.7]), torch.ones(4, dtype=torch.int64), torch.tensor([0, 0, 1, 1]))


def test_nms_deletes_a_neighbor_and_stitching_keeps_it():
    assert NMS(0.5)(COUPLE, *SEEN).tolist() == [0]
    assert SetNMS(0.5)(COUPLE, *SEEN).tolist() == [0, 1]
    assert Stitch(0.5)(COUPLE, *SEEN).tolist() == [0, 1]


def test_an_accepted_box_drops_one_of_a_region_and_set_nms_all():
    boxes, *seen = COUPLE[[0, 2, 3]], *(t[[0, 2, 3]] for t in SEEN)
    # Both of the second region overlap the only accepted one; the nearer is the same person.
    assert SetNMS(0.5)(boxes, *seen).tolist() == [0]
    assert Stitch(0.5)(boxes, *seen).tolist() == [0, 2]


def test_the_partner_is_the_nearest():
    boxes = boxes_of([[0, 0, 10, 20], [1, 0, 11, 20], [0.5, 0, 10.5, 20]])
    found = Stitch(0.5)(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.ones(3), torch.tensor([0, 1, 1]))
    assert found.tolist() == [0, 1]


def test_overlap_comes_before_distance():
    # The nearest partner of box 2 is taken from it, so that box 3, which overlaps only that one, has one too.
    boxes = boxes_of([[0, 0, 20, 10], [8, 0, 28, 10], [4.5, 0, 24.5, 10], [13, 0, 33, 10]])
    seen = (torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.ones(4), torch.tensor([0, 0, 1, 1]))
    assert Stitch(0.5)(boxes, *seen).tolist() == [0, 1]


def test_centers_are_compared_by_the_accepted_box():
    boxes = boxes_of([[0, 0, 10, 40], [5, 20, 95, 60], [16, 0, 26, 40]])
    seen = (torch.tensor([0.9, 0.8, 0.7]), torch.ones(3), torch.arange(3))
    # Centers (5, 20), (50, 40), (21, 20): the last is within half the second's size, 90 × 40, and not the first's.
    assert Stitch(iou=None, center_offset=0.5)(boxes, *seen).tolist() == [0, 1]
    assert Stitch(iou=None, center_offset=0.3)(boxes, *seen).tolist() == [0, 1, 2]
    boxes = boxes_of([[0, 0, 10, 40], [5, 20, 15, 60], [6, 0, 16, 40]])  # just half the first's size, and more
    assert Stitch(iou=None, center_offset=0.5)(boxes, *seen).tolist() == [0, 2]


def test_to_the_authors_boxes_overlap_that_do_not_touch_sideways():
    seen = (torch.tensor([0.9, 0.8]), torch.ones(2), torch.arange(2))
    # Widths 9 and 12: they touch at centers 10.5 apart, and overlap up to 14; heights 10 and 20 up to 15.
    for right, down, kept in ((14, 15, [0]), (14.1, 15, [0, 1]), (14, 15.1, [0, 1]), (-14, -15, [0]), (0, 16, [0, 1])):
        boxes = boxes_of([[-4.5, -5, 4.5, 5], [right - 6, down - 10, right + 6, down + 10]])
        for order in ([0, 1], [1, 0]):
            assert Stitch(overlap="authors")(boxes[order], *seen).tolist() == kept


def test_without_a_rule_boxes_overlap_over_an_iou_of_half():
    boxes = boxes_of([[0, 0, 10, 10], [0, 0, 10, 20.5], [0, 0, 10, 19.5]])
    seen = (torch.tensor([0.9, 0.8, 0.7]), torch.ones(3), torch.tensor([0, 1, 1]))
    assert Stitch()(boxes, *seen).tolist() == Stitch(0.5)(boxes, *seen).tolist() == [0, 1]


def test_a_more_confident_box_takes_the_place():
    # Region 0 comes first for its other box; its 0.3 is the same thing as region 1's 0.8.
    boxes = boxes_of([[50, 0, 60, 20], [0, 0, 10, 20], [0.5, 0, 10.5, 20]])
    seen = (torch.tensor([0.9, 0.3, 0.8]), torch.ones(3), torch.tensor([0, 0, 1]))
    assert Stitch(0.5)(boxes, *seen).tolist() == [0, 1]
    assert Stitch(0.5, replace_iou=0.7)(boxes, *seen).tolist() == [0, 2]
    assert Stitch(0.5, replace_iou=0.95)(boxes, *seen).tolist() == [0, 1]
    less = (torch.tensor([0.9, 0.8, 0.3]), *seen[1:])
    assert Stitch(0.5, replace_iou=0.7)(boxes, *less).tolist() == [0, 1]


def test_at_the_thresholds_themselves_nothing_overlaps_or_takes_a_place():
    boxes = boxes_of([[50, 0, 60, 20], [0, 0, 10, 20], [0, 0, 10, 10]])  # the last two have an IoU of exactly 1/2
    seen = (torch.tensor([0.9, 0.3, 0.8]), torch.ones(3), torch.tensor([0, 0, 1]))
    assert Stitch(0.3, replace_iou=0.49)(boxes, *seen).tolist() == [0, 2]
    assert Stitch(0.3, replace_iou=0.5)(boxes, *seen).tolist() == [0, 1]
    assert Stitch(0.5, replace_iou=0.5)(boxes, *seen).tolist() == SetNMS(0.5)(boxes, *seen).tolist() == [0, 2, 1]


def test_an_equally_confident_box_does_not_take_the_place():
    boxes = boxes_of([[0, 0, 10, 20], [0.5, 0, 10.5, 20]])  # an IoU of 0.9
    for regions in ([0, 1], [1, 0]):
        found = Stitch(0.5, replace_iou=0.7)(boxes, torch.tensor([0.8, 0.8]), torch.ones(2), torch.tensor(regions))
        assert found.tolist() == [0]


def test_passes():
    boxes = boxes_of([[50, 0, 60, 20], [0, 0, 10, 20], [0.5, 0, 10.5, 20], [90, 0, 99, 9]])
    seen = (torch.tensor([0.9, 0.3, 0.8, 0.05]), torch.ones(4), torch.tensor([0, 0, 1, 2]))
    # The 0.8 is accepted before the 0.3 of the region that comes first; what is not above the last pass is dropped.
    assert Stitch(0.5, passes=(0.5, 0.05))(boxes, *seen).tolist() == [0, 2]
    assert Stitch(0.5, passes=(0.05,))(boxes, *seen).tolist() == [0, 1]


def test_over_all_passes_an_accepted_box_drops_one_of_a_region():
    boxes = boxes_of([[0, 0, 10, 20], [0.2, 0, 10.2, 20], [2, 0, 12, 20]])
    seen = (torch.tensor([0.9, 0.8, 0.3]), torch.ones(3), torch.tensor([0, 1, 1]))
    assert Stitch(0.5, passes=(0.5, 0.1))(boxes, *seen).tolist() == [0, 2]


def test_boxes_without_an_area_and_half_precision():
    boxes = boxes_of([[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 9, 9]]).bfloat16()
    scores = torch.tensor([0.5, 0.5, 0.5], dtype=torch.bfloat16)
    for merge in (SetNMS(), Stitch()):
        assert merge(boxes, scores, torch.ones(3), torch.arange(3)).tolist() == [0, 1, 2]
    boxes = boxes_of([[0, 0, 100, 100], [0, 0, 100, 198]]).bfloat16()  # an IoU of 0.50505, 0.504 in half precision
    for merge in (SetNMS(0.505), Stitch(0.505)):
        assert merge(boxes, scores[:2], torch.ones(2), torch.arange(2)).tolist() == [0]


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        (NMS, "iou", 1.5),
        (SetNMS, "iou", -0.1),
        (Stitch, "iou", 2.0),
        (Stitch, "replace_iou", 7.0),
        (Stitch, "center_offset", 0.0),
    ],
)
def test_settings_out_of_range_are_refused(part, key, value):
    with pytest.raises(UserError, match=f"head.postprocess.{key}={value}: must be (at least|above) 0"):
        from_plain(partial(part, **{key: value}), partial[Postprocess], "head.postprocess")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Stitch(iou=0.5, center_offset=0.5),
        lambda: Stitch(iou=0.5, overlap="authors"),
        lambda: Stitch(center_offset=0.5, overlap="authors"),
        lambda: Stitch(passes=()),
        lambda: Stitch(passes=(0.1, 0.5)),
    ],
)
def test_bad_settings(make):
    with pytest.raises(UserError, match=r"Stitch\(.*=.*\): "):
        make()
