"""What is special to the sequence head: who answers for what, a perfect decoder, the second look, runs, refusals."""

import dataclasses
import json
from functools import partial

import pytest
import torch
from torch import nn

from detection.contracts import PooledRegions
from detection.detector import build_detector
from detection.errors import UserError
from detection.heads import SequenceHead
from detection.heads.box_codes import PixelOffsets
from detection.heads.lstm_decoder import Decoded, LSTMDecoder
from detection.heads.sequence_head import Embed, MeetsWindow, Overlaps
from detection.heads.stitching import NMS, SetNMS
from detection.inference import InferenceConfig
from detection.ops.box_matching import crowded
from detection.ops.ragged import Ragged
from detection.pooling import CenterCell, RoIAlign
from detection.regions import GridCells
from detection.runs.folder import open_run
from detection.training.evaluate import evaluate_run
from detection.training.loaders import build_accelerator
from detection.training.run import train
from tests.tiny_runs import DETECTOR, tiny_config

WINDOW = torch.tensor([[0.0, 0, 64, 64]])
SIZE = [(64, 96)]


class FixedDecoder(nn.Module):
    """A decoder that says what it is told: codes (R, T, 4) and logits (R, T, 1 + K)."""

    hidden_size = 2

    def __init__(self, in_features, num_classes, *, codes, logits):
        super().__init__()
        self.codes, self.logits, self.num_steps = nn.Parameter(codes), nn.Parameter(logits), codes.shape[1]
        self.going = torch.ones(codes.shape[:2], dtype=torch.bool)

    def forward(self, x, stop_below=None):
        return Decoded(self.codes, self.logits, x.new_zeros(*self.codes.shape[:2], 2), self.going)


def decoding(codes, logits, classes=1, **settings):
    """A head over a descriptor of one number whose decoder says this."""
    decoder = partial(FixedDecoder, codes=torch.tensor(codes), logits=torch.tensor(logits))
    settings = {"box_coder": partial(PixelOffsets, scale=1.0), "assigner": partial(MeetsWindow), **settings}
    return SequenceHead(1, 1, classes, decoder=decoder, batch_size_per_image=None, add_ground_truth=False, **settings)


def test_a_window_answers_for_what_it_meets():
    boxes = torch.tensor([[60.0, 60, 80, 80], [64, 0, 80, 20], [-5, -5, 0.1, 70], [10, 10, 20, 20]])
    assert MeetsWindow().belongs(WINDOW, boxes).tolist() == [[True, False, True, True]]


def test_a_proposal_answers_for_what_it_overlaps_enough():
    boxes = torch.tensor([[0.0, 0, 64, 32], [0, 0, 64, 31], [0, 0, 64, 64], [70, 70, 80, 80]])
    assert Overlaps(0.5).belongs(WINDOW, boxes).tolist() == [[True, False, True, False]]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_of_too_many_truths_the_nearest_are_kept_whatever_their_order(order):
    """Centers at 32, 33, 36 and 42 before a window whose center is at 32; two steps."""
    boxes = torch.tensor([[22.0, 22, 42, 42], [23, 22, 43, 42], [26, 22, 46, 42], [32, 22, 52, 42]])[order]
    head = decoding([[[0.0] * 4] * 2], [[[0.0] * 5] * 2], classes=4)
    _, region_targets = head.sample([WINDOW], [{"boxes": boxes, "labels": torch.tensor(order) + 1}])
    assert region_targets.labels.tolist() == [[1, 2]] and region_targets.valid.all()
    assert region_targets.codes.tolist() == [[[0, 0, 20, 20], [1, 0, 20, 20]]]


def test_truths_are_regions_too_where_they_are_asked_for():
    head = SequenceHead(1, 1, 2, embed=partial(Embed, features=2), decoder=partial(LSTMDecoder, hidden_size=2))
    boxes = torch.tensor([[10.0, 10, 30, 30]])
    regions, region_targets = head.sample([WINDOW], [{"boxes": boxes, "labels": torch.tensor([2])}])
    assert regions[0].tolist() == [WINDOW[0].tolist(), boxes[0].tolist()]
    assert region_targets.valid.tolist() == [[False] * 5, [True] + [False] * 4] and region_targets.labels[1, 0] == 2
    assert region_targets.codes[1, 0].tolist() == [0, 0, 0, 0] and region_targets.codes.isfinite().all()


def test_a_sample_is_of_the_size_that_was_asked_for():
    head = SequenceHead(1, 1, 1, embed=partial(Embed, features=2), batch_size_per_image=8, positive_fraction=0.25)
    grid, _ = GridCells({}, window=16, stride=8).windows(64, 96), None
    boxes = torch.tensor([[10.0, 10, 30, 30], [50, 10, 66, 26]])
    regions, region_targets = head.sample([grid], [{"boxes": boxes, "labels": torch.tensor([1, 1])}])
    assert len(regions[0]) == 8 and region_targets.valid.any(1).sum() == 2
    assert Overlaps().belongs(regions[0], boxes).any(1).tolist() == region_targets.valid.any(1).tolist()


@pytest.mark.parametrize("batch_size", [None, 200])
def test_windows_in_a_crowd_without_ground_truth_are_left_out(batch_size):
    windows, crowd = GridCells({}, window=16, stride=8).windows(64, 96), torch.tensor([[0.0, 0, 60, 70]])
    target = {"boxes": torch.tensor([[10.0, 10, 30, 30]]), "labels": torch.tensor([1]), "ignored": crowd}
    for share, expected in ((None, True), (0.7, False)):
        settings = {"batch_size_per_image": batch_size, "add_ground_truth": False, "ignore_crowd": share}
        head = SequenceHead(1, 1, 1, embed=partial(Embed, features=2), assigner=partial(MeetsWindow), **settings)
        (own,), region_targets = head.sample([windows], [target])
        empty = ~region_targets.valid.any(1)
        assert (
            len(own) == len(empty)
            and crowded(own[empty][None], Ragged.of([crowd]), 0.7).any() == expected
            and empty.sum() > 5
        )
        assert (~empty).sum() == MeetsWindow().belongs(windows, target["boxes"]).sum()


def test_images_together_are_as_each_alone():
    """Padding, and images without ground truth, change nothing; all regions are taken, so that nothing is drawn."""
    windows = GridCells({}, window=16, stride=8).windows(64, 96)
    boxes = torch.cat([windows[::5] + 3, windows[5:9] - 2])
    regions = [windows, windows[:3], windows[:40] + 1, windows[:0]]
    targets = [
        {"boxes": own, "labels": torch.arange(len(own)) % 3 + 1, "ignored": crowd}
        for own, crowd in (
            (boxes, windows[:0]),
            (boxes[:0], windows[:2]),
            (boxes[:2], windows[:30]),
            (boxes[:0], boxes),
        )
    ]
    settings = {"embed": partial(Embed, features=2), "batch_size_per_image": None}
    for assigner in (MeetsWindow, partial(Overlaps, iou=0.3), partial(Overlaps, iou=0.0)):
        for add in (True, False):
            head = SequenceHead(1, 1, 3, assigner=assigner, add_ground_truth=add, **settings)
            together, samples = head.sample(regions, targets)
            alone = [head.sample([r], [t]) for r, t in zip(regions, targets, strict=True)]
            assert all(torch.equal(a, b) for a, (b,) in zip(together, (rows for rows, _ in alone), strict=True))
            assert sum(map(len, together)) == len(samples.valid) > 40 and samples.valid.any()
            for name in ("boxes", "codes", "labels", "valid"):
                own = torch.cat([getattr(answers, name) for _, answers in alone])
                mask = samples.valid if name != "valid" else torch.ones_like(samples.valid)
                assert torch.equal(getattr(samples, name)[mask], own[mask]), name


def test_chunks_of_regions_change_nothing(monkeypatch):
    windows = GridCells({}, window=16, stride=8).windows(64, 96)
    boxes = torch.cat([windows[::3] + 3, windows[5:9] - 2])
    targets = [{"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)}] * 2
    head = SequenceHead(1, 1, 1, embed=partial(Embed, features=2), assigner=partial(MeetsWindow))
    found = []
    for pairs in (10**6, 100):
        monkeypatch.setattr("detection.ops.box_matching.CPU_PAIRS", pairs)
        torch.manual_seed(0)
        regions, samples = head.sample([windows, windows + 1], targets)
        found.append([*regions, *vars(samples).values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# One window that says two people 70 % on top of each other, and a third step that says nothing.
PAIR = torch.tensor([[20.0, 10, 40, 50], [23, 10, 43, 50]])
PAIR_CODES = [[[-2.0, -2, 20, 40], [1, -2, 20, 40], [0, 0, 7, 7]]]
PAIR_LOGITS = [[[-20.0, 20], [-20, 20], [20, -20]]]


def test_a_perfect_decoder_has_no_loss():
    head = decoding(PAIR_CODES, PAIR_LOGITS)
    regions, region_targets = head.sample([WINDOW], [{"boxes": PAIR.flip(0), "labels": torch.tensor([1, 1])}])
    _, losses = head(PooledRegions(torch.zeros(1, 1, 1, 1), regions, SIZE), region_targets)
    assert losses["loss_box_reg"] == 0 and losses["loss_classifier"] < 1e-6


def test_a_wrong_box_has_its_distance_as_loss():
    head = decoding(PAIR_CODES, PAIR_LOGITS, box_weight=0.03)
    moved = PAIR + torch.tensor([[0.0, 0, 0, 0], [2, 0, 2, 0]])  # the second ground truth lies 2 pixels further right
    regions, region_targets = head.sample([WINDOW], [{"boxes": moved, "labels": torch.tensor([1, 1])}])
    _, losses = head(PooledRegions(torch.zeros(1, 1, 1, 1), regions, SIZE), region_targets)
    assert losses["loss_box_reg"].item() == pytest.approx(0.03 * 2)


# Two people; the first step says one of them by both its box and its class, the others say the other one less surely.
EMD_CODES = [[[1.0, -2, 20, 40], [-2, -2, 20, 40], [-2, -2, 20, 41]]]
EMD_LOGITS = [[[0.0, 3], [1, 0], [0, 2]]]


@pytest.mark.parametrize(
    ("strategy", "answers"),
    [("emd", {0: 1, 2: 0}), ("hungarian", {0: 1, 1: 0}), ("by_iou", {0: 1, 1: 0}), ("fixed", {0: 0, 1: 1})],
)
def test_strategies_by_hand(strategy, answers):
    head = decoding(EMD_CODES, EMD_LOGITS, strategy=strategy, box_weight=0.1, classifier_weight=0.2)
    # Both have the same IoU with the window, and the second person is nearer to its center.
    window = torch.tensor([[1.0, 0, 65, 64]])
    people = PAIR + torch.tensor([1.0, 0, 1, 0])
    regions, region_targets = head.sample([window], [{"boxes": people, "labels": torch.tensor([1, 1])}])
    _, losses = head(PooledRegions(torch.zeros(1, 1, 1, 1), regions, SIZE), region_targets)
    entropy = -torch.tensor(EMD_LOGITS)[0].log_softmax(-1)
    expected = sum(entropy[t, int(t in answers)] for t in range(3))
    codes = torch.tensor([[-2.0, -2, 20, 40], [1, -2, 20, 40]])
    distance = sum((torch.tensor(EMD_CODES)[0, t] - codes[n]).abs().sum() for t, n in answers.items())
    assert losses["loss_classifier"].item() == pytest.approx(0.2 * expected.item(), rel=1e-5)
    assert losses["loss_box_reg"].item() == pytest.approx(0.1 * distance.item(), rel=1e-5)


@pytest.mark.parametrize(("merge", "kept"), [(SetNMS, 2), (NMS, 1)])
def test_one_region_says_two_boxes_that_overlap(merge, kept):
    found, _ = decoding(PAIR_CODES, PAIR_LOGITS, postprocess=partial(merge)).eval()(
        PooledRegions(torch.zeros(1, 1, 1, 1), [WINDOW], SIZE)
    )
    assert found[0]["boxes"].tolist() == PAIR[:kept].tolist() and found[0]["labels"].tolist() == [1] * kept


def test_boxes_keep_their_region_when_they_are_sorted_by_score():
    """The second region's two boxes overlap and come before the first's."""
    apart = [[0.0, -20, 9, 9], [0, 20, 9, 9], [20, 20, 9, 9]]
    logits = [[[0.0, 1], [0, -20], [0, -20]], [[-20.0, 20], [-19, 19], [20, -20]]]
    head = decoding([apart, PAIR_CODES[0]], logits, postprocess=partial(SetNMS)).eval()
    found, _ = head(PooledRegions(torch.zeros(2, 1, 1, 1), [WINDOW.repeat(2, 1)], SIZE))
    assert found[0]["boxes"].tolist()[:2] == PAIR.tolist() and len(found[0]["boxes"]) == 3


def test_the_best_scored_are_merged():
    logits = [[[0.0, 1.0], [0, 3], [0, 2]]]
    codes = [[[0.0, 0, 20, 20], [0, 0, 0, 20], [0, 0, 20, 30]]]  # the best has no width
    found, _ = decoding(codes, logits, pre_merge=1).eval()(PooledRegions(torch.zeros(1, 1, 1, 1), [WINDOW], SIZE))
    assert found[0]["boxes"].tolist() == [[22, 17, 42, 47]]


def test_another_class_on_the_same_box_is_a_detection_too():
    logits = [[[-2.0, 1.0, 0.9, -9.0]]]
    found, _ = decoding([[[0.0, 0, 20, 20]]], logits, classes=3).eval()(
        PooledRegions(torch.zeros(1, 1, 1, 1), [WINDOW], SIZE)
    )
    probability = torch.tensor(logits[0][0]).softmax(0)
    assert found[0]["labels"].tolist() == [1, 2]
    torch.testing.assert_close(found[0]["scores"], probability[1:3])


SMALL = {"embed": partial(Embed, features=16), "decoder": partial(LSTMDecoder, hidden_size=8, num_steps=3)}
TWICE = partial(RoIAlign, stages=("c2",), output_size=2, sampling_ratio=1)


def build(rezoom=False, **settings):
    torch.manual_seed(0)
    head = partial(SequenceHead, **SMALL, rezoom=TWICE if rezoom else None, **settings)
    return build_detector(dataclasses.replace(DETECTOR, head=head), 3, resize_in_training=False)


def images():
    return [torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1))]


TARGETS = [{"boxes": torch.tensor([[8.0, 8, 50, 50], [40, 20, 90, 60]]), "labels": torch.tensor([1, 2])}]


def test_the_second_look_starts_as_a_no_op():
    once, twice = build().eval(), build(rezoom=True).eval()
    twice.load_state_dict(once.state_dict(), strict=False)
    with torch.no_grad():
        (a,), (b,) = once(images()), twice(images())
    assert len(a["boxes"]) and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("giou_weight", [0.0, 1.0])
def test_the_second_look_corrects_and_leaves_the_first_alone(giou_weight):
    detector = build(rezoom=True, giou_weight=giou_weight)
    losses = detector(images(), TARGETS)
    assert losses["loss_rezoom_classifier"] == losses["loss_classifier"]  # at the start
    second = losses["loss_rezoom_classifier"] + losses["loss_rezoom_box_reg"]
    second.backward()
    decoder, correct = detector.head.decoder, detector.head.correct
    assert correct[2].weight.grad.abs().sum() > 0
    # Corrections read the decoder's output, but nothing flows into what the first look says.
    assert decoder.weight.grad is None and decoder.bias.grad is None


def test_the_second_look_is_inside_of_the_boxes_found():
    detector, seen = build(rezoom=True).eval(), []
    detector.head.rezoom.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    detector(images())
    ((boxes,),) = seen
    assert (boxes >= 0).all() and (boxes <= torch.tensor([96.0, 64] * 2)).all() and len(boxes) % 3 == 0


def test_early_stop_only_leaves_out():
    settings = {"postprocess": partial(NMS, iou=1.0), "score_threshold": 0.25, "detections_per_image": 10_000}
    found = []
    for stop in (True, False):
        detector = build(early_stop=stop, **settings).eval()
        with torch.no_grad():
            detector.head.decoder.bias[[0, 1, 2], [5, 4, 5]] = 100  # a class, background, a class
            found.append({tuple(row) for row in detector(images())[0]["boxes"].tolist()})
    assert 0 < 2 * len(found[0]) == len(found[1]) and found[0] < found[1]


def test_a_run_writes_its_predictions_and_opens_again(shapes, tmp_path):
    """In mixed precision; two processes and resuming are tested beside those of the plain head."""
    config = tiny_config(
        shapes, "detector.head=detection.heads.SequenceHead", "detector.head.score_threshold=0.01", "precision=bf16"
    )
    train(config, tmp_path / "run", build_accelerator("bf16", "cpu"))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results and set(results[0]) == {"image_id", "category_id", "bbox", "score"}
    opened, *_ = open_run(tmp_path / "run")
    assert isinstance(opened.head, SequenceHead) and opened.head.decoder.num_steps == 5
    evaluate_run(tmp_path / "run", output=tmp_path / "again", device="cpu")
    assert json.loads((tmp_path / "again" / "results.json").read_text()) == results


def test_detections_have_an_area_and_are_the_best_of_an_image():
    """Sides of half a pixel and of a thousandth; then two of four."""
    logits = [[[0.0, score] for score in (1.0, 2.0, 4.0, 3.0)]]
    codes = [[[-20.0, 0, 0.5, 20], [0, 0, 0.001, 20], [10, 0, 5, 5], [20, 0, 5, 5]]]
    regions = PooledRegions(torch.zeros(1, 1, 1, 1), [WINDOW], SIZE)
    found, _ = decoding(codes, logits).eval()(regions)
    assert found[0]["boxes"].tolist() == [[39.5, 29.5, 44.5, 34.5], [49.5, 29.5, 54.5, 34.5], [11.75, 22, 12.25, 42]]
    best, _ = decoding(codes, logits, detections_per_image=2).eval()(regions)
    assert torch.equal(best[0]["boxes"], found[0]["boxes"][:2])


def test_corrections_are_added_to_what_the_decoder_found():
    """All boxes move 0.5 of a decoder's 1 to the right, which stands for 10 pixels."""
    settings = {"postprocess": partial(NMS, iou=1.0), "score_threshold": 0.0, "detections_per_image": 10_000}
    found = []
    for shift in (0.0, 0.5):
        detector = build(rezoom=True, box_coder=partial(PixelOffsets, scale=10.0), **settings).eval()
        with torch.no_grad():
            detector.head.decoder.bias[:, 2:4] = 1
            detector.head.correct[2].bias[0] = shift
            found.append(detector([torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))])[0]["boxes"])
    inside = found[0][(found[0][:, 0] > 0) & (found[0][:, 2] < 58)]
    assert len(inside) > 10
    moved = inside + torch.tensor([5.0, 0, 5, 0])
    assert (moved[:, None] - found[1]).abs().amax(-1).amin(1).max() < 1e-4


def test_a_decoders_numbers_are_in_units_of_the_box_coders_scale():
    coder = partial(PixelOffsets, scale=10.0)
    head = decoding((torch.tensor(PAIR_CODES) / 10).tolist(), PAIR_LOGITS, box_coder=coder, box_weight=0.03)
    found, _ = head.eval()(PooledRegions(torch.zeros(1, 1, 1, 1), [WINDOW], SIZE))
    torch.testing.assert_close(found[0]["boxes"], PAIR)
    moved = PAIR + torch.tensor([[0.0, 0, 0, 0], [2, 0, 2, 0]])
    regions, region_targets = head.train().sample([WINDOW], [{"boxes": moved, "labels": torch.tensor([1, 1])}])
    _, losses = head(PooledRegions(torch.zeros(1, 1, 1, 1), regions, SIZE), region_targets)
    assert losses["loss_box_reg"].item() == pytest.approx(0.03 * 2, rel=1e-5)  # of pixels


def refused(match, **changes):
    with pytest.raises(UserError, match=match):
        build_detector(dataclasses.replace(DETECTOR, **changes), 3)


def test_settings_that_do_not_fit_get_one_sentence():
    head = partial(SequenceHead, **SMALL)
    refused(
        "detector.head.decoder.num_steps=0: must be at least 1 and at most 1000",
        head=partial(head, decoder=partial(LSTMDecoder, num_steps=0)),
    )
    refused("regions.window=16, stride=32: the window must be at least", regions=partial(GridCells, window=16))
    twice = partial(head, rezoom=partial(RoIAlign, stages=("c9",)))
    refused("detector.head.rezoom: .* no feature map 'c9'; the backbone", head=twice)
    refused("there is no feature map 'c9'; the backbone", head=head, pool=partial(CenterCell, stage="c9"))
    refused(
        "detector.inference: a SequenceHead does one plain forward pass",
        head=head,
        inference=InferenceConfig(num_box_iterations=2),
    )
    refused("detector.head.pre_merge=0: must be at least 1", head=partial(head, pre_merge=0))
    refused(
        "detector.head.score_threshold=1.5: must be at least 0 and below 1", head=partial(head, score_threshold=1.5)
    )


def test_an_embedding_is_a_scaled_linear_layer():
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    for relu in (True, False):
        embed = Embed(2, features=3, relu=relu, scale=0.01)
        linear = x @ embed.linear.weight.T + embed.linear.bias
        torch.testing.assert_close(embed(x), 0.01 * (linear.clamp(min=0) if relu else linear))


def test_the_gaussian_start_of_an_embedding():
    torch.manual_seed(0)
    linear = Embed(100, features=200, std=0.005).linear
    assert linear.weight.std().item() == pytest.approx(0.005, rel=0.02) and not linear.bias.any()


def test_steps_after_a_stop_are_no_detections():
    head = decoding(PAIR_CODES, PAIR_LOGITS).eval()
    head.decoder.going = torch.tensor([[True, False, False]])
    found, _ = head(PooledRegions(torch.zeros(1, 1, 1, 1), [WINDOW], SIZE))
    assert found[0]["boxes"].tolist() == PAIR[:1].tolist()


def test_in_training_no_region_stops():
    losses = []
    for stop in (True, False):
        detector = build(early_stop=stop)
        with torch.no_grad():
            detector.head.decoder.bias[:, 4] = 100  # background from the first step on
        torch.manual_seed(1)
        losses.append(detector(images(), TARGETS))
    assert losses[0] == losses[1]
