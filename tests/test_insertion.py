"""A context on a trained detector: a no-op at first, trained from the second step on."""

import dataclasses
from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from detection.backbones import FPN, ResNet, Tiny
from detection.cells import LSTM
from detection.config import Config, DetectorConfig, to_plain
from detection.context import ConvStack, SpatialRNN
from detection.detector import build_detector
from detection.errors import UserError
from detection.heads import FastRCNN, SequenceHead
from detection.insertion import add_context, with_context
from detection.pooling import RoIAlign, SkipPool, Source
from detection.pretrained import from_torchvision, to_torchvision
from detection.regions import RPN
from detection.weights import load_state
from tests.tiny_runs import DETECTOR


@pytest.fixture(scope="module")
def torchvision_model():
    torch.manual_seed(0)
    build = torchvision.models.detection.fasterrcnn_resnet50_fpn
    return build(weights=None, weights_backbone=None, num_classes=91, min_size=96, max_size=160).eval()


def ours(theirs):
    config = DetectorConfig(
        backbone=partial(FPN, body=partial(ResNet, depth=50, weights=None)),
        regions=partial(RPN),
        pool=partial(RoIAlign),
        head=partial(FastRCNN, batch_size_per_image=64),
        min_size=96,
        max_size=160,
    )
    detector = build_detector(config, 90)
    load_state(detector, from_torchvision(theirs.state_dict()), "torchvision", at_least=1.0)
    return detector.eval()


def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 110, 150, generator=generator), torch.rand(3, 90, 70, generator=generator)]


def assert_equal_detections(expected, found):
    assert all(len(e["boxes"]) > 0 for e in expected)
    for e, f in zip(expected, found, strict=True):
        for key in ("boxes", "labels", "scores"):
            assert torch.equal(e[key], f[key]), key


@pytest.mark.parametrize("source", ["p4", "c5"])
def test_torchvisions_detections_stay_bit_equal(torchvision_model, source):
    detector = add_context(ours(torchvision_model), partial(SpatialRNN, hidden_channels=32), source)
    with torch.no_grad():
        assert_equal_detections(torchvision_model(images()), detector(images()))


def test_the_context_gets_gradients_after_the_first_step(torchvision_model):
    detector = add_context(ours(torchvision_model), partial(SpatialRNN, hidden_channels=32), "p4").train()
    targets = [{"boxes": torch.tensor([[5.0, 5, 60, 70]]), "labels": torch.tensor([k])} for k in (1, 90)]
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    seen = []
    for _ in range(2):
        torch.manual_seed(0)
        optimizer.zero_grad()
        sum(detector(images(), targets).values()).backward()
        seen.append(sum(p.grad.abs().sum().item() for p in detector.context.parameters()))
        assert detector.pool.reduce.weight.grad[:, 256:].abs().sum() > 0
        nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
    assert seen[0] == 0 and seen[1] > 0


def test_a_tiny_detector_with_any_context_stays_the_same_and_saves():
    torch.manual_seed(0)
    plain = build_detector(DETECTOR, 3).eval()
    image = [torch.rand(3, 64, 64)]
    with torch.no_grad():
        expected = plain(image)
        detector = add_context(plain, partial(ConvStack, hidden_channels=8), "c3", norm=None)
        assert_equal_detections(expected, detector(image))
    assert detector is plain and not detector.context.training
    assert {n.split(".")[0] for n in detector.state_dict()} == {"backbone", "context", "head", "pool", "regions"}


def test_a_pool_of_several_sources_takes_one_more():

    torch.manual_seed(0)
    sources = (Source(("c2",), norm="channels"), Source(("c3",), box_scale=1.5, norm="region"))
    pool = partial(SkipPool, sources=sources, out_channels=9, output_size=3, amplitude=(2.0, 3.0))
    plain = build_detector(dataclasses.replace(DETECTOR, pool=pool), 3).eval()
    with torch.no_grad():
        image = [torch.rand(3, 64, 64)]
        expected = plain(image)
        add_context(plain, partial(SpatialRNN, hidden_channels=8, cell=partial(LSTM)), "c2")
        assert_equal_detections(expected, plain(image))
    assert [part.amplitude[0].item() for part in plain.pool.parts] == [2, 3, 1]


def test_what_does_not_fit_gets_one_sentence():
    detector = build_detector(DETECTOR, 3)
    with pytest.raises(UserError, match="there is no feature map 'p9'"):
        add_context(detector, partial(SpatialRNN, hidden_channels=8), "p9")
    for context, words in (
        (partial(SpatialRNN, hiden_channels=8), ".hiden_channels: .*SpatialRNN has no such setting; did you mean"),
        (partial(SpatialRNN, hidden_channels=0), ".hidden_channels=0: must be"),
        (SpatialRNN(16, hidden_channels=8), "must be the name of a Context"),
        ("spatial", "spatial"),
        (partial(nn.Linear, out_features=3), "Linear"),
    ):
        with pytest.raises(UserError, match=f"^add_context context.*{words}"):
            add_context(detector, context, "c3")
    with pytest.raises(UserError, match="add_context norm=channel: must be one of channels, region, or none"):
        add_context(detector, partial(SpatialRNN, hidden_channels=8), "c3", norm="channel")
    with pytest.raises(UserError, match=r"pool.sources\[0\].norm='channel': must be 'channels', 'region' or None"):
        SkipPool({"c2": 8}, {"c2": 4}, sources=(Source(("c2",), norm="channel"),))
    assert detector.context is None
    add_context(detector, partial(SpatialRNN, hidden_channels=8), "c3")
    with pytest.raises(UserError, match="has a context already"):
        add_context(detector, partial(SpatialRNN, hidden_channels=8), "c3")
    other = build_detector(DETECTOR, 3)
    other.pool = nn.Identity()
    with pytest.raises(UserError, match="the pool is a Identity"):
        add_context(other, partial(SpatialRNN, hidden_channels=8), "c3")


def test_another_librarys_detector_and_a_whole_config_are_refused(torchvision_model):
    context = partial(SpatialRNN, hidden_channels=8)
    with pytest.raises(UserError, match=r"needs a detection.Detector, not a torchvision\.\S+\.FasterRCNN; build ours"):
        add_context(torchvision_model, context, "0")
    with pytest.raises(UserError, match="needs a DetectorConfig, such as config.detector, not a Config"):
        with_context(Config(DETECTOR), context, "c3")


def test_weights_go_back_to_torchvisions_names(torchvision_model):
    theirs = torchvision_model.state_dict()
    back = to_torchvision(ours(torchvision_model).state_dict())
    assert set(back) == set(theirs) and all(torch.equal(back[name], weight) for name, weight in theirs.items())


@pytest.mark.parametrize("amplitude", [3.0, (3.0,)])
def test_a_skip_pool_keeps_its_settings(amplitude):
    settings = {
        "sources": (Source(("c2",)), Source(("c3",), 1.5, "channels")),
        "out_channels": 12,
        "output_size": 5,
        "sampling_ratio": 1,
        "canonical_scale": 40,
        "amplitude": amplitude,
        "learned_amplitude": False,
        "reference": ("c3",),
    }
    detector = build_detector(dataclasses.replace(DETECTOR, pool=partial(SkipPool, **settings)), 3)
    old = detector.pool
    with torch.no_grad():
        old.parts[1].amplitude.fill_(7.0)
    pool = add_context(detector, partial(ConvStack, hidden_channels=4), "c3").pool
    assert (pool.output_size, pool.out_channels, pool.reference) == (5, 12, ("c3",))
    assert pool.align_settings == old.align_settings and pool.parts[1].box_scale == 1.5
    assert [name for name, _ in pool.named_parameters()] == ["reduce.weight", "reduce.bias"]  # no amplitude is learned
    assert (pool.parts[1].amplitude == 7.0).all()
    assert (pool.parts[2].amplitude == (3.0 if isinstance(amplitude, float) else 1.0)).all()


def test_a_roi_align_keeps_its_settings():
    """On these levels boxes of 40 pixels part; at torchvision's scale of 224 all would be read from the finer one."""
    torch.manual_seed(0)
    pool = partial(
        RoIAlign, stages=("c2", "c3"), output_size=5, sampling_ratio=1, canonical_scale=40, canonical_level=3
    )
    config = dataclasses.replace(DETECTOR, backbone=partial(Tiny, channels=(8, 8)), pool=pool)
    detector = build_detector(config, 3)
    old = detector.pool
    features = {name: torch.randn(1, 8, 64 // s, 64 // s) for name, s in (("c2", 4), ("c3", 8))}
    boxes = [torch.tensor([[1.0, 1, 21, 21], [2, 2, 32, 40], [0, 0, 44, 44], [3, 3, 63, 63], [5, 5, 13, 14]])]
    expected = old(features, boxes, [(64, 64)])
    new = add_context(detector, partial(ConvStack, hidden_channels=4), "c3").pool
    features["context"] = torch.randn(1, 4, 8, 8)
    assert torch.equal(new(features, boxes, [(64, 64)]), expected)


def test_only_classes_read_a_context_in_settings():
    torch.manual_seed(0)
    settings = with_context(DETECTOR, partial(SpatialRNN, hidden_channels=8), "c2")
    plain, changed = to_plain(DETECTOR), to_plain(settings)
    assert {key for key in plain if plain[key] != changed[key]} == {"context", "context_source", "head"}
    detector = build_detector(settings, 3).eval()
    pool = detector.head.global_pool
    assert detector.context_source == "c2" and pool.sources == (Source(("context",), norm="channels"),)
    assert (pool.output_size, detector.head.global_channels) == (3, 16)
    predictor, seen = detector.head.fast_rcnn.roi_heads.box_predictor, []
    for scores in (predictor.cls_score, predictor.bbox_pred):
        scores.register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad():
        noise = torch.rand(1, 3, 64, 64)
        detector(list(noise))
        detector.context.convs[-1].weight.neg_()
        detector(list(noise))
    logits, deltas, other_logits, other_deltas = seen
    assert torch.equal(deltas, other_deltas) and not torch.allclose(logits, other_logits)


def test_a_class_stands_for_a_partial_of_it():
    settings = with_context(dataclasses.replace(DETECTOR, head=FastRCNN), partial(SpatialRNN, hidden_channels=8), "c2")
    assert build_detector(settings, 3).head.global_channels == 1024


def test_a_reference_of_the_heads_own_pool_is_refused():
    """It was never measured, and the amplitude stayed 1."""
    settings = with_context(DETECTOR, partial(SpatialRNN, hidden_channels=8), "c2")
    keywords = settings.head.keywords
    pool = partial(keywords["global_pool"], reference=("c3",))
    head = partial(settings.head.func, **{**keywords, "global_pool": pool})
    with pytest.raises(UserError, match=r"head.global_pool.reference: is measured for the detector's own pool alone"):
        build_detector(dataclasses.replace(settings, head=head), 3)


def test_a_head_of_another_kind_and_a_second_context_are_refused():
    context = partial(SpatialRNN, hidden_channels=8)
    with pytest.raises(UserError, match="with_context: the detector has a context already"):
        with_context(with_context(DETECTOR, context, "c3"), context, "c3")
    with pytest.raises(UserError, match="the head is a SequenceHead; it must be FastRCNN"):
        with_context(dataclasses.replace(DETECTOR, head=partial(SequenceHead)), context, "c3")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_context_is_of_the_detectors_type(dtype):
    detector = add_context(build_detector(DETECTOR, 3).to(dtype), partial(ConvStack, hidden_channels=4), "c2")
    assert {p.dtype for p in detector.parameters()} == {dtype}


def test_amplitudes_of_each_source_and_a_context_without_norm():
    sources = (Source(("c2",), norm="channels"), Source(("c3",), norm="region"))
    pool = partial(SkipPool, sources=sources, out_channels=9, output_size=3, amplitude=(2.0, 3.0))
    plain = build_detector(dataclasses.replace(DETECTOR, pool=pool), 3)
    parts = add_context(plain, partial(ConvStack, hidden_channels=4), "c2", norm=None).pool.parts
    assert [part.amplitude[0].item() for part in parts[:2]] == [2, 3] and not hasattr(parts[2], "amplitude")


def test_a_context_is_read_at_the_stride_of_its_map():
    detector = add_context(build_detector(DETECTOR, 3), partial(ConvStack, hidden_channels=4), "c3", norm=None)
    pool = detector.pool
    channels = pool.reduce.in_channels - 4
    with torch.no_grad():
        pool.reduce.weight.zero_()
        pool.reduce.weight[:4, channels:, 0, 0] = torch.eye(4)
    boxes = [torch.tensor([[8.0, 8, 40, 40]])]
    features = {"c2": torch.zeros(1, 8, 16, 16), "c3": torch.zeros(1, 16, 8, 8)}
    features["context"] = torch.arange(8.0).expand(1, 4, 8, 8)
    found = pool(features, boxes, [(64, 64)])[0, 0]
    torch.testing.assert_close(found.mean(), torch.tensor(3.0))


def test_bins_of_a_context_in_settings():
    detector = build_detector(with_context(DETECTOR, partial(ConvStack, hidden_channels=4), "c2", output_size=5), 3)
    assert detector.head.global_pool.output_size == 5
