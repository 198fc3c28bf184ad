"""The RPN for all images at once: torchvision's proposals and losses with its draw, and no crowd's negatives."""

import copy

import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork

from detection.errors import UserError
from detection.regions import RPN
from tests.sampling import torchvisions_sampler

MAPS = {"c2": 16, "c3": 8, "c4": 4}
SIZES = [(64, 128), (50, 70), (64, 31)]


def example(seed=0, **settings):
    """Three images with 5, 0 and 2 boxes, maps of three levels, our RPN and torchvision's of the same weights."""
    torch.manual_seed(seed)
    features = {name: torch.randn(3, 4, n, 2 * n) for name, n in MAPS.items()}
    settings = {"pre_nms_top_n": (200, 150), "post_nms_top_n": (90, 60), "batch_size_per_image": 40, **settings}
    ours = RPN(dict.fromkeys(MAPS, 4), stages=tuple(MAPS), anchor_sizes=((12, 8), (24, 16), (48, 32)), **settings)
    for layer in (ours.rpn.head.cls_logits, ours.rpn.head.bbox_pred):
        torch.nn.init.normal_(layer.weight, std=0.3)
    theirs = copy.deepcopy(ours.rpn)
    theirs.__class__ = RegionProposalNetwork
    corners = torch.rand(7, 2) * 40
    boxes = torch.cat([corners, corners + 8 + 20 * torch.rand(7, 2)], 1)
    return ours, theirs, ImageList(torch.zeros(3, 3, 64, 128), SIZES), features, list(boxes.split([5, 0, 2]))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("settings", [{}, {"pre_nms_top_n": (2000, 2000), "post_nms_top_n": (2000, 2000)}])
def test_proposals_are_torchvisions_to_the_bit(training, settings):
    ours, theirs, images, features, boxes = example(**settings)
    targets = [{"boxes": b} for b in boxes]
    ours.train(training)
    theirs.train(training)
    found, losses = ours(images, features, targets)
    expected, _ = theirs(images, features, targets)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)) and bool(losses) == training
    assert not any(b.requires_grad for b in found)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "settings", [{}, {"background_iou": 0.0}, {"foreground_iou": 0.4, "batch_size_per_image": 400}]
)
def test_losses_are_torchvisions_with_its_draw(seed, settings, monkeypatch):
    ours, theirs, images, features, boxes = example(seed, **settings)
    theirs.fg_bg_sampler = torchvisions_sampler(monkeypatch, theirs.fg_bg_sampler)
    targets = [{"boxes": b} for b in boxes]
    gradients = []
    for part in (ours, theirs):
        _, losses = part(images, features, targets)
        gradients.append([*losses.values(), *torch.autograd.grad(sum(losses.values()), part.parameters())])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_boxes_of_another_type_give_the_losses_of_float32(dtype):
    """An area of 300×300 pixels is infinite in float16: every anchor of an image matched its box, or none did."""
    ours, _, images, features, _ = example()
    boxes = torch.tensor([[8.0, 8, 308, 308], [4, 4, 20, 16]])
    losses = []
    for kind in (torch.float32, dtype):
        torch.manual_seed(0)
        losses.append(ours(images, features, [{"boxes": boxes.to(kind)}] * 3)[1])
    assert all(torch.equal(losses[0][name], loss) and loss.dtype == torch.float32 for name, loss in losses[1].items())


def test_a_background_above_the_foreground_is_refused():
    with pytest.raises(UserError, match=r"regions.background_iou=0.7: is above foreground_iou=0.3"):
        example(foreground_iou=0.3, background_iou=0.7)


@pytest.mark.parametrize("ignore_crowd", [0.7, None])
def test_negatives_in_crowd_regions_are_in_no_loss(ignore_crowd, monkeypatch):
    """A crowd region over the complete image leaves only the positives."""
    ours, theirs, images, features, boxes = example(ignore_crowd=ignore_crowd)
    targets = [{"boxes": b, "ignored": torch.tensor([[-99.0, -99, 999, 999]])} for b in boxes]
    theirs.fg_bg_sampler = torchvisions_sampler(monkeypatch, theirs.fg_bg_sampler, negatives=ignore_crowd is None)
    (_, losses), (_, expected) = ours(images, features, targets), theirs(images, features, targets)
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss)


def test_without_any_sampled_anchor_the_losses_are_zero_with_gradients():
    ours, _, images, features, boxes = example()
    targets = [{"boxes": boxes[1], "ignored": torch.tensor([[-99.0, -99, 999, 999]])}] * 3
    _, losses = ours(images, features, targets)
    assert all(loss == 0 for loss in losses.values())
    gradients = torch.autograd.grad(sum(losses.values()), ours.parameters())
    assert all((g == 0).all() for g in gradients)


def test_half_precision_does_not_round_anchors():
    """Shifts of more than 256 pixels have no bfloat16 of their own."""
    ours, _, _, _, _ = example()
    features = {name: torch.randn(1, 4, 2 * n, 16 * n) for name, n in MAPS.items()}
    images = ImageList(torch.zeros(1, 3, 128, 1024), [(128, 1024)])
    seen = []
    ours.eval().rpn.anchor_generator.register_forward_hook(lambda module, args, out: seen.append(out[0]))
    ours(images, features, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours(images, {name: m.bfloat16() for name, m in features.items()}, None)
    assert torch.equal(*seen)
