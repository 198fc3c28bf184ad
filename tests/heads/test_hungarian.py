"""Matching and its loss: by hand, against every permutation, by property."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import generalized_box_iou

from detection.heads.costs import Lexicographic, SetCost
from detection.heads.hungarian import by_permutations, by_scipy, loss_cost, match, set_loss
from detection.heads.region_targets import RegionTargets, keep_nearest
from tests.heads.matching_cases import COSTS, LossCost, make_targets, random_boxes, random_case


def shuffled(region_targets, generator):
    order = torch.rand(region_targets.valid.shape, generator=generator).argsort(1)
    corners = order[..., None].expand(-1, -1, 4)
    return RegionTargets(
        region_targets.boxes.gather(1, corners),
        region_targets.codes.gather(1, corners),
        region_targets.labels.gather(1, order),
        region_targets.valid.gather(1, order),
    )


def total(cost, matched):
    """What a matching of one region (T,) costs."""
    return sum(
        cost[step, ground_truth].item() for step, ground_truth in enumerate(matched.tolist()) if ground_truth >= 0
    )


def cheapest(cost, valid, steps):
    """The least cost of one region, all its ground-truth boxes to some of the given steps."""
    region_targets = valid.nonzero().flatten().tolist()
    return min(
        sum(cost[s, n].item() for s, n in zip(chosen, region_targets, strict=True))
        for chosen in permutations(steps, len(region_targets))
    )


STRATEGIES = ["hungarian", "first_k", "fixed", "emd", "by_iou"]

# Steps 0, 1, 2 and ground-truth boxes 0, 1. The cheapest of all is step 1 → 0, step 2 → 1.
BY_HAND = torch.tensor([[[4.0, 6.0], [1.0, 5.0], [9.0, 2.0]]])


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("hungarian", [-1, 0, 1]),
        ("emd", [-1, 0, 1]),
        ("first_k", [1, 0, -1]),
        ("fixed", [1, 0, -1]),
        ("by_iou", [0, 1, -1]),
    ],
)
def test_three_steps_and_two_truths(strategy, expected):
    below, above = [0, 50, 10, 60], [30, 0, 40, 10]
    regions = torch.tensor([[0.0, 40, 12, 62]])
    assert match(BY_HAND, make_targets([[below, above]]), strategy, regions).tolist() == [expected]


def test_first_k_differs_from_fixed():
    left, right = [0, 0, 10, 10], [30, 0, 40, 10]
    region_targets = make_targets([[left, right]])
    assert match(BY_HAND, region_targets, "first_k").tolist() == [[1, 0, -1]]
    assert match(BY_HAND, region_targets, "fixed").tolist() == [[0, 1, -1]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 7))
def test_by_iou_is_the_sorted_order(seed, steps):
    _, _, _, region_targets = random_case(seed, steps=steps)
    regions = random_boxes(len(region_targets.boxes), generator=torch.Generator().manual_seed(seed + 1))
    found = match(torch.zeros(len(regions), steps, steps), region_targets, "by_iou", regions.float())
    iou = [
        naive_iou(r, boxes) for r, boxes in zip(regions.float().tolist(), region_targets.boxes.tolist(), strict=True)
    ]
    for own, valid, row in zip(iou, region_targets.valid, found.tolist(), strict=True):
        order = sorted(valid.nonzero().flatten().tolist(), key=lambda n, own=own: -own[n])  # stable: the earlier first
        assert row == order + [-1] * (steps - len(order))


def naive_iou(region, boxes):
    values = []
    for box in boxes:
        width = max(0.0, min(region[2], box[2]) - max(region[0], box[0]))
        height = max(0.0, min(region[3], box[3]) - max(region[1], box[1]))
        areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (region, box))
        values.append(width * height / (areas - width * height))
    return values


def test_fixed_goes_by_centers_and_skips_padding():
    # Centers (5, 20), (padding), (25, 10), (15, 10); by its upper edge the first would come first.
    boxes = [[0, 0, 10, 40], [0, 0, 0, 0], [20, 5, 30, 15], [10, 5, 20, 15]]
    region_targets = make_targets([boxes], valid=torch.tensor([[True, False, True, True]]))
    assert match(torch.zeros(1, 5, 4), region_targets, "fixed").tolist() == [[3, 2, 0, -1, -1]]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    steps=st.integers(1, 5),
    count=st.integers(0, 5),
    cost=st.sampled_from([*COSTS, None]),
    strategy=st.sampled_from(["hungarian", "first_k"]),
)
def test_no_permutation_is_cheaper(seed, steps, count, cost, strategy):
    boxes, codes, logits, region_targets = random_case(seed, steps=steps, count=min(count, steps))
    if cost is None:
        costs = 100 * torch.randn(len(boxes), steps, region_targets.valid.shape[1], dtype=torch.float64)
    else:
        costs = cost.cost(boxes, codes, logits, region_targets)
    for one, valid, found in zip(
        costs, region_targets.valid, match(costs, region_targets, strategy, boxes[:, 0]), strict=True
    ):
        assert sorted(found[found >= 0].tolist()) == valid.nonzero().flatten().tolist()
        allowed = range(steps if strategy == "hungarian" else int(valid.sum()))
        assert set((found >= 0).nonzero().flatten().tolist()) <= set(allowed)
        assert total(one, found) == pytest.approx(cheapest(one, valid, allowed), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 5), magnitude=st.sampled_from([1e-6, 1.0, 1e6]))
def test_the_two_solvers_agree(seed, steps, magnitude):
    cost = magnitude * torch.randn(20, steps, steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cost[::4] = 0
    cost[1::2, :, -1] = 0  # padding
    found, expected = by_permutations(cost), by_scipy(cost)
    assert torch.equal(found, expected) or torch.equal(
        cost.gather(2, found[..., None]).sum(1), cost.gather(2, expected[..., None]).sum(1)
    )


@pytest.mark.parametrize("strategy", ["hungarian", "first_k"])
def test_many_steps_go_through_scipy(strategy):
    boxes, codes, logits, region_targets = random_case(3, regions=20, steps=7, count=3)
    costs = Lexicographic().cost(boxes, codes, logits, region_targets)
    for one, valid, found in zip(
        costs, region_targets.valid, match(costs, region_targets, strategy, boxes[:, 0]), strict=True
    ):
        allowed = range(7 if strategy == "hungarian" else int(valid.sum()))
        assert total(one, found) == pytest.approx(cheapest(one, valid, allowed), abs=1e-9)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_regions_do_not_see_each_other(cost, strategy):
    boxes, codes, logits, region_targets = random_case(5, regions=30)
    together = match(cost.cost(boxes, codes, logits, region_targets), region_targets, strategy, boxes[:, 0])
    for r in range(30):
        one = RegionTargets(
            *(
                t[r : r + 1]
                for t in (region_targets.boxes, region_targets.codes, region_targets.labels, region_targets.valid)
            )
        )
        alone = cost.cost(boxes[r : r + 1], codes[r : r + 1], logits[r : r + 1], one)
        assert torch.equal(match(alone, one, strategy, boxes[r : r + 1, 0])[0], together[r])


def test_of_equal_matchings_the_first_steps_take_the_first_truths():
    region_targets = make_targets([[[0, 0, 10, 10]] * 3])
    assert match(torch.ones(1, 4, 3), region_targets).tolist() == [[0, 1, 2, -1]]


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_identical_truths_all_have_a_step(cost):
    boxes, codes, logits, _ = random_case(0, regions=5, steps=5)
    region_targets = make_targets(torch.tensor([0.0, 0, 10, 10]).expand(5, 3, 4))
    matched = match(cost.cost(boxes, codes, logits, region_targets), region_targets)
    assert all(sorted(m[m >= 0].tolist()) == [0, 1, 2] for m in matched)


def test_a_number_that_is_not_finite_stops_no_matching():
    cost = BY_HAND.clone()
    cost[0, 0, 0], cost[0, 1, 1] = torch.nan, torch.inf
    region_targets = make_targets(torch.zeros(1, 2, 4))
    assert sorted(match(cost, region_targets)[0].tolist()) == [-1, 0, 1]
    assert sorted(match(cost.repeat(1, 3, 1), region_targets)[0].tolist()) == [-1] * 7 + [0, 1]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_padding_may_hold_anything(cost, strategy):
    boxes, codes, logits, region_targets = random_case(9)
    void = ~region_targets.valid
    nan = void[..., None].expand_as(region_targets.boxes)
    other = RegionTargets(
        region_targets.boxes.masked_fill(nan, torch.nan),
        region_targets.codes.masked_fill(nan, torch.nan),
        region_targets.labels.masked_fill(void, -7),
        region_targets.valid,
    )
    found, expected = (
        match(cost.cost(boxes, codes, logits, some), some, strategy, boxes[:, 0]) for some in (other, region_targets)
    )
    assert void.any() and torch.equal(found, expected)
    losses = [set_loss(codes, logits, found, some, giou_weight=1.0, boxes=boxes) for some in (other, region_targets)]
    torch.testing.assert_close(*losses, rtol=0, atol=0)


def test_more_truths_than_steps_is_refused():
    with pytest.raises(ValueError, match="3 ground-truth boxes for 2 steps"):
        match(torch.zeros(1, 2, 3), make_targets(torch.zeros(1, 3, 4)))


# Loss


def naive_loss(codes, logits, matched, region_targets, box_weight=0.03, background_weight=1.0, classifier_weight=1.0):
    boxes = classes = 0.0
    for r in range(len(codes)):
        for t in range(codes.shape[1]):
            n = matched[r, t].item()
            entropy = -logits[r, t].log_softmax(0)
            if n < 0:
                classes += background_weight * entropy[0]
            else:
                classes += entropy[region_targets.labels[r, n]]
                boxes += box_weight * (codes[r, t] - region_targets.codes[r, n]).abs().sum()
    return {"loss_classifier": classifier_weight * classes / len(codes), "loss_box_reg": boxes / len(codes)}


@pytest.mark.parametrize("classes", [1, 3])
def test_loss_is_the_naive_one(classes):
    boxes, codes, logits, region_targets = random_case(2, regions=9, classes=classes)
    matched = match(Lexicographic().cost(boxes, codes, logits, region_targets), region_targets)
    expected = naive_loss(codes, logits, matched, region_targets, 0.1, 0.5, 0.2)
    weights = {"box_weight": 0.1, "background_weight": 0.5, "classifier_weight": 0.2}
    found = set_loss(codes, logits, matched, region_targets, **weights)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        set_loss(codes, logits, matched, region_targets), naive_loss(codes, logits, matched, region_targets)
    )


def emd_loss(boxes, codes, logits, region_targets, weights):
    """CrowdDet's loss of one region: the least over all assignments of steps to ground-truth boxes and background."""
    steps, some = codes.shape[1], region_targets.valid[0].nonzero().flatten().tolist()
    losses = []
    for chosen in permutations([*some, *[-1] * (steps - len(some))]):
        matched = torch.tensor([chosen])
        names = ("box_weight", "background_weight", "classifier_weight")
        loss = sum(naive_loss(codes, logits, matched, region_targets, *(weights[n] for n in names)).values())
        for t, n in enumerate(chosen):
            if n >= 0:
                giou = generalized_box_iou(boxes[0, t : t + 1], region_targets.boxes[0, n : n + 1])
                loss = loss + weights["giou_weight"] * (1 - giou.item())
        losses.append(float(loss))
    return min(losses)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    steps=st.integers(1, 4),
    weights=st.fixed_dictionaries(
        {f"{n}_weight": st.sampled_from([0.0, 0.2, 3.0]) for n in ("box", "background", "classifier", "giou")}
    ),
)
def test_emd_is_the_least_loss_of_all_assignments(seed, steps, weights):
    boxes, codes, logits, region_targets = random_case(seed, regions=3, steps=steps)
    cost = loss_cost(codes, logits, region_targets, boxes=boxes, **weights)
    assert cost.dtype == torch.float64
    matched = match(cost, region_targets, "emd")
    for r in range(3):
        one = [t[r : r + 1] for t in (boxes, codes, logits)]
        own = RegionTargets(*(t[r : r + 1] for t in vars(region_targets).values()))
        found = sum(set_loss(*one[1:], matched[r : r + 1], own, boxes=one[0], **weights).values())
        assert found.item() == pytest.approx(emd_loss(*one, own, weights), rel=1e-9, abs=1e-12)


def test_emd_by_hand_takes_the_confident_step_first_k_the_first():
    """Two boxes, both exact; only the second step has the class."""
    region_targets = make_targets([[[0, 0, 10, 10]]])
    codes, logits = region_targets.codes[:, [0, 0]], torch.tensor([[[3.0, 0], [0, 3.0]]])
    assert match(loss_cost(codes, logits, region_targets), region_targets, "emd").tolist() == [[-1, 0]]
    cost = Lexicographic().cost(region_targets.boxes[:, [0, 0]], codes, logits, region_targets)
    assert match(cost, region_targets).tolist() == [[0, -1]]
    # Step 1 is surer of the class; step 0 would pay more for background.
    logits = torch.tensor([[[-5.0, 0, 3], [0, 1, -9]]])
    assert match(loss_cost(codes, logits, region_targets), region_targets, "emd").tolist() == [[0, -1]]


@pytest.mark.parametrize("cost", COSTS, ids=repr)
@pytest.mark.parametrize("strategy", ["hungarian", "first_k"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_order_of_truths_does_not_matter(strategy, cost, seed):
    # Distances along a line often sum to the same both ways round; then only a set cost sees classes and IoUs.
    sees_all = isinstance(cost, SetCost | LossCost)
    boxes, codes, logits, region_targets = random_case(seed, classes=3 if sees_all else 1)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for some in (region_targets, shuffled(region_targets, generator)):
        matched = match(cost.cost(boxes, codes, logits, some), some, strategy)
        losses.append(set_loss(codes, logits, matched, some, giou_weight=float(sees_all), boxes=boxes))
    torch.testing.assert_close(losses[1], losses[0])


@pytest.mark.parametrize("count", [0, 3])
def test_no_truths_no_box_loss(count):
    boxes, codes, logits, region_targets = random_case(0, count=count)
    region_targets = RegionTargets(
        region_targets.boxes, region_targets.codes, region_targets.labels, torch.zeros_like(region_targets.valid)
    )
    codes.requires_grad_()
    for strategy in STRATEGIES:
        matched = match(
            Lexicographic().cost(boxes, codes, logits, region_targets), region_targets, strategy, boxes[:, 0]
        )
        loss = set_loss(codes, logits, matched, region_targets, giou_weight=2.0, boxes=boxes)
        assert (matched == -1).all() and loss["loss_box_reg"] == 0 and loss["loss_classifier"] > 0
        assert not torch.autograd.grad(loss["loss_box_reg"], codes)[0].any()


def test_no_regions_no_loss_but_a_gradient():
    codes, logits = torch.zeros(0, 5, 4, requires_grad=True), torch.zeros(0, 5, 2, requires_grad=True)
    region_targets = make_targets(torch.zeros(0, 2, 4))
    for cost in COSTS:
        matched = match(cost.cost(codes, codes, logits, region_targets), region_targets)
    loss = set_loss(codes, logits, matched, region_targets, giou_weight=1.0, boxes=codes)
    assert loss["loss_box_reg"] == 0 and loss["loss_classifier"] == 0
    sum(loss.values()).backward()
    assert codes.grad is not None and logits.grad is not None


def test_exact_boxes_have_no_position_loss():
    boxes, codes, logits, region_targets = random_case(0, steps=5, count=3)
    boxes = torch.cat([boxes[:, :2], region_targets.boxes.flip(1)], dim=1)
    for cost in (SetCost(l1=1, giou=1, label=0), Lexicographic(center_offset=1e-9)):
        matched = match(cost.cost(boxes, boxes / 10, logits, region_targets), region_targets)
        assert matched.max() >= 0
        assert (
            set_loss(boxes / 10, logits, matched, region_targets, giou_weight=1.0, boxes=boxes)["loss_box_reg"] < 1e-12
        )


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_giou_loss_by_hand():
    region_targets = make_targets([[[0, 0, 10, 10], [50, 50, 60, 60]]])
    # Ground truth 1 is said apart by one width: IoU 0, hull 3 widths, GIoU -1/3. Steps 0 and 2: exact, and none.
    boxes = torch.tensor([[[0, 0, 10, 10], [70, 50, 80, 60], [0, 0, 0, 0]]], dtype=torch.float64, requires_grad=True)
    matched = torch.tensor([[0, 1, -1]])
    with torch.autograd.detect_anomaly():
        loss = set_loss(
            boxes / 10, torch.zeros(1, 3, 2), matched, region_targets, box_weight=0.0, giou_weight=3.0, boxes=boxes
        )["loss_box_reg"]
        loss.backward()
    assert loss.item() == pytest.approx(3 * (1 + 1 / 3)) and not boxes.grad[0, 2].any()


def test_gradients():
    boxes, _, logits, region_targets = random_case(4, regions=3)
    boxes.requires_grad_(), logits.requires_grad_()
    matched = match(SetCost().cost(boxes, boxes / 10, logits, region_targets), region_targets)
    assert not matched.requires_grad and (matched >= 0).any() and (matched < 0).any()

    def loss(boxes, logits):
        options = {"background_weight": 0.3, "giou_weight": 2.0, "boxes": boxes}
        return tuple(set_loss(boxes / 10, logits, matched, region_targets, **options).values())

    assert torch.autograd.gradcheck(loss, (boxes, logits))
    by_boxes, by_logits = torch.autograd.grad(sum(loss(boxes, logits)), (boxes, logits))
    assert torch.equal((by_boxes != 0).any(-1), matched >= 0) and (by_logits != 0).all()


def test_loss_is_wide():
    boxes, codes, logits, region_targets = random_case(6)
    matched = match(SetCost().cost(boxes, codes, logits, region_targets), region_targets)
    halves = (codes.bfloat16().requires_grad_(), logits.bfloat16().requires_grad_())
    region_targets = RegionTargets(
        region_targets.boxes.float(), region_targets.codes.float(), region_targets.labels, region_targets.valid
    )
    loss = set_loss(*halves, matched, region_targets)
    assert all(value.dtype == torch.float32 for value in loss.values())
    expected = set_loss(*(h.detach().float() for h in halves), matched, region_targets)
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_depends_on_values(strategy):
    """Tensors without values can neither be waited for nor indexed by a mask."""
    boxes, codes, logits, region_targets = random_case(8, steps=5, count=3)
    fields = (region_targets.boxes, region_targets.codes, region_targets.labels, region_targets.valid)
    boxes, codes, logits, *fields = (t.to("meta") for t in (boxes, codes, logits, *fields))
    region_targets = RegionTargets(*fields)
    for cost in COSTS:
        matched = match(cost.cost(boxes, codes, logits, region_targets), region_targets, strategy, boxes[:, 0])
        loss = set_loss(codes, logits, matched, region_targets, background_weight=0.5, giou_weight=1.0, boxes=boxes)
        assert matched.is_meta and all(value.is_meta for value in loss.values())
    kept = keep_nearest(region_targets.valid, boxes[:, :3, 0], 5)
    assert kept[0].is_meta and kept[0].shape == (6, 5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gpu_answers_as_the_cpu_and_never_waits(strategy):
    def run(device):
        boxes, codes, logits, region_targets = random_case(7, regions=50, steps=5)
        fields = (region_targets.boxes, region_targets.codes, region_targets.labels, region_targets.valid)
        boxes, codes, logits, *fields = (t.to(device) for t in (boxes, codes, logits, *fields))
        torch.cuda.set_sync_debug_mode("error" if device == "cuda" and warm else "default")
        matched, region_targets = [], RegionTargets(*fields)
        for cost in COSTS:
            matched.append(
                match(cost.cost(boxes, codes, logits, region_targets), region_targets, strategy, boxes[:, 0])
            )
        loss = set_loss(codes, logits, matched[0], region_targets, giou_weight=1.0, boxes=boxes)
        torch.cuda.set_sync_debug_mode("default")
        return torch.stack(matched).cpu(), {key: value.cpu() for key, value in loss.items()}

    warm = False
    run("cuda")  # the permutations are copied once
    warm = True
    expected, found = run("cpu"), run("cuda")
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])
