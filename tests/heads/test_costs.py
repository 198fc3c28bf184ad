"""Matching costs by hand, against sorted keys, and in float64."""

from functools import partial
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou, generalized_box_iou

from detection.config.serialization import from_plain
from detection.errors import UserError
from detection.heads.costs import Lexicographic, ReInspectCost, SetCost
from detection.heads.hungarian import match
from detection.ops.box_iou import iou_matrix, pairwise_iou
from tests.heads.matching_cases import COSTS, make_targets, random_boxes, random_case


def test_lexicographic_by_hand():
    # Step 0 is 6 px right of the ground truth, more than half its width of 10; step 1 is 5 px down, just half its
    # height.
    boxes = torch.tensor([[[6.0, 0, 16, 10], [0, 5, 10, 15]]])
    region_targets = make_targets([[[0, 0, 10, 10]]])
    found = Lexicographic().cost(boxes, boxes / 10, torch.zeros(1, 2, 2), region_targets)
    # T² = 4 for a step off, its rank, and distances 1.2 and 1 over twice 2 · 1.2.
    torch.testing.assert_close(found[0, :, 0], torch.tensor([4 + 0.25, 1 + 1 / 4.8], dtype=torch.float64))
    # IoUs 40 / 160 and 50 / 150: the first is not below 0.25.
    found = Lexicographic(center_offset=None, iou=0.25).cost(boxes, boxes / 10, torch.zeros(1, 2, 2), region_targets)
    torch.testing.assert_close(found[0, :, 0], torch.tensor([0.25, 1 + 1 / 4.8], dtype=torch.float64))


def test_offset_is_measured_by_the_truth_and_each_side_by_its_own():
    region_targets = make_targets([[[0, 0, 40, 4]]])
    # Centers 18 px right, 2.5 and 1.5 px down, of boxes 4 × 40.
    boxes = torch.tensor([[[36.0, -18, 40, 22], [18, -15.5, 22, 24.5], [18, -16.5, 22, 23.5]]])
    off = Lexicographic().cost(boxes, boxes, torch.zeros(1, 3, 2), region_targets)[0, :, 0] >= 9
    assert off.tolist() == [False, True, False]


def lexicographic_key(cost, distance, off, chosen):
    pairs = list(enumerate(chosen))
    return (sum(off[s][n] for n, s in pairs), sum(s for _, s in pairs), round(sum(distance[s][n] for n, s in pairs), 3))


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**31), magnitude=st.sampled_from([1.0, 1e6]), count=st.integers(1, 4))
def test_sums_are_compared_lexicographically(seed, magnitude, count):
    generator, steps = torch.Generator().manual_seed(seed), 4
    boxes = random_boxes(1, steps, generator=generator)
    region_targets = make_targets(random_boxes(1, count, generator=generator))
    # Codes that have nothing to do with the boxes: distances are huge exactly where they must not decide.
    codes = magnitude * torch.randn(1, steps, 4, generator=generator, dtype=torch.float64)
    cost = Lexicographic()
    matched = match(cost.cost(boxes, codes, torch.zeros(1, steps, 2), region_targets), region_targets)[0].tolist()
    distance = [[(c - t).abs().sum().item() for t in region_targets.codes[0]] for c in codes[0]]
    off = [[bool(o) for o in row] for row in cost._off(boxes, region_targets.boxes)[0]]
    found = lexicographic_key(cost, distance, off, [matched.index(n) for n in range(count)])
    assert found == min(lexicographic_key(cost, distance, off, p) for p in permutations(range(steps), count))


def test_distances_of_a_million_do_not_outweigh_a_rank():
    # Steps 1 and 2 are exact, steps 0 and 1 come first; the authors' L1 / 2000 would prefer the exact ones.
    region_targets = make_targets([[[0, 0, 10, 10], [0, 0, 10, 10]]])
    codes = region_targets.codes[:, [0, 0, 0]].clone()
    codes[0, 0] += 1e6
    cost = Lexicographic().cost(region_targets.boxes[:, [0, 0, 0]], codes, torch.zeros(1, 3, 2), region_targets)
    assert match(cost, region_targets)[0, 2] == -1


def test_reinspect_s_sum_is_the_naive_one():
    boxes, codes, logits, region_targets = random_case(3)
    found = ReInspectCost().cost(boxes, codes, logits, region_targets)
    for r, t, n in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        ours, theirs = boxes[r, t], region_targets.boxes[r, n]
        width, height = (theirs[2:] - theirs[:2]).tolist()
        apart_x, apart_y = ((ours[:2] + ours[2:] - theirs[:2] - theirs[2:]) / 2).abs().tolist()
        off = apart_x > 0.5 * width or apart_y > 0.5 * height
        distance = sum(
            abs(a - b) for a, b in zip(codes[r, t].tolist(), region_targets.codes[r, n].tolist(), strict=True)
        )
        assert found[r, t, n].item() == pytest.approx(100 * off + t + distance / 2000, rel=1e-12)
    own = ReInspectCost(off_weight=7, rank_weight=3, distance_weight=0.0).cost(boxes, codes, logits, region_targets)
    assert set(own.flatten().tolist()) <= {7.0 * off + 3 * t for off in (0, 1) for t in range(4)}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_reinspect_s_sum_ranks_lexicographically_while_distances_are_short(seed):
    boxes, codes, logits, region_targets = random_case(seed)
    costs = [cost.cost(boxes, codes, logits, region_targets) for cost in (Lexicographic(), ReInspectCost())]
    # Sums, as distances along a line are often the same both ways round.
    sums = []
    for cost in costs:
        matched = match(cost, region_targets)
        own = costs[0].gather(2, matched.clamp(min=0)[..., None])[..., 0]
        sums.append(own.where(matched >= 0, 0).sum(1))
    torch.testing.assert_close(sums[1], sums[0])


def test_reinspect_s_sum_prefers_an_exact_box_to_an_early_one_that_is_2000_pixels_away():
    region_targets = make_targets([[[0, 0, 10, 10]]])
    codes = region_targets.codes[:, [0, 0]].clone()
    for further, expected in ((1999.0, [0, -1]), (2001.0, [-1, 0])):
        codes[0, 0] = region_targets.codes[0, 0] + torch.tensor([further, 0, 0, 0])
        cost = ReInspectCost().cost(region_targets.boxes[:, [0, 0]], codes, torch.zeros(1, 2, 2), region_targets)
        assert match(cost, region_targets)[0].tolist() == expected


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_ious_are_those_of_torchvision(seed):
    generator = torch.Generator().manual_seed(seed)
    boxes, others = random_boxes(3, 4, generator=generator), random_boxes(3, 5, generator=generator)
    for iou in (pairwise_iou(boxes.float(), others.float())[0], iou_matrix(boxes.float(), others.float())):
        assert torch.equal(iou, box_iou(boxes.float(), others.float()))
    found = SetCost(l1=0, giou=1, label=0).cost(boxes, boxes, torch.zeros(3, 4, 2), make_targets(others))
    torch.testing.assert_close(-found, generalized_box_iou(boxes, others))


def test_set_cost_by_hand():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [10, 0, 20, 10]]])
    region_targets = make_targets([[[0, 0, 10, 10], [0, 0, 0, 0]]], [[2, -5]], torch.tensor([[True, False]]))
    logits = torch.tensor([[[0.0, 0, 0], [0, 0, 1.0]]])
    found = SetCost(l1=5, giou=2, label=3).cost(boxes, boxes / 10, logits, region_targets)[0, :, 0]
    # Side by side: L1 2, IoU 0, and the hull is full, so GIoU 0.
    probability = logits.softmax(-1)[0, :, 2].tolist()
    expected = [-2 * 1 - 3 * probability[0], 5 * 2 - 3 * probability[1]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_costs_are_float64_without_gradient_also_under_autocast(cost):
    boxes, codes, logits, region_targets = random_case(1)
    expected = cost.cost(boxes, codes, logits, region_targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = cost.cost(boxes.requires_grad_(), codes.requires_grad_(), logits, region_targets)
        assert torch.equal(match(found, region_targets), match(expected, region_targets))
    assert found.dtype == torch.float64 and not found.requires_grad and torch.equal(found, expected)
    naive = (codes[:, :, None] - region_targets.codes[:, None]).abs().sum(-1)
    distance = SetCost(l1=1, giou=0, label=0).cost(boxes, codes, logits, region_targets)
    torch.testing.assert_close(distance, naive.detach(), rtol=1e-14, atol=0)
    halves = [t.detach().bfloat16() for t in (boxes, codes, logits)]
    assert torch.equal(cost.cost(*halves, region_targets), cost.cost(*(t.double() for t in halves), region_targets))


@pytest.mark.parametrize("keys", [{"center_offset": None}, {"iou": 0.25}])
def test_needs_one_rule_for_steps_that_are_off(keys):
    for cost in (Lexicographic, ReInspectCost):
        with pytest.raises(UserError, match=f"{cost.__name__}.*needs exactly one"):
            cost(**keys)


@pytest.mark.parametrize(("key", "value"), [("center_offset", 0.0), ("iou", 1.5)])
def test_bad_settings(key, value):
    with pytest.raises(UserError, match=f"head.cost.{key}={value}: must be above 0"):
        from_plain(partial(Lexicographic, **{key: value}), partial[Lexicographic], "head.cost")
