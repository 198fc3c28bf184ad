import copy
import dataclasses
import itertools
import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from detection.context import SelfAttention
from detection.data.coco_index import Category
from detection.detector import Detector, build_detector
from detection.errors import UserError
from detection.heads import SequenceHead
from detection.heads.lstm_decoder import LSTMDecoder
from detection.pooling import RoIAlign
from detection.training.engine import coco_results, evaluate, train_one_epoch, validation_loss
from detection.training.freezing import freeze
from detection.training.loaders import build_accelerator
from detection.training.optim import WeightAverage
from tests.tiny_runs import DETECTOR

CATEGORIES = (Category(4, "a"), Category(70, "b"), Category(71, "c"))


def item(image_id, boxes=((4.0, 4, 30, 30),), size=64):
    generator = torch.Generator().manual_seed(image_id)
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator)
    target = {"boxes": torch.tensor(boxes), "labels": torch.ones(len(boxes), dtype=torch.int64), "image_id": image_id}
    return image, target


def as_batch(*items):
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return build_detector(DETECTOR, 3, resize_in_training=False)


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def sgd(detector, lr=0.01):
    optimizer = torch.optim.SGD(detector.parameters(), lr=lr)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)


def run(detector, batches, accelerator, **settings):
    lines = []
    optimizer, scheduler = sgd(detector)
    if isinstance(detector, Detector):
        freeze(detector, {}, 0)
    torch.manual_seed(3)
    train_one_epoch(detector, batches, len(batches), optimizer, scheduler, accelerator, log=lines.append, **settings)
    return lines


def test_an_epoch_moves_every_weight_and_logs_every_update(detector, accelerator):
    before = copy.deepcopy(detector.state_dict())
    lines = run(detector, [as_batch(item(1), item(2)), as_batch(item(3))], accelerator)
    assert len(lines) == 2
    keys = {"loss", "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    assert set(lines[0]) == keys | {"grad_norm", "lr", "images_per_s"}
    assert lines[0]["loss"] == pytest.approx(sum(lines[0][k] for k in keys - {"loss"}), rel=1e-5)
    moved = [n for n, p in detector.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) == len(list(detector.parameters()))


def test_accumulated_gradients_equal_a_loop_by_hand(detector, accelerator, monkeypatch):
    """Three batches, two an update: the second update has one batch and is not halved, nor is what is logged."""
    batches = [as_batch(item(1)), as_batch(item(2)), as_batch(item(3))]
    reference = copy.deepcopy(detector)
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)  # a second from update to update
    monkeypatch.setattr("detection.training.engine.time", clock)
    lines = run(detector, batches, accelerator, gradient_accumulation_steps=2)
    assert [line["images_per_s"] for line in lines] == [2, 1]

    optimizer, _ = sgd(reference)
    freeze(reference, {}, 0)
    torch.manual_seed(3)
    for group, line in zip((batches[:2], batches[2:]), lines, strict=True):
        optimizer.zero_grad()
        losses = [reference(images, targets) for images, targets in group]
        for of_batch in losses:
            (sum(of_batch.values()) / len(group)).backward()
        optimizer.step()
        for name in losses[0]:
            assert line[name] == pytest.approx(sum(of_batch[name].item() for of_batch in losses) / len(group), rel=1e-5)
        assert line["loss"] == pytest.approx(sum(line[name] for name in losses[0]), rel=1e-5)
    for a, b in zip(detector.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


class Losses(torch.nn.Module):
    """A model whose batch is its losses."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(()))

    def forward(self, images, targets):
        return {name: value * self.factor for name, value in targets[0].items() if name.startswith("loss_")}


def of_losses(**losses):
    return [torch.zeros(3, 2, 2)], [{name: torch.tensor(float(value)) for name, value in losses.items()}]


def test_losses_are_summed_by_name_over_the_batches_of_an_update(accelerator):
    """A part may put its losses into the dictionary in another order, or, which is an error, leave one out."""
    batches = [of_losses(loss_a=1, loss_b=10), of_losses(loss_b=30, loss_a=3)]
    (line,) = run(Losses(), batches, accelerator, gradient_accumulation_steps=2)
    assert (line["loss"], line["loss_a"], line["loss_b"]) == (22, 2, 20)
    batches = [of_losses(loss_a=1, loss_b=10), of_losses(loss_a=3)]
    with pytest.raises(UserError, match="a batch are loss_a, and of another of the same update loss_a, loss_b: a part"):
        run(Losses(), batches, accelerator, gradient_accumulation_steps=2)
    first, second = run(Losses(), batches, accelerator)
    assert first["loss_b"] == 10 and "loss_b" not in second


def test_gradients_are_clipped_to_the_norm(detector, accelerator):
    before = torch.cat([p.detach().flatten().clone() for p in detector.parameters()])
    lines = run(detector, [as_batch(item(1), item(2))], accelerator, clip_norm=1e-3)
    after = torch.cat([p.detach().flatten() for p in detector.parameters()])
    assert lines[0]["grad_norm"] > 1e-3
    assert (after - before).norm().item() == pytest.approx(0.01 * 1e-3, rel=0.02)


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(detector, accelerator, tmp_path):
    with torch.no_grad():
        detector.head.roi_heads.box_predictor.bbox_pred.weight.fill_(float("nan"))
    before = copy.deepcopy(detector.state_dict())
    with pytest.raises(UserError, match="training stopped: loss_box_reg is nan on the images 5, 6;") as error:
        run(detector, [as_batch(item(5), item(6))], accelerator, failures=tmp_path)
    assert "lower optimizer.lr" in str(error.value) and "non_finite_batch_0.pt" in str(error.value)
    for name, p in detector.named_parameters():
        assert torch.equal(p, before[name]) or "bbox_pred" in name
    (saved,) = torch.load(tmp_path / "non_finite_batch_0.pt", weights_only=True)
    assert [t["image_id"] for t in saved["targets"]] == [5, 6]
    assert torch.equal(saved["images"][0], item(5)[0])


def test_evaluation_gives_original_ids_and_leaves_the_mode_alone(detector, accelerator):
    frozen = freeze(detector, {"stem": None}, 0)
    modes = [m.training for m in detector.modules()]
    seen = []
    results = evaluate(detector, [as_batch(item(9), item(2)), as_batch(item(5))], accelerator, CATEGORIES, seen.append)
    assert frozen and [m.training for m in detector.modules()] == modes
    assert seen == [2, 1]
    assert results == sorted(results, key=lambda r: (r["image_id"], -r["score"]))
    assert len({r["score"] for r in results}) > len({r["image_id"] for r in results}) == 3
    assert {r["category_id"] for r in results} <= {4, 70, 71}
    json.dumps(results)


def test_coco_results_by_hand():
    detection = {
        "boxes": torch.tensor([[1.0, 2.0, 11.0, 22.0]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.25]),
    }
    assert coco_results(detection, 7, CATEGORIES) == [
        {"image_id": 7, "category_id": 70, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.25}
    ]
    assert detection["boxes"].tolist() == [[1.0, 2.0, 11.0, 22.0]]


@pytest.mark.parametrize("label", [0, len(CATEGORIES) + 1])
def test_a_label_of_no_category_is_refused(label):
    detection = {"boxes": torch.tensor([[0.0, 0, 1, 1]]), "labels": torch.tensor([label]), "scores": torch.ones(1)}
    with pytest.raises(UserError, match=f"detector.head: returned the label {label}; labels are 1 … {len(CATEGORIES)}"):
        coco_results(detection, 7, CATEGORIES)


def test_validation_loss_changes_nothing_and_repeats(detector, accelerator):
    freeze(detector, {"stem": None}, 0)
    batches = [as_batch(item(1), item(2)), as_batch(item(3))]
    before = copy.deepcopy(detector.state_dict())
    modes = [m.training for m in detector.modules()]
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = validation_loss(detector, batches, accelerator)
    assert validation_loss(detector, batches, accelerator) == first > 0
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [m.training for m in detector.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())


def test_the_validation_loss_is_the_mean_over_images(detector, accelerator):
    """Images with one object, with four and with none, of two sizes: a batch's loss would weigh them otherwise."""
    four = tuple((x, y, x + 20.0, y + 20) for x in (2.0, 40) for y in (2.0, 40))
    items = [item(1), item(2, four), item(3, (), 48)]
    items[2][1]["boxes"] = torch.zeros(0, 4)
    alone = [validation_loss(detector, [as_batch(i)], accelerator, seed=3) for i in items]
    splits = [[[0], [1], [2]], [[0, 1], [2]], [[2, 1, 0]]]
    losses = [validation_loss(detector, [as_batch(*(items[i] for i in b)) for b in s], accelerator, 3) for s in splits]
    assert losses == [pytest.approx(sum(alone) / 3, rel=1e-12)] * 3 and len(set(losses)) == 1
    assert validation_loss(detector, [as_batch(*items)], accelerator, seed=4) != losses[0]


def test_the_validation_loss_has_no_dropout(accelerator):
    """In heads and in contexts, which are in evaluation mode; equal to that of the same weights without any."""
    batches = [as_batch(item(1), item(2))]
    losses = []
    for dropout in (0.5, 0.0):
        config = dataclasses.replace(
            DETECTOR,
            context=partial(SelfAttention, num_heads=1, dropout=dropout),
            context_source="c3",
            pool=partial(RoIAlign, stages=("context",), output_size=3),
            head=partial(SequenceHead, decoder=partial(LSTMDecoder, dropout=dropout)),
        )
        torch.manual_seed(0)
        detector = build_detector(config, 3, resize_in_training=False)
        with torch.no_grad():
            for parameter in detector.context.parameters():
                parameter.add_(0.1)
        losses.append(validation_loss(detector, batches, accelerator))
    assert losses[0] == losses[1] > 0


def test_bf16_trains(detector):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    optimizer, scheduler = sgd(detector)
    model, optimizer = accelerator.prepare(detector.train(), optimizer)
    lines = []
    train_one_epoch(model, [as_batch(item(1), item(2))] * 2, 2, optimizer, scheduler, accelerator, log=lines.append)
    assert (
        len(lines) == 2
        and evaluate(accelerator.unwrap_model(model), [as_batch(item(1))], accelerator, CATEGORIES) is not None
    )
    AcceleratorState._reset_state(True)


def test_results_keep_a_thousandth_of_a_pixel_and_every_bit_of_a_score():
    """Widths are rounded as differences of the exact corners: 11.2357 − 1.2345 = 10.0012, not 11.236 − 1.234."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.cat([torch.tensor([0.1, 1.0, 0.9999999, 1e-8, 3e-42]), torch.rand(2000, generator=generator) ** 8])
    detection = {
        "boxes": torch.tensor([[1.2345, 2.0004, 11.2357, 22.5]], dtype=torch.float64).repeat(len(scores), 1),
        "labels": torch.full((len(scores),), 3),
        "scores": scores,
    }
    found = json.loads(json.dumps(coco_results(detection, 7, CATEGORIES)))
    assert found[0]["bbox"] == [1.234, 2.0, 10.001, 20.5]
    read = [result["score"] for result in found]
    assert read[:4] == [0.1, 1.0, 0.9999999, 1e-8] and torch.equal(torch.tensor(read), scores)
    assert max(len(str(score)) for score in read) < 16


def test_the_average_takes_in_every_update_once(detector, accelerator):
    """Three batches, two an update: two updates, not three; then the decays are 1/10 and 2/11."""
    average = WeightAverage(detector, 0.9)
    weight, averaged = (m.head.roi_heads.box_predictor.cls_score.weight for m in (detector, average.module))
    expected, lines, (optimizer, scheduler) = weight.detach().clone(), [], sgd(detector, lr=0.5)

    def log(line):
        decay = (1 / 10, 2 / 11)[len(lines)]
        expected.mul_(decay).add_((1 - decay) * weight.detach())
        torch.testing.assert_close(averaged, expected)
        lines.append(line)

    batches = [as_batch(item(k)) for k in (1, 2, 3)]
    freeze(detector, {}, 0)
    train_one_epoch(
        detector, batches, 3, optimizer, scheduler, accelerator,
        gradient_accumulation_steps=2, average=average, log=log,
    )  # fmt: skip
    assert len(lines) == 2 and not torch.allclose(averaged, weight)


def test_no_environment_divides_the_gradients(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert build_accelerator("no", "cpu").gradient_accumulation_steps == 1
