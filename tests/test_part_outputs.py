"""Parts that return other shapes than they state: one sentence, where training would go on with wrong boxes."""

import dataclasses
from functools import partial

import pytest
import torch
from torch import nn

from detection.context import NoContext
from detection.detector import build_detector
from detection.errors import UserError
from detection.part_outputs import require_features
from detection.pooling import RoIAlign
from tests.tiny_runs import DETECTOR

IMAGES = [torch.rand(3, 64, 80), torch.rand(3, 70, 64)]
TARGETS = [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}] * 2


def changed(part, change):
    """A detector with one part's result changed."""
    pool = partial(RoIAlign, stages=("context",), output_size=3)
    detector = build_detector(dataclasses.replace(DETECTOR, context=NoContext, context_source="c3", pool=pool), 2)
    getattr(detector, part).register_forward_hook(lambda module, inputs, output: change(output))
    return detector


def scaled(features):
    return {**features, "c3": nn.functional.avg_pool2d(features["c3"], 2)}


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("backbone", lambda f: f["c3"], "detector.backbone: returned a Tensor, not feature maps by name"),
        ("backbone", lambda f: {"c2": f["c2"]}, "detector.backbone: out_channels states c3, but it returned c2"),
        ("backbone", lambda f: {**f, "c3": f["c3"][:, :5]}, r"detector.backbone: c3 must be of shape .*check_backbone"),
        ("backbone", scaled, r"c3 must be of shape \(2, 16, 8, 8\) by its out_channels and strides, not of shape"),
        ("context", lambda x: x[:, :, 1:-1, 1:-1], "detector.context: its map must be of shape .* not of shape"),
        ("context", lambda x: (x, x), "detector.context: its map must be of shape .* not a tuple; .*check_context"),
        ("regions", lambda found: (torch.cat(found[0]), found[1]), r"detector.regions: must return a list of boxes"),
        ("pool", lambda x: x.flatten(1), "detector.pool: descriptors must be of shape"),
        ("head", lambda found: ([], {"loss_a": found[1]["loss_classifier"][None]}), "loss_a: must be a tensor of one"),
        ("head", lambda found: ([], {"loss_a": 1.0}), "loss_a: must be a tensor of one number.* not a float"),
    ],
)
def test_what_a_part_returns_has_the_shape_that_it_states(part, change, sentence):
    with pytest.raises(UserError, match=sentence):
        changed(part, change).train()(IMAGES, TARGETS)
    if part != "head":
        with pytest.raises(UserError, match=sentence), torch.no_grad():
            changed(part, change).eval()(IMAGES)


@pytest.mark.parametrize(("height", "width"), [(1, 2), (2, 2), (2, 3)])
def test_a_map_of_a_stride_that_does_not_divide_the_batch_is_rounded_down_or_up(height, width):
    batch = torch.zeros(1, 3, 96, 160)
    found = {"p6": torch.zeros(1, 4, height, width)}
    if (height, width) == (2, 2):  # one down, one up
        with pytest.raises(UserError, match=r"p6 must be of shape \(1, 4, 2, 3\)"):
            require_features(found, {"p6": 4}, {"p6": 64}, batch)
    else:
        require_features(found, {"p6": 4}, {"p6": 64}, batch)
