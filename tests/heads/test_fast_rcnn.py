"""The head's two layers from VGG's, against torchvision's own classifier; nothing is downloaded."""

import dataclasses
from functools import partial

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.models.detection.roi_heads import fastrcnn_loss

from detection.backbones import VGG16
from detection.contracts import PooledRegions
from detection.detector import build_detector
from detection.errors import UserError
from detection.heads import FastRCNN, fast_rcnn
from detection.ops.box_matching import crowded
from detection.ops.ragged import Ragged
from detection.pooling import RoIAlign
from detection.pretrained import load_pretrained
from detection.regions import RPN
from detection.weights import LoadReport
from tests.sampling import torchvisions_sampler
from tests.tiny_runs import DETECTOR

NAME = "VGG16_Weights.IMAGENET1K_V1"


def make_classifier(inputs=8 * 9, hidden=16):
    """Laid out as torchvision's `vgg16().classifier`, but small."""
    torch.manual_seed(1)
    layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(hidden, 5)).eval()


def as_state(classifier, **others):
    return {**{f"classifier.{name}": t for name, t in classifier.state_dict().items()}, **others}


def write(path, state):
    save_file({name: t.contiguous() for name, t in state.items()}, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_layers_compute_what_vggs_do(tmp_path, suffix):
    classifier, path = make_classifier(), tmp_path / f"vgg{suffix}"
    state = as_state(classifier, **{"features.0.weight": torch.zeros(2)})
    write(path, state) if suffix == ".safetensors" else torch.save(state, path)
    head = FastRCNN(8, 3, 2, hidden_channels=16, weights=str(path))
    scores = head.roi_heads.box_predictor.cls_score.weight.clone()
    report = head.load_pretrained()
    assert sorted(report.loaded) == ["fc6.bias", "fc6.weight", "fc7.bias", "fc7.weight"]
    assert not report.missing and not report.resized and not report.unexpected and str(path) in report.source
    descriptors = torch.randn(6, 8, 3, 3)
    expected = classifier[:5](torch.flatten(descriptors, 1))
    torch.testing.assert_close(head.roi_heads.box_head(descriptors), expected, rtol=0, atol=0)
    assert torch.equal(head.roi_heads.box_predictor.cls_score.weight, scores)


def test_names_and_sizes_are_those_of_torchvisions_vgg16():
    with torch.device("meta"):
        theirs = torchvision.models.vgg16().state_dict()
        ours = FastRCNN(512, 7, 20, hidden_channels=4096).roi_heads.box_head.state_dict()
    for layer, name in {"classifier.0": "fc6", "classifier.3": "fc7"}.items():
        for kind in ("weight", "bias"):
            assert ours[f"{name}.{kind}"].shape == theirs[f"{layer}.{kind}"].shape


def test_nothing_is_read_until_a_new_detector_is_filled(monkeypatch):
    read = []
    monkeypatch.setattr(fast_rcnn, "read_state", lambda name: read.append(name) or as_state(make_classifier()))
    head = FastRCNN(8, 3, 2, hidden_channels=16, weights=NAME)
    assert read == []
    assert head.load_pretrained().source == f"head {NAME}" and read == [NAME]
    assert FastRCNN(8, 3, 2).load_pretrained() is None


def test_layers_of_other_sizes_get_one_sentence(tmp_path):
    path = write(tmp_path / "vgg.safetensors", as_state(make_classifier()))
    for settings in ({"hidden_channels": 12}, {"hidden_channels": 16, "size": 4}):
        size = settings.pop("size", 3)
        head = FastRCNN(8, size, 2, weights=path, **settings)
        before = {name: t.clone() for name, t in head.state_dict().items()}
        with pytest.raises(UserError, match="are layers 72→16 and 16→16, here they are") as error:
            head.load_pretrained()
        assert "hidden_channels=4096" in str(error.value) and "\n" not in str(error.value)
        assert all(torch.equal(t, before[name]) for name, t in head.state_dict().items())


def test_files_without_trained_layers_get_one_sentence(tmp_path):
    """Torchvision's IMAGENET1K_FEATURES holds a classifier without values."""
    empty = as_state(make_classifier())
    empty["classifier.3.weight"] = torch.full_like(empty["classifier.3.weight"], torch.nan)
    only_features = {"features.0.weight": torch.zeros(2)}
    for i, state in enumerate((empty, only_features)):
        head = FastRCNN(8, 3, 2, hidden_channels=16, weights=write(tmp_path / f"{i}.safetensors", state))
        with pytest.raises(UserError, match="have no trained classifier.0 and classifier.3"):
            head.load_pretrained()


def test_a_head_with_convolutions_takes_no_such_weights():
    with pytest.raises(UserError, match=r"set head.convs=\(\)"):
        FastRCNN(8, 3, 2, convs=(8,), weights=NAME)


def test_backbone_and_head_are_filled_from_one_file(tmp_path):
    path = str(tmp_path / "vgg16.safetensors")
    config = dataclasses.replace(
        DETECTOR,
        backbone=partial(VGG16, weights=path),
        regions=partial(RPN, stages=("c4",), anchor_sizes=((12, 24),)),
        pool=partial(RoIAlign, stages=("c4",)),
        head=partial(FastRCNN, hidden_channels=16, weights=path),
    )
    detector = build_detector(config, 3)
    features = {name: t + 1 for name, t in detector.backbone.state_dict().items()}
    classifier = make_classifier(512 * 49)
    write(path, as_state(classifier, **features))
    reports = load_pretrained(detector, None)
    assert [report.source for report in reports] == [path, f"head {path}"]
    assert torch.equal(detector.backbone.features[0].weight, features["features.0.weight"])
    assert torch.equal(detector.head.roi_heads.box_head.fc7.weight, classifier[3].weight)


@pytest.mark.parametrize("source", [None, "VGG16_Weights.IMAGENET1K_FEATURES", "VGG16_Weights.IMAGENET1K_V1"])
def test_a_head_of_another_training_than_the_backbone_gets_one_sentence(monkeypatch, source):
    head = partial(DETECTOR.head.func, **DETECTOR.head.keywords, weights=NAME)
    detector = build_detector(dataclasses.replace(DETECTOR, head=head), 3)
    loaded = None if source is None else LoadReport(source, [], [], [], [])
    monkeypatch.setattr(detector.backbone, "load_pretrained", lambda: loaded)
    monkeypatch.setattr(fast_rcnn, "read_state", lambda name: as_state(make_classifier(16 * 9)))
    if source == NAME:
        assert load_pretrained(detector, None)[0] is loaded
        return
    with pytest.raises(UserError, match=f"training that the backbone comes from, .* {source or 'a random start'};"):
        load_pretrained(detector, None)


def test_detections_have_an_area_and_are_the_best_of_an_image():
    """One class on four proposals without deltas, with sides of half a pixel and of a thousandth; then two of three."""
    boxes = [torch.tensor([[10.0, 0, 10.5, 20], [20, 0, 20.001, 20], [30, 0, 35, 5], [40, 0, 45, 5]])]
    scores = torch.tensor([0.6, 0.7, 0.9, 0.8])
    probabilities = torch.stack([1 - scores, scores], 1)
    for most, best in ((100, [2, 3, 0]), (2, [2, 3])):
        head = FastRCNN(1, 1, 1, hidden_channels=2, detections_per_image=most)
        (found,) = head.select(head.decode(probabilities, torch.zeros(4, 2, 4), boxes, [(64, 64)]))
        assert torch.equal(found["boxes"], boxes[0][best]) and torch.equal(found["scores"], scores[best])


def test_the_whole_detectors_weights_go_before_the_heads(tmp_path):
    head = partial(DETECTOR.head.func, **DETECTOR.head.keywords, weights=NAME)
    detector = build_detector(dataclasses.replace(DETECTOR, head=head), 3)
    path = write(tmp_path / "whole.safetensors", detector.state_dict())
    (report,) = load_pretrained(detector, path)
    assert not report.missing and not report.unexpected


def proposals(count, seed):
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 80
    return torch.cat([corners, corners + 20], dim=1)


CROWD = torch.tensor([[0.0, 0, 60, 60]])


@pytest.mark.parametrize("ignored", [{}, {"ignored": CROWD}])
@pytest.mark.parametrize("seed", range(5))
def test_samples_and_losses_are_torchvisions_with_its_draw(ignored, seed, monkeypatch):
    boxes = [proposals(60, seed), proposals(50, seed + 9), proposals(7, seed + 19), proposals(9, 1)[:0]]
    truth = proposals(60, seed)[:3] + 2
    targets = [
        {"boxes": truth, "labels": torch.tensor([1, 2, 1]), **ignored},
        {"boxes": truth[:0], "labels": torch.tensor([], dtype=torch.int64)},
        {"boxes": proposals(30, 3), "labels": torch.arange(30) % 2 + 1},
        {"boxes": truth[:1], "labels": torch.tensor([2])},
    ]
    head = FastRCNN(4, 3, 2, hidden_channels=8, batch_size_per_image=24, ignore_crowd=None)
    heads = head.roi_heads
    heads.fg_bg_sampler = torchvisions_sampler(monkeypatch, heads.fg_bg_sampler)
    sampled, samples = head.sample(list(boxes), targets)
    theirs, _, labels, deltas = heads.select_training_samples(list(boxes), targets)
    assert all(torch.equal(a, b) for a, b in zip(sampled, theirs, strict=True))
    positive = samples.labels > 0
    assert torch.equal(samples.labels, torch.cat(labels)) and positive.sum() > 10
    assert torch.equal(samples.deltas[positive], torch.cat(deltas)[positive])
    regions = PooledRegions(torch.randn(len(positive), 4, 3, 3), sampled, [(100, 100)] * 4)
    _, losses = head(regions, samples)
    expected = fastrcnn_loss(*head.logits_and_deltas(regions), labels, deltas)
    gradients = [torch.autograd.grad(sum(own), head.parameters()) for own in (losses.values(), expected)]
    for a, b in zip([*losses.values(), *gradients[0]], [*expected, *gradients[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_background_in_a_crowd_is_not_sampled():
    boxes, truth = proposals(60, 0), proposals(60, 0)[:3] + 2
    targets = [{"boxes": truth, "labels": torch.tensor([1, 2, 1]), "ignored": CROWD}]
    for share, expected in ((None, True), (0.7, False)):
        head = FastRCNN(4, 3, 2, hidden_channels=8, batch_size_per_image=100, ignore_crowd=share)
        (own,), samples = head.sample([boxes], targets)
        background = own[samples.labels == 0]
        assert crowded(background[None], Ragged.of([CROWD]), 0.7).any() == expected and len(background) > 5
        assert (samples.labels > 0).sum() >= 6
