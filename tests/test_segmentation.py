"""The segmentation regularizer: its loss against a naive one, by itself, in the detector and in a run."""

import dataclasses
import json
import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from detection import segmentation
from detection.config import override
from detection.config.serialization import from_plain
from detection.context import ConvStack
from detection.data.semantic import IGNORED
from detection.detector import build_detector
from detection.errors import UserError
from detection.runs.folder import open_config, open_run
from detection.segmentation import SegmentationLoss, Upsample, bilinear_kernel, groups_of_size, semantic_maps
from detection.training.run import train
from tests.tiny_runs import tiny_config

pytestmark = pytest.mark.usefixtures("blank_plots")


def labels_of(*sizes, classes=3, seed=0, ignored=0.3):
    """Maps of random labels with ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randint(0, classes + 1, size, generator=generator, dtype=torch.uint8) for size in sizes]
    return [m.masked_fill(torch.rand(m.shape, generator=generator) < ignored, IGNORED) for m in features]


def naive_resize(labels, height, width):
    """Each new pixel's label: that of the old pixel which its center lies on."""
    resized = np.empty((height, width), dtype=np.uint8)
    for i in range(height):
        for j in range(width):
            y, x = Fraction(2 * i + 1, 2 * height) * labels.shape[0], Fraction(2 * j + 1, 2 * width) * labels.shape[1]
            resized[i, j] = labels[math.floor(y), math.floor(x)]
    return resized


def naive_loss(part, context, semantic, stride):
    """Weighted mean over labeled pixels of -log softmax, each score interpolated between the four cells around it."""
    weight, bias = part.classify.weight[:, :, 0, 0].double(), part.classify.bias.double()
    terms, shares = [], []
    for cells, labels in zip(context.double(), semantic, strict=True):
        height, width = (math.ceil(side / stride) for side in labels.shape)
        scores = torch.einsum("kc,chw->hwk", weight, cells) + bias
        for y, x in (labels != IGNORED).nonzero().tolist():
            # The pixel's middle, in cells, counted from the middle of the first one.
            v, u = (y + 0.5) / stride - 0.5, (x + 0.5) / stride - 0.5
            score = 0
            for i in (math.floor(v), math.floor(v) + 1):
                for j in (math.floor(u), math.floor(u) + 1):
                    inside = scores[min(max(i, 0), height - 1), min(max(j, 0), width - 1)]
                    score = score + (1 - abs(v - i)) * (1 - abs(u - j)) * inside
            share = part.background_weight if labels[y, x] == 0 else 1.0
            terms.append(share * (torch.logsumexp(score, 0) - score[int(labels[y, x])]))
            shares.append(share)
    return torch.stack(terms).sum() / sum(shares)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("learned", [False, True])
def test_the_loss_is_the_naive_one(stride, learned):
    torch.manual_seed(0)
    part = SegmentationLoss(5, stride, 3, learned_upsampling=learned)
    nn.init.normal_(part.classify.bias)
    semantic = labels_of((3 * stride, 4 * stride), (2 * stride - stride // 2, 3 * stride))
    context = torch.randn(2, 5, 4, 5)
    loss = part(context, semantic)["loss_segmentation"]
    torch.testing.assert_close(loss.double(), naive_loss(part, context, semantic, stride), rtol=1e-5, atol=1e-6)
    half = SegmentationLoss(5, stride, 3, weight=0.5)
    half.load_state_dict(part.state_dict(), strict=False)
    torch.testing.assert_close(half(context, semantic)["loss_segmentation"], loss / 2)


@pytest.mark.parametrize("background", [0.0, 0.1, 3.0])
def test_weighted_background_is_the_naive_one(background):
    torch.manual_seed(0)
    part = SegmentationLoss(5, 4, 3, background_weight=background)
    semantic = labels_of((12, 16), (7, 12))
    context = torch.randn(2, 5, 4, 5)
    loss = part(context, semantic)["loss_segmentation"]
    torch.testing.assert_close(loss.double(), naive_loss(part, context, semantic, 4), rtol=1e-5, atol=1e-6)


def test_weighted_background_by_hand():
    """Equal scores cost ln 3 whatever the weights; certain ones of class 1 cost nothing but on the background."""
    part = SegmentationLoss(1, 1, 2, background_weight=0.25)
    nn.init.zeros_(part.classify.weight)
    labels = torch.tensor([[1, 0, 0], [0, 0, IGNORED]], dtype=torch.uint8)
    context = torch.zeros(1, 1, 2, 3)
    assert part(context, [labels])["loss_segmentation"].item() == pytest.approx(math.log(3))
    with torch.no_grad():
        part.classify.bias.copy_(torch.tensor([0.0, 20.0, 0.0]))
    # One object's pixel of weight 1 that costs nothing, four of the background, of 1 in all, that cost 20 each.
    assert part(context, [labels])["loss_segmentation"].item() == pytest.approx(20 / 2)


def test_bad_background_weight_is_one_sentence():
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(UserError, match="segmentation.background_weight=.*must be (at least 0|a finite number)"):
            from_plain(partial(SegmentationLoss, background_weight=value), partial[SegmentationLoss], "segmentation")


def test_gradients():
    torch.manual_seed(0)
    part = SegmentationLoss(3, 4, 2, learned_upsampling=True).double()
    semantic = labels_of((8, 7), (5, 8), classes=2)
    names, values = zip(*part.named_parameters(), strict=True)

    def loss(context, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(part, given, (context, semantic))["loss_segmentation"]

    context = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (context, *values))


@pytest.mark.parametrize("learned", [False, True])
def test_padding_does_not_leak(learned):
    """A batch's loss is the mean of its images' own, weighted by labeled pixels, whatever stands in the padding."""
    torch.manual_seed(0)
    part = SegmentationLoss(4, 8, 3, learned_upsampling=learned)
    semantic = labels_of((30, 50), (64, 20))
    context = torch.randn(2, 4, 8, 8)
    together = part(context, semantic)["loss_segmentation"]
    alone = [part(context[:1, :, :4, :7], semantic[:1]), part(context[1:, :, :8, :3], semantic[1:])]
    counts = [int((m != IGNORED).sum()) for m in semantic]
    expected = sum(a["loss_segmentation"] * n for a, n in zip(alone, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(together, expected)
    context[0, :, 4:], context[0, :, :, 7:], context[1, :, :, 3:] = 1e6, -1e6, 1e6
    assert torch.equal(part(context, semantic)["loss_segmentation"], together)


@pytest.mark.parametrize(("most", "padding"), [(2**28, 10**9), (2**28, 2000), (40_000, 10**9), (1, 0)])
@pytest.mark.parametrize("learned", [False, True])
def test_groups_of_images_change_nothing(monkeypatch, most, padding, learned):
    """Loss and gradients of images together are those of each alone, however they are grouped and padded."""
    monkeypatch.setattr(segmentation, "MAX_BYTES", most)
    monkeypatch.setattr(segmentation, "CPU_PADDING", padding)
    torch.manual_seed(0)
    part = SegmentationLoss(4, 8, 3, learned_upsampling=learned, output_stride=2, background_weight=0.5)
    semantic = labels_of((30, 50), (64, 20), (30, 50), (61, 64), (9, 7))
    context = torch.randn(5, 4, 8, 8, requires_grad=True)
    together = part(context, semantic)["loss_segmentation"]
    total = count = torch.zeros(())
    for i, labels in enumerate(semantic):
        height, width = (-(-side // 8) for side in labels.shape)
        loss, weight = part._sums(part.classify(context[i : i + 1, :, :height, :width]), [labels])
        total, count = total + loss, count + weight
    torch.testing.assert_close(together, total / count)
    wanted = [context, *part.parameters()]
    for a, b in zip(*(torch.autograd.grad(loss, wanted) for loss in (together, total / count)), strict=True):
        torch.testing.assert_close(a, b)


def test_groups_are_bounded(monkeypatch):
    scores = torch.zeros(1, 4, 1, 1)
    sizes = [(10, 20), (9, 20), (40, 40), (10, 20), (39, 40), (20, 10)]
    monkeypatch.setattr(segmentation, "CPU_PADDING", 4 * 100)
    assert list(groups_of_size(sizes, scores)) == [[0, 1, 3], [5], [2, 4]]
    monkeypatch.setattr(segmentation, "MAX_BYTES", 4 * 4 * 400)
    assert list(groups_of_size(sizes, scores)) == [[0, 1], [3], [5], [4], [2]]
    monkeypatch.setattr(segmentation, "MAX_BYTES", 1)
    assert sorted(groups_of_size(sizes, scores)) == [[i] for i in range(6)]


def test_ignored_pixels_do_not_count():
    torch.manual_seed(0)
    part = SegmentationLoss(4, 8, 3)
    context, (semantic,) = torch.randn(1, 4, 2, 2), labels_of((16, 16), ignored=0.0)
    semantic[:, 8:] = IGNORED
    left = semantic.clone()
    left[0, 0] = IGNORED
    whole, less = (part(context, [m])["loss_segmentation"] for m in (semantic, left))
    scores = part.upsample(part.classify(context))[0, :, 0, 0]
    first = -F.log_softmax(scores, 0)[int(semantic[0, 0])]
    torch.testing.assert_close(whole * 128 - less * 127, first)


@pytest.mark.parametrize("learned", [False, True])
def test_without_a_labeled_pixel_the_loss_is_zero_with_gradients(learned):
    """A parameter without a gradient would stop distributed training."""
    part = SegmentationLoss(4, 8, 3, learned_upsampling=learned)
    context = torch.randn(2, 4, 2, 2, requires_grad=True)
    loss = part(context, [torch.full((16, 16), IGNORED, dtype=torch.uint8)] * 2)["loss_segmentation"]
    assert loss.item() == 0
    loss.backward()
    assert all((p.grad == 0).all() for p in (*part.parameters(), context))


def test_the_bilinear_start_by_hand():
    assert bilinear_kernel(1).tolist() == [[1.0]]
    ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(bilinear_kernel(2), ramp[:, None] * ramp)
    assert torch.allclose(bilinear_kernel(3).sum(0), 3 * torch.tensor([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]))
    assert bilinear_kernel(16).shape == (32, 32)
    x = torch.tensor([[[[0.0, 8.0]]]])
    assert Upsample(1, 4, False)(x)[0, 0, 0].tolist() == [0, 0, 1, 3, 5, 7, 8, 8]


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("learned", [False, True])
def test_the_upsampling_starts_as_interpolation_of_each_channel(factor, learned):
    x = torch.randn(2, 3, 4, 5)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(Upsample(3, factor, learned)(x), expected, rtol=1e-5, atol=1e-6)


def test_only_a_learned_upsampling_is_kept_and_trained():
    fixed, learned = (SegmentationLoss(4, 16, 20, learned_upsampling=flag) for flag in (False, True))
    assert set(fixed.state_dict()) == {"classify.weight", "classify.bias"}
    assert set(learned.state_dict()) == {"classify.weight", "classify.bias", "upsample.weight"}
    assert learned.upsample.weight.shape == (21, 1, 32, 32)
    assert len(list(fixed.parameters())) == 2 and len(list(learned.parameters())) == 3


def test_a_coarser_grid_takes_the_label_in_the_middle_of_its_squares():
    torch.manual_seed(0)
    part = SegmentationLoss(4, 8, 3, output_stride=2)
    fine = SegmentationLoss(4, 4, 3)
    fine.load_state_dict(part.state_dict())
    (semantic,) = labels_of((15, 13))
    context = torch.randn(1, 4, 2, 2)
    expected = fine(context, [semantic[1::2, 1::2]])["loss_segmentation"]
    assert torch.equal(part(context, [semantic])["loss_segmentation"], expected)


def test_it_is_float32_under_mixed_precision():
    torch.manual_seed(0)
    part = SegmentationLoss(4, 8, 3, learned_upsampling=True)
    context, semantic = torch.randn(1, 4, 2, 2), labels_of((16, 16))
    exact = part(context, semantic)["loss_segmentation"]
    seen = []
    part.upsample.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = part(context.bfloat16(), semantic)["loss_segmentation"]
    assert loss.dtype == torch.float32 and seen == [torch.float32]
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("output_stride", [3, 32])
def test_a_grid_that_does_not_fit_is_refused(output_stride):
    with pytest.raises(UserError, match=f"output_stride={output_stride}: must divide the context's stride, 16"):
        SegmentationLoss(4, 16, 3, output_stride=output_stride)
    with pytest.raises(UserError, match="segmentation.output_stride=0: must be at least 1"):
        from_plain(partial(SegmentationLoss, output_stride=0), partial[SegmentationLoss], "segmentation")


def test_maps_are_resized_as_the_data_pipeline_does():
    rng = np.random.default_rng(0)
    for _ in range(50):
        old, new = (tuple(rng.integers(1, 60, 2).tolist()) for _ in range(2))
        labels = rng.integers(0, 255, old, dtype=np.uint8)
        (found,) = semantic_maps([{"semantic": torch.from_numpy(labels)}], [old], [new])
        assert (found.numpy() == naive_resize(labels, *new)).all() and found.dtype == torch.uint8


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ({}, r"targets\[1\] has no 'semantic'.*masks=load_masks.*detector.segmentation=none"),
        ({"semantic": torch.zeros(5, 4)}, r"targets\[1\]\['semantic'\] has the shape \(5, 4\).* \(4, 5\)"),
        ({"semantic": torch.zeros(1, 4, 5)}, r"has the shape \(1, 4, 5\)"),
    ],
)
def test_a_map_that_is_missing_or_of_another_size_is_told(target, sentence):
    with pytest.raises(UserError, match=sentence):
        semantic_maps([{"semantic": torch.zeros(4, 5)}, target], [(4, 5), (4, 5)], [(4, 5), (8, 10)])


SEGMENTED = {
    "context": partial(ConvStack, hidden_channels=8, num_layers=1),
    "context_source": "c3",
    "segmentation": partial(SegmentationLoss),
}


def segmented_config(folder, *overrides):
    """The tiny run with a context and the regularizer on it."""
    config = tiny_config(folder)
    detector = dataclasses.replace(config.detector, **SEGMENTED)
    return override(dataclasses.replace(config, detector=detector), overrides)


def log_lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("extra", [(), ("ema=0.9", "data.masks=boxes")])
def test_a_run_learns_from_masks_and_goes_on_where_it_stopped(shapes, tmp_path, monkeypatch, capsys, extra):
    config = segmented_config(shapes, "validation_loss=true", "data.augmentation.jitter=0.5", *extra)
    train(config, tmp_path / "unbroken", Accelerator(cpu=True))
    said = capsys.readouterr().out
    assert ("every box, filled (data.masks=boxes)" in said) == ("data.masks=boxes" in extra)

    import detection.training.run as training

    real = training.evaluate_epoch

    def stop_in_the_second_epoch(job, log):
        if job.done.epoch == 2:
            raise KeyboardInterrupt
        real(job, log)

    monkeypatch.setattr(training, "evaluate_epoch", stop_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", Accelerator(cpu=True))
    monkeypatch.setattr(training, "evaluate_epoch", real)
    train(open_config(tmp_path / "broken"), tmp_path / "broken", Accelerator(cpu=True), resume=True)

    lines = [
        [{k: v for k, v in line.items() if k != "images_per_s"} for line in log_lines(tmp_path / name)]
        for name in ("unbroken", "broken")
    ]
    assert lines[0] == lines[1]
    updates = [line for line in lines[0] if "lr" in line]
    assert len(updates) == 8 and all(math.isfinite(line["loss_segmentation"]) for line in updates)
    parts = [k for k in updates[0] if k.startswith("loss_")]
    assert sum(updates[0][k] for k in parts) == pytest.approx(updates[0]["loss"], rel=1e-4)
    assert all(line["val_loss"] > 0 for line in lines[0] if "AP" in line)
    weights = [load_file(tmp_path / n / "checkpoints/last/model.safetensors") for n in ("unbroken", "broken")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert "segmentation.classify.weight" in weights[0]
    detector, _, _ = open_run(tmp_path / "broken")
    assert isinstance(detector.segmentation, SegmentationLoss)


def test_the_regularizer_learns(shapes, tmp_path):
    config = segmented_config(shapes, "schedule.epochs=6", "optimizer.lr=0.05", "evaluate_every=6", "schedule.warmup=1")
    train(config, tmp_path / "run", Accelerator(cpu=True))
    values = [line["loss_segmentation"] for line in log_lines(tmp_path / "run") if "lr" in line]
    assert np.mean(values[-4:]) < 0.6 * np.mean(values[:2])


def test_without_masks_a_run_stops_before_it_begins(shapes, tmp_path):
    for split in ("train", "val"):
        data = json.loads((shapes / f"{split}.json").read_text())
        for annotation in data["annotations"]:
            del annotation["segmentation"]
        (tmp_path / f"{split}.json").write_text(json.dumps(data))
    keys = [f"data.{split}.annotations={tmp_path / split}.json" for split in ("train", "val")]
    with pytest.raises(UserError, match=r"train.json: annotation 1 has no 'segmentation'.*set data.masks=boxes"):
        train(segmented_config(shapes, *keys), tmp_path / "run", Accelerator(cpu=True))
    assert not (tmp_path / "run").exists()
    train(
        segmented_config(shapes, *keys, "data.masks=boxes", "schedule.epochs=1"),
        tmp_path / "run",
        Accelerator(cpu=True),
    )
    train(override(tiny_config(shapes), [*keys, "schedule.epochs=1"]), tmp_path / "plain", Accelerator(cpu=True))


def test_the_validation_split_needs_masks_only_for_its_loss(shapes, tmp_path):
    data = json.loads((shapes / "val.json").read_text())
    data["annotations"][0]["segmentation"] = []
    (tmp_path / "val.json").write_text(json.dumps(data))
    config = segmented_config(shapes, f"data.val.annotations={tmp_path / 'val.json'}", "schedule.epochs=1")
    train(config, tmp_path / "run", Accelerator(cpu=True))
    for overrides in (["validation_loss=true"], ["best_metric=val_loss"]):
        with pytest.raises(UserError, match="val.json: annotation 1 has no 'segmentation'"):
            train(override(config, overrides), tmp_path / "other", Accelerator(cpu=True))


@pytest.mark.parametrize("where", ["config", "builder"])
def test_a_regularizer_without_a_context_is_refused(shapes, where):
    config = segmented_config(shapes)
    with pytest.raises(UserError, match="detector.segmentation: is a loss on the context's map, but detector.context"):
        if where == "config":
            override(config, ["detector.context=none"])
        else:
            build_detector(dataclasses.replace(config.detector, context=None), 3)
    assert override(config, ["detector.context=none", "detector.segmentation=none"]).detector.segmentation is None


def test_its_settings_are_overrides(shapes):
    config = segmented_config(shapes, "data.masks=boxes", "detector.segmentation.weight=2", "detector.min_size=64")
    assert config.data.masks == "boxes" and config.detector.segmentation.keywords == {"weight": 2.0}
    with pytest.raises(UserError, match=r"data.masks=box: must be one of polygons, boxes \(did you mean boxes\?\)"):
        override(config, ["data.masks=box"])
