"""The five parts in a row, against torchvision's Faster R-CNN and by themselves."""

import dataclasses
import inspect
from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from detection.backbones import FPN, ResNet, Tiny
from detection.config import DetectorConfig
from detection.context import ConvStack
from detection.contracts import Context
from detection.detector import build_detector, valid_mask
from detection.errors import UserError
from detection.heads import FastRCNN
from detection.inference import InferenceConfig
from detection.ops import sampling
from detection.part_outputs import merge_losses, require_detections, require_regions
from detection.pooling import RoIAlign
from detection.pretrained import from_torchvision, load_pretrained, select_coco_classes
from detection.regions import RPN
from detection.segmentation import SegmentationLoss
from detection.weights import load_state
from tests.sampling import torchvisions_sampler
from tests.tiny_runs import DETECTOR

RESNET50_FPN = DetectorConfig(
    backbone=partial(FPN, body=partial(ResNet, depth=50, weights=None)),
    regions=partial(RPN),
    pool=partial(RoIAlign),
    head=partial(FastRCNN),
    min_size=96,
    max_size=160,
)
RESNET50_FPN_V2 = dataclasses.replace(
    RESNET50_FPN,
    backbone=partial(FPN, body=partial(ResNet, depth=50, weights=None), norm="batch"),
    regions=partial(RPN, conv_depth=2, post_nms_top_n=(200, 100)),
    head=partial(FastRCNN, convs=(256, 256, 256, 256), norm="batch", batch_size_per_image=64),
)
FEW_PROPOSALS = {"rpn_post_nms_top_n_train": 200, "rpn_post_nms_top_n_test": 100, "box_batch_size_per_image": 64}
"""Its head of four convolutions takes ten seconds for as many as there are left alone."""
TWO_MODELS = {
    "fasterrcnn_resnet50_fpn": (RESNET50_FPN, {}),
    "fasterrcnn_resnet50_fpn_v2": (RESNET50_FPN_V2, FEW_PROPOSALS),
}


def test_defaults_are_torchvisions():
    theirs = defaults(torchvision.models.detection.FasterRCNN)
    rpn, head, config = defaults(RPN), defaults(FastRCNN), defaults(DetectorConfig)
    assert {name: config[name] for name in ("min_size", "max_size")} == {"min_size": 800, "max_size": 1333}
    for ours, name in {
        "nms_threshold": "nms_thresh", "foreground_iou": "fg_iou_thresh", "background_iou": "bg_iou_thresh",
        "batch_size_per_image": "batch_size_per_image", "positive_fraction": "positive_fraction",
    }.items():  # fmt: skip
        assert (rpn[ours], head[ours]) == (theirs[f"rpn_{name}"], theirs[f"box_{name}"]), ours
    for name in ("pre_nms_top_n", "post_nms_top_n"):
        assert rpn[name] == (theirs[f"rpn_{name}_train"], theirs[f"rpn_{name}_test"])
    assert head["score_threshold"] == theirs["box_score_thresh"]
    assert head["detections_per_image"] == theirs["box_detections_per_img"]


def defaults(function):
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


@pytest.fixture(scope="module", params=TWO_MODELS, ids=list(TWO_MODELS))
def pair(request):
    """torchvision's model and ours with the same (random) weights."""
    torch.manual_seed(0)
    build = getattr(torchvision.models.detection, request.param)
    config, settings = TWO_MODELS[request.param]
    theirs = build(weights=None, weights_backbone=None, num_classes=91, min_size=96, max_size=160, **settings)
    ours = build_detector(config, 90)
    report = load_state(ours, from_torchvision(theirs.state_dict()), request.param, at_least=1.0)
    assert not report.missing and not report.resized and not report.unexpected
    return theirs, ours


def batch(seed=1):
    """Two images of different sizes with their ground truth."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(3, 110, 150, generator=generator), torch.rand(3, 90, 70, generator=generator)]
    targets = [
        {"boxes": torch.tensor([[5.0, 5, 60, 70], [50, 30, 140, 100]]), "labels": torch.tensor([1, 2])},
        {"boxes": torch.tensor([[10.0, 10, 60, 80]]), "labels": torch.tensor([90])},
    ]
    return images, targets


def test_detections_are_bit_equal_to_torchvisions(pair):
    theirs, ours = (model.eval() for model in pair)
    images, _ = batch()
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    assert all(len(e["boxes"]) > 0 for e in expected)
    for e, f in zip(expected, found, strict=True):
        for key in ("boxes", "labels", "scores"):
            assert torch.equal(e[key], f[key]), key


def test_losses_are_torchvisions_with_its_draw(pair, monkeypatch):
    theirs, ours = pair
    losses = []
    for model in (ours, theirs):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0
    draws = []
    monkeypatch.setattr(sampling, "random_keys", lambda states: draws.append(torch.rand(states.shape)) or draws[-1])
    losses = ours(*batch())
    # The RPN draws first, then the head.
    for part, own in ((theirs.rpn, draws[0]), (theirs.roi_heads, draws[1])):
        monkeypatch.setattr(part, "fg_bg_sampler", torchvisions_sampler(monkeypatch, part.fg_bg_sampler, keys=own))
    expected = theirs(*batch())
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-6, atol=1e-7)


def test_weights_for_other_classes_leave_only_the_predictor_fresh(pair):
    theirs, _ = pair
    config = RESNET50_FPN_V2 if isinstance(theirs.roi_heads.box_head, nn.Sequential) else RESNET50_FPN
    report = load_state(build_detector(config, 3), from_torchvision(theirs.state_dict()), "x")
    assert sorted(report.resized) == [
        f"head.roi_heads.box_predictor.{layer}.{kind}"
        for layer in ("bbox_pred", "cls_score")
        for kind in ("bias", "weight")
    ]
    assert not report.missing and not report.unexpected


def test_coco_weights_keep_what_they_know_of_named_classes(pair):
    """Torchvision's list of 91 has person at 1 and dog at 18."""
    theirs, _ = pair
    state = from_torchvision(theirs.state_dict())
    chosen = select_coco_classes(state, ["dog", "person"])
    scores, boxes = (f"head.roi_heads.box_predictor.{layer}" for layer in ("cls_score", "bbox_pred"))
    assert torch.equal(chosen[f"{scores}.weight"], state[f"{scores}.weight"][[0, 18, 1]])
    assert torch.equal(chosen[f"{boxes}.bias"][4:8], state[f"{boxes}.bias"][72:76])
    assert select_coco_classes(state, ["platelet"]) is state


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return build_detector(DETECTOR, 3).eval()


@pytest.mark.parametrize("num_classes", [0, -1])
def test_a_detector_has_a_class(num_classes):
    with pytest.raises(UserError, match=f"num_classes: is {num_classes}, not 1 or more"):
        build_detector(DETECTOR, num_classes)


def test_uint8_images_equal_their_floats(tiny):
    image = torch.randint(0, 256, (3, 50, 64), dtype=torch.uint8)
    with torch.no_grad():
        a, b = tiny([image])[0], tiny([image.float() / 255])[0]
    assert torch.equal(a["boxes"], b["boxes"]) and torch.equal(a["scores"], b["scores"])


def test_detections_come_in_the_pixels_of_the_image_given(tiny):
    image = torch.rand(3, 40, 128)
    with torch.no_grad():
        boxes = tiny([image])[0]["boxes"]
    assert boxes[:, 0::2].max() <= 128 and boxes[:, 1::2].max() <= 40
    assert boxes[:, 2].max() > 64  # the image is 64 wide inside


@pytest.mark.parametrize("where", [0, 1, "both"])
def test_images_without_boxes_train(tiny, where):
    images, targets = batch()
    for i in (0, 1) if where == "both" else (where,):
        targets[i] = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    tiny.train()
    targets[1 - (where == 1)]["labels"].clamp_(max=3)
    targets[1]["labels"].clamp_(max=3)
    losses = tiny(images, targets)
    assert all(torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()


def test_training_resizes_only_when_asked():
    sizes = {}
    for resize in (True, False):
        detector = build_detector(DETECTOR, 3, resize_in_training=resize)
        detector.backbone.register_forward_hook(
            lambda m, args, out, resize=resize: sizes.__setitem__(resize, args[0].shape)
        )
        detector([torch.rand(3, 32, 32)], [{"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([1])}])
    assert sizes[True][-2:] == (64, 64) and sizes[False][-2:] == (32, 32)


def test_crowd_regions_are_resized_with_their_image(tiny):
    images, targets = batch()
    targets = [{**target, "labels": target["labels"].clamp(max=3)} for target in targets]
    targets[0]["ignored"] = targets[0]["boxes"].clone()
    seen = []
    hook = tiny.regions.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    tiny.train()(images, targets)
    hook.remove()
    assert torch.equal(seen[0][0]["ignored"], seen[0][0]["boxes"]) and "ignored" not in seen[0][1]
    assert torch.equal(targets[0]["ignored"], targets[0]["boxes"])
    assert not torch.equal(seen[0][0]["ignored"], targets[0]["ignored"])


def test_an_image_that_would_vanish_is_refused(tiny):
    with pytest.raises(UserError, match="300x1 pixels is too thin"):
        tiny([torch.rand(3, 1, 300)])


class Shift(Context):
    """A context for tests: counts valid cells into every channel."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = in_channels

    def forward(self, x, valid):
        return x + valid.sum((2, 3), keepdim=True)


def test_a_context_sits_between_backbone_and_pool():
    pool = partial(RoIAlign, stages=("context",), output_size=3)
    config = dataclasses.replace(DETECTOR, context=partial(Shift), context_source="c3", pool=pool)
    detector = build_detector(config, 3).eval()
    seen = {}
    detector.context.register_forward_hook(lambda m, args, out: seen.update(valid=args[1]))
    with torch.no_grad():
        detector([torch.rand(3, 64, 32), torch.rand(3, 64, 64)])
    assert seen["valid"].sum((1, 2, 3)).tolist() == [8 * 4, 8 * 8]


class OfContext(RPN):
    """Regions from outside that look the context up."""

    def __init__(self, channels, stages=("c3",), anchor_sizes=((16,),)):
        super().__init__(channels, stages=stages, anchor_sizes=anchor_sizes)
        self.known = {"context": channels["context"]}


class OfAll(RPN):
    """Regions from outside that look everything up."""

    def __init__(self, channels, stages=("c3",), anchor_sizes=((16,),)):
        super().__init__(channels, stages=stages, anchor_sizes=anchor_sizes)
        self.known = dict(channels)


@pytest.mark.parametrize("regions", [OfContext, OfAll])
def test_a_part_from_outside_may_read_the_context(regions):
    config = dataclasses.replace(DETECTOR, context=partial(ConvStack), context_source="c3", regions=partial(regions))
    detector = build_detector(config, 3)
    assert detector.regions.known["context"] == detector.context.out_channels


def segmented(**changes):
    """The tiny detector with a context, and with a segmentation loss on it unless told otherwise."""
    parts = {"context": partial(Shift), "context_source": "c3", "segmentation": partial(SegmentationLoss)}
    torch.manual_seed(0)
    return build_detector(dataclasses.replace(DETECTOR, **parts), 3, **changes)


def batch_with_maps():
    images, targets = batch()
    targets[1]["labels"].fill_(3)
    for image, target in zip(images, targets, strict=True):
        target["semantic"] = torch.zeros(image.shape[1:], dtype=torch.uint8)
        target["semantic"][10:60, 5:50] = target["labels"][0]
    return images, targets


def test_a_segmentation_loss_reads_the_context_in_training_only():
    detector = segmented()
    images, targets = batch_with_maps()
    features, calls = {}, []
    detector.context.register_forward_hook(lambda m, args, out: features.update(context=out))
    detector.segmentation.register_forward_hook(lambda m, args, out: calls.append(args))
    losses = detector(images, targets)
    assert losses["loss_segmentation"] > 0 and len(losses) == 5
    # Inside, the images are 47x64 and 64x49 pixels.
    (context, semantic), *_ = calls
    assert context is features["context"] and [tuple(m.shape) for m in semantic] == [(46, 64), (64, 49)]
    assert semantic[0][10, 10] == 1 and semantic[0][40, 40] == 0
    assert targets[0]["semantic"].shape == (110, 150)
    detector.eval()(images)
    assert len(calls) == 1
    assert {n for n in detector.state_dict() if n.startswith("segmentation")} == {
        "segmentation.classify.weight", "segmentation.classify.bias",
    }  # fmt: skip


def test_a_segmentation_loss_leaves_everything_else_as_it_is():
    images, targets = batch_with_maps()
    found = []
    for detector in (segmented(), segmented()):
        if found:
            detector.segmentation = None
        torch.manual_seed(1)
        losses = detector(images, targets)
        losses.pop("loss_segmentation", None)
        with torch.no_grad():
            found.append((losses, detector.eval()(images)))
    assert found[0][0] == found[1][0]
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_every_part_of_a_segmented_detector_gets_a_gradient():
    detector = segmented(resize_in_training=False)
    images, targets = batch_with_maps()
    for target in targets:
        target["semantic"].fill_(255)
    sum(detector(images, targets).values()).backward()
    assert all(p.grad is not None for p in detector.parameters())


def test_a_segmentation_loss_without_its_maps_gets_one_sentence():
    with pytest.raises(UserError, match=r"targets\[0\] has no 'semantic'"):
        images, targets = batch()
        segmented()(images, [{**target, "labels": target["labels"].clamp(max=3)} for target in targets])


def changed(part, change):
    """The tiny detector with a segmentation loss, one part of it with another result."""
    detector = segmented()
    getattr(detector, part).register_forward_hook(lambda module, inputs, output: change(output))
    return detector


def each(change):
    """A change to the detections of each image."""
    return lambda found: ([{**own, **change(own)} for own in found[0]], found[1])


REGIONS = r"detector.regions: must return a list of boxes \(N, 4\) for each of 2 images, and losses by name; .*regions"
HEAD = r"detector.head: must return a list of boxes \(n, 4\), labels .* for each of 2 images; .*check_head tries it"


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("regions", lambda found: found[0], REGIONS),
        ("regions", lambda found: ([b.tolist() for b in found[0]], found[1]), REGIONS),
        ("regions", lambda found: (found[0][:1], found[1]), REGIONS),
        ("regions", lambda found: ([b[:, [0, 1, 2, 3, 3]] for b in found[0]], found[1]), REGIONS),
        ("regions", lambda found: (*found, None), REGIONS),
        ("head", lambda found: found[0][:1], "detector.head: must return two results, detections and losses by name"),
        ("head", lambda found: found[0], HEAD),
        ("head", lambda found: (found[0][:1], found[1]), HEAD),
        ("head", lambda found: (None, found[1]), HEAD),
        ("head", lambda found: ([own["boxes"] for own in found[0]], found[1]), HEAD),
        (
            "head",
            each(lambda own: {"boxes": own["boxes"][:, None].repeat(1, 3, 1)}),
            r"boxes of image 0 must be of .*3, 4",
        ),
        ("head", each(lambda own: {"boxes": None}), r"boxes of image 0 must be of shape \(0, 4\) .* not a NoneType"),
        (
            "head",
            each(lambda own: {"labels": own["labels"][:, None]}),
            "detector.head: labels of image 0 must be of shape",
        ),
        (
            "head",
            each(lambda own: {"scores": own["scores"][:1]}),
            r"head: scores of image 0 .* not of shape \(1,\); .*head",
        ),
        ("head", each(lambda own: {"scores": own["scores"].tolist()}), "scores of image 0 must be .* not a list"),
    ],
)
def test_detections_of_other_shapes_get_one_sentence(part, change, sentence):
    detector = changed(part, change).eval()
    with pytest.raises(UserError, match=sentence), torch.no_grad():
        detector(batch()[0])


def test_refined_detections_of_other_shapes_get_one_sentence(tiny):
    tiny.inference = InferenceConfig(flip=True)
    tiny.head.select = lambda candidates, voting_iou: candidates[:1]
    with pytest.raises(UserError, match=HEAD), torch.no_grad():
        tiny(batch()[0])


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("regions", lambda found: found[0], REGIONS),
        ("regions", lambda found: (found[0], None), "detector.regions: must return its losses by name .* a NoneType"),
        ("head", lambda found: found[1]["loss_classifier"], "detector.head: must return two results"),
        ("head", lambda found: dict(found[1]), "detector.head: must return two results, detections and losses by name"),
        ("head", lambda found: ([], None), "detector.head: must return its losses by name in training, not a NoneType"),
        ("segmentation", list, "detector.segmentation: must return its losses by name in training, not a list"),
        (
            "head",
            lambda found: ([], {"loss_objectness": found[1]["loss_classifier"]}),
            "^loss_objectness: is a loss of detector.regions and of detector.head, .* rename one of them.$",
        ),
        (
            "segmentation",
            lambda losses: {"loss_objectness": losses["loss_segmentation"]},
            "^loss_objectness: is a loss of detector.regions and of detector.segmentation, .* rename one of them.$",
        ),
        (
            "head",
            lambda found: ([], {**found[1], "loss_segmentation": found[1]["loss_classifier"]}),
            "^loss_segmentation: is a loss of detector.segmentation and of detector.head, .* rename one of them.$",
        ),
    ],
)
def test_losses_that_are_not_given_by_name_or_share_one_get_one_sentence(part, change, sentence):
    with pytest.raises(UserError, match=sentence):
        changed(part, change)(*batch_with_maps())


def test_a_sample_that_is_boxes_alone_gets_one_sentence():
    detector = segmented()
    sample = detector.head.sample
    detector.head.sample = lambda boxes, targets: sample(boxes, targets)[0]
    with pytest.raises(UserError, match=r"detector.head.sample: must return a list of boxes \(N, 4\) for each of 2"):
        detector(*batch_with_maps())


def test_results_are_checked_by_shapes_alone():
    """Tensors without values would raise where one is read, for which a GPU would be waited."""
    boxes, rows = torch.zeros(3, 4, device="meta"), torch.zeros(3, device="meta")
    require_detections([{"boxes": boxes, "labels": rows, "scores": rows}] * 2, 2)
    require_detections([], 0)
    require_regions(([boxes, boxes[:0]], {}), 2)
    assert merge_losses({"regions": {"loss_a": rows.sum()}, "head": {"loss_b": rows.sum()}}).keys() == {
        "loss_a",
        "loss_b",
    }


def test_valid_mask_by_hand():
    mask = valid_mask([(16, 17), (9, 32)], 8, torch.zeros(2, 1, 4, 4))
    assert mask.shape == (2, 1, 4, 4) and mask.dtype == torch.bool
    assert mask[0, 0].int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0] * 4, [0] * 4]
    assert mask[1, 0].int().tolist() == [[1] * 4, [1] * 4, [0] * 4, [0] * 4]


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_boxes_and_losses_are_float32_under_mixed_precision(tiny, precision):
    images, targets = batch()
    targets[1]["labels"].fill_(3)
    proposals = []
    tiny.regions.register_forward_hook(lambda m, args, out: proposals.extend(out[0]))
    with torch.autocast("cpu", dtype=precision):
        detections = tiny(images)
        tiny.train()
        losses = tiny(images, targets)
    assert all(d["boxes"].dtype == d["scores"].dtype == torch.float32 for d in detections)
    assert len(proposals) == 4 and all(p.dtype == torch.float32 for p in proposals)
    assert all(v.dtype == torch.float32 and torch.isfinite(v) for v in losses.values())


def test_roi_align_uses_true_strides_on_tiny_pictures():
    """A 36-pixel image padded to 64 has 2 cells at stride 32; torchvision alone would take the stride for 16."""
    features = {"c5": torch.rand(1, 4, 2, 2)}
    pool = RoIAlign({"c5": 4}, {"c5": 32}, stages=("c5",), output_size=2)
    boxes = [torch.tensor([[0.0, 0, 30, 30]])]
    expected = torchvision.ops.roi_align(features["c5"], boxes, 2, 1 / 32, 2)
    assert torch.equal(pool(features, boxes, [(36, 36)]), expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"regions": partial(RPN, stages=("c9",), anchor_sizes=((8,),))}, "regions: there is no feature map 'c9'"),
        ({"regions": partial(RPN, stages=("c2", "c3"), anchor_sizes=((8,), (8,)))}, "different channels"),
        ({"regions": partial(RPN, stages=("c3",))}, "needs one tuple for each of the stages"),
        ({"pool": partial(RoIAlign, stages=("p2",))}, "pool.stages: there is no feature map 'p2'"),
        ({"context": partial(Shift), "context_source": "c7"}, "context: there is no feature map 'c7'"),
        ({"segmentation": partial(SegmentationLoss)}, "detector.context is None; give a context"),
        ({"context": partial(ConvStack), "context_source": "c3"}, "context: no part asks for .* nothing reads it"),
    ],
)
def test_parts_that_do_not_fit_get_one_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence):
        build_detector(dataclasses.replace(DETECTOR, **change), 3)


def test_a_backbone_waiting_for_detector_weights_is_refused_without_them():
    backbone = partial(FPN, body=partial(ResNet, depth=18, weights="detector"))
    config = dataclasses.replace(RESNET50_FPN, backbone=backbone)
    with pytest.raises(UserError, match="name them in detector.weights"):
        load_pretrained(build_detector(config, 3), None)


def test_whole_detector_weights_come_from_a_file(tmp_path, tiny):
    torch.save(tiny.state_dict(), tmp_path / "w.pth")
    other = build_detector(DETECTOR, 3)
    (report,) = load_pretrained(other, str(tmp_path / "w.pth"))
    assert not report.missing and not report.unexpected
    assert all(torch.equal(a, b) for a, b in zip(tiny.parameters(), other.parameters(), strict=True))


def test_only_modules_that_run_are_registered(tiny):
    """Idle parameters would break distributed training."""
    images, targets = batch()
    targets[1]["labels"].fill_(3)
    sum(tiny.train()(images, targets).values()).backward()
    assert all(p.grad is not None for p in tiny.parameters())


def test_tiny_is_small():
    assert sum(p.numel() for p in Tiny().parameters()) < 500_000
