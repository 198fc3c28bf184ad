"""Layers after the stages of a backbone; that it is a backbone like others is in the contract of backbones."""

import copy
from functools import partial

import pytest
import torch

from detection.backbones import FPN, VGG16, GoogLeNet, RecurrentStages, ResNet, Timm, Tiny
from detection.backbones.recurrent_stages import _Inserted
from detection.context import ConvStack, RecurrentConv, SpatialRNN
from detection.errors import UserError

BODIES = {
    "tiny": partial(Tiny, channels=(8, 16, 16)),
    "resnet18": partial(ResNet, depth=18, weights=None),
    "vgg16": partial(VGG16, weights=None),
    "googlenet": partial(GoogLeNet, weights=None),
    "lite0": partial(Timm, weights=None),
    "convnext": partial(Timm, name="convnext_atto", weights=None),
    "pyramid": partial(FPN, body=partial(Tiny, channels=(8, 16)), stages=("c2", "c3")),
}


def pair(name, **settings):
    """A backbone, and one with layers and the same weights."""
    torch.manual_seed(0)
    plain, more = BODIES[name]().eval(), RecurrentStages(BODIES[name], **settings).eval()
    more.body.load_state_dict(plain.state_dict())
    return plain, more


def perturb(backbone):
    with torch.no_grad():
        for p in backbone.layers.parameters():
            p.add_(0.05 * torch.randn_like(p))


@torch.no_grad()
@pytest.mark.parametrize("name", BODIES)
def test_any_backbone_is_unchanged_at_first_and_differs_after_the_stage(name):
    plain, more = pair(name, recurrent_stages=("c3",))
    images = torch.rand(1, 3, 64, 64)
    before, after = plain(images), more(images)
    assert list(before) == list(after) and all(torch.equal(before[n], after[n]) for n in before)
    perturb(more)
    changed = [n for n, x in more(images).items() if not torch.equal(before[n], x)]
    assert changed == [n for n in before if n not in ("c2",)]


@torch.no_grad()
def test_a_layer_reads_its_stage_and_is_read_by_the_next():
    """By hand: the layers of the plain network, one after another, with those that were put between."""
    plain, more = pair("tiny", recurrent_stages=("c2", "c4"))
    perturb(more)
    images = torch.rand(2, 3, 32, 48)
    ones = partial(torch.ones, dtype=torch.bool)
    c2 = more.layers["c2"].layer(plain.blocks["c2"](plain.stem(images)), ones(2, 1, 8, 12))
    c3 = plain.blocks["c3"](c2)
    c4 = more.layers["c4"].layer(plain.blocks["c4"](c3), ones(2, 1, 2, 3))
    features = more(images)
    assert torch.equal(features["c2"], c2) and torch.equal(features["c3"], c3) and torch.equal(features["c4"], c4)


@torch.no_grad()
def test_a_copy_has_separate_layers():
    """As the average of weights needs it."""
    _, more = pair("tiny")
    perturb(more)
    images = torch.rand(1, 3, 32, 32)
    expected, twin = more(images), copy.deepcopy(more)
    for p in more.layers.parameters():
        p.mul_(3)
    assert all(torch.equal(expected[n], x) for n, x in twin(images).items())
    assert not torch.equal(expected["c3"], more(images)["c3"])


def test_any_context_can_be_the_layer():
    _, more = pair("tiny", layer=partial(SpatialRNN, hidden_channels=16), recurrent_stages=("c3",))
    sum(x.square().mean() for x in more(torch.rand(1, 3, 32, 32)).values()).backward()
    assert all(p.grad is not None for p in more.parameters())


@torch.no_grad()
def test_networks_that_give_channels_last_get_channels_last():
    torch.manual_seed(0)
    inserted, permuted = (_Inserted(RecurrentConv(6), 6, "c3", is_nhwc) for is_nhwc in (False, True))
    permuted.load_state_dict(inserted.state_dict())
    for height in (4, 6):  # also as high as it has channels
        x = torch.randn(2, 6, height, 5)
        expected = inserted.after(None, None, x)
        assert not torch.equal(expected, x)
        assert torch.equal(permuted.after(None, None, x.permute(0, 2, 3, 1)), expected.permute(0, 2, 3, 1))


def test_layers_are_a_separate_stage_so_that_they_learn_while_others_are_frozen():
    _, more = pair("tiny")
    assert list(more.stages()) == ["stem", "c2", "c3", "c4", "recurrent"]
    assert list(more.ends()) == ["c2", "c3", "c4"]


@torch.no_grad()
def test_steps_at_inference_are_a_setting():
    layer = partial(RecurrentConv, norm="group", residual=True, init="random")
    _, three = pair("tiny", layer=layer)
    _, five = pair("tiny", layer=partial(layer, inference_steps=5))
    five.load_state_dict(three.state_dict())
    images = torch.rand(1, 3, 32, 32)
    assert not torch.equal(three(images)["c3"], five(images)["c3"])
    assert torch.equal(three.train()(images)["c2"], five.train()(images)["c2"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"recurrent_stages": ("c3", "c9")}, "no layer can follow 'c9'; it can c2, c3, c4"),
        ({"recurrent_stages": ("stem",)}, "no layer can follow 'stem'"),
        (
            {"layer": partial(ConvStack, hidden_channels=5)},
            "after 'c3' a layer has 5 channels and the next one reads 16",
        ),
    ],
)
def test_what_does_not_fit_gets_one_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        pair("tiny", **settings)
