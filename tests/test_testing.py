"""The importable contract tests pass for the parts of the package (contexts: `tests/context`), and find broken ones."""

from functools import partial

import pytest
import torch
from torch import nn

from detection.backbones import FPN, RCNN, ResNet, Tiny
from detection.context import RecurrentConv
from detection.contracts import Context, Pool
from detection.heads import FastRCNN, LocalGlobal, LSTMDecoder, SequenceHead
from detection.pooling import CenterCell, RoIAlign, SkipPool, Source
from detection.regions import RPN, GridCells
from detection.testing import check_backbone, check_context, check_head, check_pool, check_regions

small = partial(LSTMDecoder, hidden_size=6, num_steps=3, dropout=0.0)


@pytest.mark.parametrize(
    "pool",
    [
        partial(RoIAlign, stages=("c3",)),
        RoIAlign,
        CenterCell,
        partial(SkipPool, sources=(Source(("c3",), norm="channels"), Source(("context",), 1.5, "region"))),
    ],
)
def test_pools(pool):
    check_pool(pool)


@pytest.mark.parametrize("regions", [partial(RPN, stages=("c3",), anchor_sizes=((32, 64),)), RPN, GridCells])
def test_regions(regions):
    check_regions(regions)


@pytest.mark.parametrize(
    "head",
    [
        partial(FastRCNN, hidden_channels=8),
        partial(LocalGlobal, fast_rcnn=partial(FastRCNN, hidden_channels=8), global_pool=partial(CenterCell)),
        partial(SequenceHead, decoder=small),
        partial(SequenceHead, decoder=small, rezoom=partial(RoIAlign, stages=("c2",), output_size=2)),
    ],
)
def test_heads(head):
    check_head(head)


@pytest.mark.parametrize(
    "backbone",
    [partial(Tiny, channels=(8, 16)), partial(FPN, body=partial(Tiny), stages=("c2", "c3", "c4")), RCNN]
    + [partial(ResNet, depth=18, weights=None)],
)
def test_backbones(backbone):
    check_backbone(backbone)


class Leaking(Context):
    """A convolution that reads the padding."""

    def __init__(self, in_channels):
        super().__init__()
        self.out_channels = 3
        self.conv = nn.Conv2d(in_channels, 3, 3, padding=1)

    def forward(self, x, valid):
        return self.conv(x) * valid


class Idle(Leaking):
    def __init__(self, in_channels):
        super().__init__(in_channels)
        self.unused = nn.Linear(2, 2)

    def forward(self, x, valid):
        return self.conv(x * valid) * valid


class NotZero(Leaking):
    def forward(self, x, valid):
        return self.conv(x * valid)


class NotANumber(Leaking):
    """A mean over valid locations, which an image without any has not."""

    def forward(self, x, valid):
        return self.conv((x * valid).sum((2, 3), keepdim=True) / valid.sum((2, 3), keepdim=True)) * valid


class OtherWidth(Leaking):
    def forward(self, x, valid):
        return (self.conv(x * valid) * valid)[:, :2]


class Single(Leaking):
    def forward(self, x, valid):
        return (self.conv(x * valid) * valid).float()


class Pair(Leaking):
    def forward(self, x, valid):
        return self.conv(x), valid


class OfTheBatch(Leaking):
    """Knows a little of the other images, less than float32 rounds in a long sum."""

    def forward(self, x, valid):
        return (self.conv(x * valid) + 1e-7 * (x * valid).mean()) * valid


class InPlace(Leaking):
    def forward(self, x, valid):
        x *= valid
        return self.conv(x) * valid


class MaskInPlace(Leaking):
    def forward(self, x, valid):
        y = self.conv(x * valid) * valid
        valid[:] = False
        return y


class Remembering(Leaking):
    """Adds what it saw at the last call."""

    last = 0.0

    def forward(self, x, valid):
        y, before = self.conv(x * valid), self.last
        self.last = y.mean().detach()
        return (y + before) * valid


class Drawing(Leaking):
    def forward(self, x, valid):
        return nn.functional.dropout(self.conv(x * valid)) * valid


class Detached(Leaking):
    def forward(self, x, valid):
        return (self.conv(x * valid) * valid).detach()


class InAList(Leaking):
    def __init__(self, in_channels):
        super().__init__(in_channels)
        self.layers = [nn.Conv2d(3, 3, 1)]

    def forward(self, x, valid):
        return self.layers[0](self.conv(x * valid)) * valid


class InADictionary(InAList):
    def __init__(self, in_channels):
        super().__init__(in_channels)
        self.layers = {0: nn.Conv2d(3, 3, 1)}


class Normalized(Leaking):
    """The statistics of a batch read the padding, in training alone."""

    def __init__(self, in_channels):
        super().__init__(in_channels)
        self.norm = nn.BatchNorm2d(3)
        self.reduce = nn.Conv2d(in_channels, 3, 1)

    def forward(self, x, valid):
        return self.norm(self.conv(x * valid) + self.reduce(x)) * valid


class NotANumberInTraining(Leaking):
    def forward(self, x, valid):
        y = self.conv(x * valid) * valid
        return y * torch.nan if self.training else y


class LongerInTraining(Leaking):
    def forward(self, x, valid):
        y = self.conv(x * valid) * valid
        return torch.cat([y, y]) if self.training else y


class ShiftedInTraining(Leaking):
    def forward(self, x, valid):
        return self.conv(x * valid) * valid + self.training


class IdleInTraining(Leaking):
    def forward(self, x, valid):
        return (x * valid)[:, :3] if self.training else self.conv(x * valid) * valid


class WithoutWidth(Leaking):
    def __init__(self, in_channels):
        super().__init__(in_channels)
        del self.out_channels


class Fixed(Leaking):
    """Weights that are not trained are no fault, nor is what a dropout draws in training."""

    def __init__(self, in_channels):
        super().__init__(in_channels)
        self.conv.requires_grad_(False)
        self.out = nn.Conv2d(3, 3, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, valid):
        return self.dropout(self.out(self.conv(x * valid))) * valid


def test_what_is_legal_passes():
    check_context(Fixed)
    check_context(partial(RecurrentConv, hidden_channels=4, inference_steps=0))
    check_pool(NormalizedPool)


class NormalizedPool(RoIAlign):
    """A batch norm in a pool makes descriptors depend on the batch, in training alone."""

    def __init__(self, in_channels, strides):
        super().__init__(in_channels, strides)
        self.norm = nn.BatchNorm2d(self.out_channels)

    def forward(self, features, boxes, image_sizes):
        return self.norm(super().forward(features, boxes, image_sizes))


@pytest.mark.parametrize(
    ("context", "sentence"),
    [
        (Normalized, "in training valid locations depend on what lies outside"),
        (NotANumberInTraining, "in training the output is not finite"),
        (LongerInTraining, r"in training the output is \(6, 3, 6, 7\), not \(3, 3, 6, 7\)"),
        (ShiftedInTraining, "in training the output is not 0 outside"),
        (IdleInTraining, "conv.weight has no gradient"),
        (WithoutWidth, "out_channels must be set"),
        (InPlace, "the input is changed in place"),
        (MaskInPlace, "the input is changed in place"),
        (Remembering, "a later call gives another output"),
        (Drawing, "a later call gives another output"),
        (Detached, "has no gradient: it is detached"),
        (InAList, "layers holds modules that nothing trains"),
        (InADictionary, "layers holds modules that nothing trains"),
        (Leaking, "valid locations depend on what lies outside"),
        (Idle, "unused.weight has no gradient"),
        (NotZero, "must be 0 outside"),
        (NotANumber, "not finite on an input of"),
        (OtherWidth, "out_channels=3"),
        (Pair, "the output must be a tensor, not a tuple"),
        (Single, "must be double"),
        (OfTheBatch, "image 0 alone is not as in the batch"),
    ],
)
def test_a_context_that_breaks_its_contract_is_named(context, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_context(context)


def test_a_check_draws_the_same_weights_wherever_it_runs():
    """A tolerance that one draw of many fails would break whatever suite happens to draw it."""
    drawn = []

    def context(in_channels):
        part = Idle(in_channels)
        drawn.append(part.unused.weight.detach().clone())
        return part

    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        with pytest.raises(AssertionError):
            check_context(context)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*drawn)


class Shuffled(Pool):
    """A pool that gives the descriptors in another order."""

    def __init__(self, channels, strides):
        super().__init__()
        self.align = RoIAlign(channels, strides, stages=("c2",))
        self.out_channels, self.output_size = self.align.out_channels, self.align.output_size

    def forward(self, features, boxes, image_sizes):
        return self.align(features, boxes, image_sizes).flip(0)


def test_a_pool_in_another_order_is_named():
    with pytest.raises(AssertionError, match="descriptors of image 0 alone are not as in the batch"):
        check_pool(Shuffled)


class Negative(FastRCNN):
    def forward(self, regions, samples=None):
        found, losses = super().forward(regions, samples)
        return [{**f, "labels": f["labels"] - 1} for f in found], losses


def test_a_head_whose_labels_start_at_0_is_named():
    with pytest.raises(AssertionError, match="labels are 1"):
        check_head(partial(Negative, hidden_channels=8))


@pytest.mark.parametrize("change", [lambda loss: loss.repeat(2), lambda loss: loss.item()])
def test_a_loss_that_is_not_one_number_is_named(change):
    class Several(FastRCNN):
        def forward(self, regions, samples=None):
            found, losses = super().forward(regions, samples)
            return found, {name: change(loss) for name, loss in losses.items()}

    class SeveralRegions(RPN):
        def forward(self, images, features, targets):
            boxes, losses = super().forward(images, features, targets)
            return boxes, {name: change(loss) for name, loss in losses.items()}

    with pytest.raises(AssertionError, match="loss_classifier must be a tensor of one number"):
        check_head(partial(Several, hidden_channels=8))
    with pytest.raises(AssertionError, match="loss_objectness must be a tensor of one number"):
        check_regions(SeveralRegions)


def test_a_backbone_that_returns_one_map_is_named():
    class OneMap(Tiny):
        def forward(self, images):
            return super().forward(images)["c3"]

    with pytest.raises(AssertionError, match="the output must be feature maps by name, not a Tensor"):
        check_backbone(OneMap)


class InPlacePool(RoIAlign):
    def forward(self, features, boxes, image_sizes):
        boxes[0].clamp_(max=50)
        return super().forward(features, boxes, image_sizes)


class InPlaceRegions(RPN):
    """Regions that change the targets, and only in training."""

    def forward(self, images, features, targets):
        if targets is not None:
            targets[0]["boxes"] += 1
        return super().forward(images, features, targets)


class InPlaceSampling(FastRCNN):
    def sample(self, boxes, targets):
        boxes.reverse()
        return super().sample(boxes, targets)


class InPlaceDetection(FastRCNN):
    """A head that changes a feature map, and only at inference."""

    def forward(self, regions, samples=None):
        if not self.training:
            regions.features["c2"].relu_()
        return super().forward(regions, samples)


class InPlaceBackbone(Tiny):
    def forward(self, images):
        return super().forward(images.sub_(0.5))


@pytest.mark.parametrize(
    ("check", "part"),
    [
        (check_pool, InPlacePool),
        (check_regions, InPlaceRegions),
        (check_head, partial(InPlaceSampling, hidden_channels=8)),
        (check_head, partial(InPlaceDetection, hidden_channels=8)),
        (check_backbone, InPlaceBackbone),
    ],
)
def test_a_part_that_changes_its_input_is_named(check, part):
    with pytest.raises(AssertionError, match="the input is changed in place"):
        check(part)
