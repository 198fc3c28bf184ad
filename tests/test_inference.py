"""More than one look at test: rounds, votes and mirror images, against naive versions, by hand and by property."""

import dataclasses
import json
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from detection.config import override
from detection.context import SpatialRNN
from detection.contracts import Head, PooledRegions
from detection.detector import build_detector
from detection.errors import UserError
from detection.inference import InferenceConfig, iterate_boxes, mirror_batch, mirror_boxes, mirror_deltas, vote
from detection.pooling import SkipPool, Source
from detection.training.evaluate import evaluate_run
from tests.tiny_runs import DETECTOR, tiny_config

ION = InferenceConfig(num_box_iterations=2, voting_iou=0.6, flip=True)
SIZES = [(64, 48), (40, 64)]
"""Height and width of images that the tiny detector does not resize, both padded to 64×64."""

WITH_CONTEXT = dataclasses.replace(
    DETECTOR,
    context=partial(SpatialRNN, hidden_channels=8),
    context_source="c3",
    pool=partial(SkipPool, sources=(Source(("c3",)), Source(("context",), norm="channels")), output_size=3),
)


def make_detector(test, config=DETECTOR, classes=3):
    """The tiny detector with a predictor whose scores differ and whose boxes move by about a tenth of their size."""
    torch.manual_seed(0)
    detector = build_detector(dataclasses.replace(config, inference=test), classes).eval()
    predictor = detector.head.roi_heads.box_predictor
    nn.init.normal_(predictor.cls_score.weight, std=2.0)
    nn.init.normal_(predictor.bbox_pred.weight, std=3.0)
    return detector


def images(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator) for size in SIZES]


def proposals(count=9, seed=4):
    generator, boxes = torch.Generator().manual_seed(seed), []
    for height, width in SIZES:
        corners = torch.rand(count, 4, generator=generator) * torch.tensor([width / 2, height / 2] * 2)
        boxes.append(corners + torch.tensor([0, 0, width / 2, height / 2]))
    return boxes


class Given(nn.Module):
    """Regions that were found already."""

    def __init__(self, boxes):
        super().__init__()
        self.boxes = boxes

    def forward(self, images, features, targets):
        return self.boxes, {}


def assert_same(expected, found, **tolerance):
    assert len(expected) == len(found)
    for e, f in zip(expected, found, strict=True):
        assert torch.equal(e["labels"], f["labels"]) and len(e["boxes"]) == len(f["boxes"])
        for key in ("scores", "boxes"):
            torch.testing.assert_close(f[key], e[key], **tolerance)


def naive_vote(kept, candidates, iou):
    voted = []
    for box, label in zip(kept["boxes"], kept["labels"], strict=True):
        total, weight = torch.zeros(4, dtype=torch.float64), 0.0
        for other, its_label, score in zip(*(candidates[k] for k in ("boxes", "labels", "scores")), strict=True):
            if its_label == label and box_iou(box[None], other[None]) >= iou:
                total, weight = total + score.double() * other.double(), weight + score.item()
        voted.append((total / weight).float())
    return torch.stack(voted) if voted else torch.zeros(0, 4)


def naive_nms(candidates, iou, most):
    order = candidates["scores"].argsort(descending=True).tolist()
    kept = []
    for i in order:
        same = [j for j in kept if candidates["labels"][j] == candidates["labels"][i]]
        if all(box_iou(candidates["boxes"][[i]], candidates["boxes"][[j]]) <= iou for j in same):
            kept.append(i)
    return {key: t[kept[:most]] for key, t in candidates.items()}


def naive_round(detector, features, box, size, classes):
    """What one box becomes: (box, label, score) of each class of `classes` above the threshold."""
    head, found = detector.head.roi_heads, []
    logits, deltas = head.box_predictor(head.box_head(detector.pool(features, [box[None]], [size])))
    scores = logits[0].softmax(0)
    (x1, y1, x2, y2), (height, width) = box.tolist(), size
    for k in classes:
        dx, dy, dw, dh = deltas[0, 4 * k : 4 * k + 4].tolist()
        x, y = (x1 + x2) / 2 + dx / 10 * (x2 - x1), (y1 + y2) / 2 + dy / 10 * (y2 - y1)
        w, h = (x2 - x1) * math.exp(dw / 5) / 2, (y2 - y1) * math.exp(dh / 5) / 2
        new = [max(x - w, 0), max(y - h, 0), min(x + w, width), min(y + h, height)]
        if scores[k] > head.score_thresh and new[2] - new[0] >= 1e-2 and new[3] - new[1] >= 1e-2:
            found.append((torch.tensor(new), k, scores[k].item()))
    return found


def predictions_at(detector, batch, boxes, sizes):
    descriptors = detector.pool(detector.extract_features(batch), boxes, sizes)
    return detector.head.predict(PooledRegions(descriptors, boxes, sizes))


def naive_detect(detector, image, boxes, rounds, voting_iou):
    """One image, box by box and class by class."""
    head, size = detector.head.roi_heads, tuple(image.shape[1:])
    batch, _ = detector.transform([image])
    features = detector.extract_features(batch)
    found = [c for box in boxes for c in naive_round(detector, features, box, size, range(1, 4))]
    every = list(found)
    for _ in range(rounds - 1):
        found = [c for box, k, _ in found for c in naive_round(detector, features, box, size, [k])]
        every += found
    candidates = {
        "boxes": torch.stack([box for box, _, _ in every]),
        "labels": torch.tensor([k for _, k, _ in every]),
        "scores": torch.tensor([score for _, _, score in every]),
    }
    kept = naive_nms(candidates, head.nms_thresh, head.detections_per_img)
    if voting_iou is not None:
        kept["boxes"] = naive_vote(kept, candidates, voting_iou)
    return kept


def test_a_vote_by_hand():
    """Of a box of 10×10, another of 10×12 (IoU 0.83), one of 10×20 (exactly 0.5), and the same of another class."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 20], [0, 0, 10, 12]])
    candidates = {
        "boxes": boxes,
        "labels": torch.tensor([1, 1, 1, 2]),
        "scores": torch.tensor([0.9, 0.6, 0.3, 0.8]),
    }
    kept = {key: t[[0, 3]] for key, t in candidates.items()}
    expected = {0.9: 10.0, 0.8: (0.9 * 10 + 0.6 * 12) / 1.5, 0.5: (0.9 * 10 + 0.6 * 12 + 0.3 * 20) / 1.8}
    for iou, bottom in expected.items():
        torch.testing.assert_close(vote(kept, candidates, iou), torch.tensor([[0, 0, 10, bottom], [0, 0, 10, 12]]))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 12), st.integers(0, 99), st.sampled_from([0.3, 0.5, 0.85, 1.0]))
def test_votes_equal_those_of_a_loop(count, seed, iou):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 4, (count, 2), generator=generator).float()
    candidates = {
        "boxes": torch.cat([corners, corners + torch.randint(3, 9, (count, 2), generator=generator)], 1),
        "labels": torch.randint(1, 3, (count,), generator=generator),
        "scores": torch.rand(count, generator=generator) + 0.05,
    }
    kept = {key: t[::2] for key, t in candidates.items()}
    torch.testing.assert_close(vote(kept, candidates, iou), naive_vote(kept, candidates, iou))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_votes_are_not_rounded_by_mixed_precision(dtype):
    boxes = torch.tensor([[1001.3, 700.7, 1203.1, 901.9], [1003.3, 700.2, 1200.1, 903.9]])
    candidates = {"boxes": boxes, "labels": torch.tensor([1, 1]), "scores": torch.tensor([0.91, 0.37])}
    expected = vote(candidates, candidates, 0.5)
    with torch.autocast("cpu", dtype):
        assert torch.equal(vote(candidates, candidates, 0.5), expected)


@pytest.mark.parametrize("rounds", [1, 2, 3])
@pytest.mark.parametrize("voting_iou", [None, 0.6])
def test_detections_equal_those_of_a_loop_over_boxes_and_classes(rounds, voting_iou):
    detector = make_detector(InferenceConfig(rounds, voting_iou))
    detector.regions = Given(proposals(7))
    with torch.no_grad():
        found = detector(images())
        expected = [
            naive_detect(detector, image, boxes, rounds, voting_iou)
            for image, boxes in zip(images(), proposals(7), strict=True)
        ]
    assert all(len(f["boxes"]) > 3 for f in found)
    assert_same(expected, found, rtol=1e-4, atol=1e-3)


def test_rounds_and_votes_change_detections():
    """Else the test above would compare nothing."""
    found = []
    for test in (
        InferenceConfig(),
        InferenceConfig(2),
        InferenceConfig(3),
        InferenceConfig(1, 0.6),
        InferenceConfig(flip=True),
    ):
        detector = make_detector(test)
        detector.regions = Given(proposals())
        with torch.no_grad():
            found.append(torch.cat([f["boxes"] for f in detector(images())]))
    assert all(not torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize("counts", [(9, 9), (0, 9), (0, 0)])
@pytest.mark.parametrize("threshold", [0.05, 0.3, 1.0, "a score"])
def test_one_look_in_steps_is_bit_equal_to_torchvisions_postprocessing(counts, threshold):
    detector = make_detector(InferenceConfig())
    boxes = [b[:count] for b, count in zip(proposals(), counts, strict=True)]
    batch, _ = detector.transform(images())
    with torch.no_grad():
        features = detector.extract_features(batch)
        pooled = detector.pool(features, boxes, batch.image_sizes)
        regions = PooledRegions(pooled, boxes, batch.image_sizes)
        if threshold == "a score":
            threshold = detector.head.predict(regions)[0][:, 1:].flatten().sort().values[-4:-3].sum().item()
        heads = detector.head.roi_heads
        heads.score_thresh = threshold
        theirs = heads.postprocess_detections(*detector.head.logits_and_deltas(regions), boxes, batch.image_sizes)
        expected = [{"boxes": b, "labels": k, "scores": s} for b, s, k in zip(*theirs, strict=True)]
        assert_same(expected, detector.head(regions)[0], rtol=0, atol=0)
        predict = lambda boxes: detector.head.predict(regions)  # noqa: E731
        found = iterate_boxes(InferenceConfig(), detector.head, predict, boxes, batch.image_sizes)
    assert any(len(e["boxes"]) for e in expected) == (sum(counts) > 0 and threshold < 1)
    assert_same(expected, found, rtol=0, atol=0)


def test_the_default_settings_run_the_heads_own_forward(monkeypatch):
    detector = make_detector(InferenceConfig())
    monkeypatch.setattr("detection.detector.iterate_boxes", None)
    with torch.no_grad():
        assert len(detector(images())[0]["boxes"]) > 0


def test_training_is_the_same_with_and_without():
    targets = [{"boxes": torch.tensor([[5.0, 5, 30, 30]]), "labels": torch.tensor([k])} for k in (1, 2)]
    losses = []
    for test in (InferenceConfig(), ION):
        detector = make_detector(test).train()
        torch.manual_seed(3)
        losses.append(detector(images(), targets))
    assert losses[0] == losses[1]


def test_each_picture_is_mirrored_inside_its_own_size():
    image = torch.arange(12.0).view(1, 1, 3, 4).repeat(2, 1, 1, 1)
    image[1, :, 2:] = 0
    image[1, :, :, 2:] = 0
    mirrored = mirror_batch(ImageList(image, [(3, 4), (2, 2)]))
    assert mirrored.tensors[0, 0].tolist() == [[3, 2, 1, 0], [7, 6, 5, 4], [11, 10, 9, 8]]
    assert mirrored.tensors[1, 0].tolist() == [[1, 0, 0, 0], [5, 4, 0, 0], [0, 0, 0, 0]]
    assert mirrored.image_sizes == [(3, 4), (2, 2)]
    assert image[0, 0, 0].tolist() == [0, 1, 2, 3]


def test_mirrored_boxes_and_deltas_by_hand():
    """A box 20 wide, moved right by half of that and doubled: in the mirror it moves left."""
    (boxes,) = mirror_boxes([torch.tensor([[10.0, 20, 30, 60]])], [(80, 100)])
    assert boxes.tolist() == [[70, 20, 90, 60]]
    deltas = torch.tensor([[[5.0, 2.0, 5 * math.log(2), 0.0]]])
    assert mirror_deltas(deltas).flatten().tolist() == pytest.approx([-5.0, 2.0, 5 * math.log(2), 0.0])
    decode = make_detector(InferenceConfig()).head.roi_heads.box_coder.decode
    assert decode(deltas[0], [torch.tensor([[10.0, 20, 30, 60]])]).flatten().tolist() == pytest.approx([10, 28, 50, 68])
    assert decode(mirror_deltas(deltas)[0], [boxes]).flatten().tolist() == pytest.approx([50, 28, 90, 68])


@pytest.mark.parametrize("config", [DETECTOR, WITH_CONTEXT], ids=["plain", "context"])
def test_a_mirrored_picture_gives_mirrored_detections(config):
    """Of a batch whose images have different sizes, both of which begin at the same proposals."""
    detector = make_detector(ION, config)
    with torch.no_grad():
        detector.regions = Given(proposals())
        expected = detector(images())
        detector.regions = Given(mirror_boxes(proposals(), SIZES))
        found = detector([image.flip(-1) for image in images()])
    for detections, (_, width) in zip(found, SIZES, strict=True):
        detections["boxes"] = mirror_boxes([detections["boxes"]], [(0, width)])[0]
    assert all(len(f["boxes"]) > 3 for f in found)
    assert_same(expected, found, rtol=1e-4, atol=1e-3)


def test_without_flip_a_mirrored_picture_gives_other_detections():
    detector = make_detector(InferenceConfig(2, 0.6))
    with torch.no_grad():
        detector.regions = Given(proposals())
        expected = detector(images())[0]
        detector.regions = Given(mirror_boxes(proposals(), SIZES))
        found = detector([image.flip(-1) for image in images()])[0]
    assert not torch.allclose(expected["scores"][:3], found["scores"][:3], atol=1e-3)


def test_flipped_looks_are_averaged_by_hand():
    """Each image and its mirror image alone, their probabilities and deltas averaged; then torchvision's steps."""
    detector = make_detector(InferenceConfig(flip=True), WITH_CONTEXT)
    detector.regions = Given(proposals())
    with torch.no_grad():
        found = detector(images())
        for i, (drawing, boxes, size) in enumerate(zip(images(), proposals(), SIZES, strict=True)):
            predictions = []
            for image, at in ((drawing, boxes), (drawing.flip(-1), mirror_boxes([boxes], [size])[0])):
                batch, _ = detector.transform([image])
                predictions.append(predictions_at(detector, batch, [at], [size]))
            (p, d), (q, e) = predictions
            sign = torch.tensor([-1.0, 1, 1, 1])
            logits, deltas = torch.log((p + q) / 2), ((d + sign * e) / 2).flatten(1)
            boxes, scores, labels = detector.head.roi_heads.postprocess_detections(logits, deltas, [boxes], [size])
            expected = {"boxes": boxes[0], "labels": labels[0], "scores": scores[0]}
            assert_same([expected], [found[i]], rtol=1e-4, atol=1e-3)


def test_proposals_come_from_the_picture_as_it_is():
    detector, seen = make_detector(ION), []
    detector.regions.register_forward_hook(lambda m, args, out: seen.append(args[0].tensors.clone()))
    batch, _ = detector.transform(images())
    with torch.no_grad():
        detector(images())
    assert len(seen) == 1 and torch.equal(seen[0], batch.tensors)


@pytest.mark.parametrize("config", [DETECTOR, WITH_CONTEXT], ids=["plain", "context"])
def test_an_image_alone_equals_it_in_a_batch(config):
    detector = make_detector(ION, config)
    with torch.no_grad():
        together = detector(images())
        alone = [detector([image])[0] for image in images()]
    assert all(len(f["boxes"]) > 3 for f in together)
    assert_same(alone, together, rtol=1e-4, atol=1e-3)


def test_detections_come_in_the_pixels_of_the_image_given():
    detector = make_detector(ION)
    with torch.no_grad():
        boxes = detector([torch.rand(3, 40, 128)])[0]["boxes"]
    assert boxes[:, 2].max() > 64 and boxes[:, 2].max() <= 128 and boxes[:, 3].max() <= 40


@pytest.mark.parametrize("border", [40.0, 1333.0])
def test_a_vote_of_boxes_at_the_border_stays_at_it(border):
    generator = torch.Generator().manual_seed(0)
    for count in range(1, 60):
        boxes = torch.tensor([[0.0, 0, border, border]]).repeat(count, 1)
        candidates = {"boxes": boxes, "labels": torch.ones(count), "scores": torch.rand(count, generator=generator)}
        kept = {key: candidates[key][:1] for key in ("boxes", "labels")}
        assert torch.equal(vote(kept, candidates, 0.5), boxes[:1])


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("counts", [(0, 0), (0, 4)])
def test_pictures_without_proposals_have_no_detections(counts, classes):
    detector = make_detector(ION, classes=classes)
    detector.regions = Given([b[:count] for b, count in zip(proposals(), counts, strict=True)])
    with torch.no_grad():
        found = detector(images())
    assert [f["boxes"].shape[0] > 0 for f in found] == [count > 0 for count in counts]
    assert all(f["boxes"].shape[1] == 4 and len(f["labels"]) == len(f["scores"]) == len(f["boxes"]) for f in found)


def test_where_nothing_passes_the_threshold_later_rounds_have_no_boxes():
    detector = make_detector(ION)
    detector.head.roi_heads.score_thresh = 1.0
    with torch.no_grad():
        assert [len(f["boxes"]) for f in detector(images())] == [0, 0]


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_boxes_are_float32_under_mixed_precision(precision):
    detector = make_detector(ION, WITH_CONTEXT)
    with torch.no_grad(), torch.autocast("cpu", dtype=precision):
        found = detector(images())
    for detections in found:
        assert len(detections["boxes"]) > 3
        assert all(detections[k].dtype == torch.float32 and detections[k].isfinite().all() for k in ("boxes", "scores"))


class OneStep(Head):
    """A head that does all in one step."""

    def __init__(self, in_channels, size, num_classes):
        super().__init__()

    def sample(self, boxes, targets):
        return boxes, None

    def forward(self, regions, samples=None):
        return [], {}


@pytest.mark.parametrize(
    "test", [InferenceConfig(num_box_iterations=2), InferenceConfig(voting_iou=0.5), InferenceConfig(flip=True)]
)
def test_a_head_without_the_steps_gets_one_sentence(test):
    config = dataclasses.replace(DETECTOR, head=partial(OneStep))
    build_detector(config, 3)
    with pytest.raises(
        UserError, match="a OneStep does one plain forward pass only; leave num_box_iterations"
    ) as error:
        build_detector(dataclasses.replace(config, inference=test), 3)
    assert "\n" not in str(error.value)


OVERRIDES = ("num_box_iterations=2", "voting_iou=0.85", "flip=true")


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ("num_box_iterations=0", "detector.inference.num_box_iterations=0: must be at least 1 and at most 1000."),
        ("num_box_iterations=1.5", "must be of type int"),
        ("voting_iou=0", "detector.inference.voting_iou=0: must be above 0 and at most 1"),
        ("voting_iou=85", "detector.inference.voting_iou=85: must be above 0 and at most 1"),
        ("vote=0.5", "did you mean detector.inference.voting_iou?"),
    ],
)
def test_a_wrong_setting_gets_one_sentence(tmp_path, item, sentence):
    with pytest.raises(UserError) as error:
        override(tiny_config(tmp_path), [f"detector.inference.{item}"])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_a_finished_run_is_evaluated_with_them(finished_run, tmp_path):
    items = [*(f"detector.inference.{item}" for item in OVERRIDES), "detector.head.nms_threshold=0.475"]
    metrics = evaluate_run(finished_run, output=tmp_path / "ion", device="cpu", overrides=items)
    plain = evaluate_run(finished_run, output=tmp_path / "plain", device="cpu")
    assert metrics["images"] == plain["images"] == 3
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("ion", "plain")]
    assert results[0] != results[1]
