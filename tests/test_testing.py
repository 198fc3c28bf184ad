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


class GradientOfPadding(Leaking):
    """A sum over all locations that is taken off again: only its gradient reads the padding."""

    def forward(self, x, valid):
        return (self.conv(x * valid) + (x.sum() - x.sum().detach())) * valid


class GradientNotANumber(Leaking):
    """A norm whose square root has no gradient at 0, in an image without any valid location."""

    def forward(self, x, valid):
        y = self.conv(x * valid) * valid
        return y * y.square().sum((1, 2, 3), keepdim=True).sqrt()


class Infinite(Leaking):
    def forward(self, x, valid):
        return (self.conv(x * valid) + torch.inf).where(valid, 0)


class Wide(Leaking):
    def forward(self, x, valid):
        return (self.conv(x * valid) * valid).double()


class Squeezed(Leaking):
    """Drops a side of one location."""

    def forward(self, x, valid):
        return (self.conv(x * valid) * valid).squeeze(3)


class NotZeroWithoutLocations(Leaking):
    def forward(self, x, valid):
        return self.conv(x * valid) * valid + ~valid.flatten(1).any(1)[:, None, None, None]


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
        (GradientOfPadding, "a gradient flows into the padding"),
        (GradientNotANumber, "the gradient of .* is not finite"),
        (Infinite, "the output must be finite float32"),
        (Wide, "the output must be finite float32"),
        (Squeezed, r"output of \(1, 3, 1\) on an input of \(1, 6, 1, 1\)"),
        (NotZeroWithoutLocations, "an image without any valid location must give zeros"),
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


class InPlaceInTraining(RoIAlign):
    """A pool that changes a feature map, and only in training."""

    def forward(self, features, boxes, image_sizes):
        if self.training:
            features["c2"].relu_()
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
        (check_pool, InPlaceInTraining),
        (check_regions, InPlaceRegions),
        (check_head, partial(InPlaceSampling, hidden_channels=8)),
        (check_head, partial(InPlaceDetection, hidden_channels=8)),
        (check_backbone, InPlaceBackbone),
    ],
)
def test_a_part_that_changes_its_input_is_named(check, part):
    with pytest.raises(AssertionError, match="the input is changed in place"):
        check(part)


def pool(change=lambda descriptors: descriptors, see=lambda features: features, state=lambda part: None):
    """A pool with a weight, broken by one change: to its result, to the feature maps it sees, or to the part."""

    class Changed(RoIAlign):
        def __init__(self, channels, strides):
            super().__init__(channels, strides, stages=("c5",), output_size=2)
            self.scale = nn.Linear(1, 1)
            state(self)

        def forward(self, features, boxes, image_sizes):
            found = super().forward(see(features), boxes, image_sizes)
            return change(self.scale(found[..., None])[..., 0])

    return Changed


def idle(part):
    part.unused = nn.Linear(2, 2)


def test_what_the_broken_parts_are_made_of_passes():
    check_pool(pool())
    check_regions(regions())
    check_head(head())
    check_backbone(backbone())


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (pool(lambda x: x[..., :1]), r"must be of shape \(3, 4, 2, 2\) by .* not of shape \(3, 4, 2, 1\)"),
        (pool(lambda x: (x,)), "descriptors must be of shape .* not a tuple"),
        (pool(lambda x: x if len(x) else x.flatten(1)), "no boxes must give no descriptors"),
        (pool(lambda x: x.detach()), "the output has no gradient: it is detached"),
        (pool(lambda x: x.detach(), state=lambda part: part.requires_grad_(False)), "has no gradient: it is detached"),
        (pool(see=lambda maps: {n: f.detach() for n, f in maps.items()}), "no gradient reaches a feature map"),
        (pool(state=idle), "unused.weight has no gradient"),
    ],
)
def test_a_pool_that_breaks_its_contract_is_named(part, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_pool(part)


def regions(change=lambda boxes, losses: (boxes, losses), state=lambda part: None):
    """Regions broken by one change: to their results, or to the part."""

    class Changed(RPN):
        def __init__(self, channels):
            super().__init__(channels, stages=("c5",), anchor_sizes=((32,),))
            state(self)

        def forward(self, images, features, targets):
            return change(*super().forward(images, features, targets))

    return Changed


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (regions(lambda boxes, _: boxes), r"a list of boxes \(N, 4\) for each of 3 images, and losses by name"),
        (regions(lambda boxes, losses: ([b.tolist() for b in boxes], losses)), "a list of boxes .* for each of 3"),
        (regions(lambda boxes, losses: (boxes[:2], losses)), "a list of boxes .* for each of 3 images"),
        (regions(lambda boxes, losses: ([b[:, [0, 1, 2, 3, 3]] for b in boxes], losses)), "a list of boxes .*N, 4"),
        (regions(lambda boxes, losses: ([b * torch.nan for b in boxes], losses)), "floating point and finite"),
        (regions(lambda boxes, losses: ([b.long() for b in boxes], losses)), "floating point and finite"),
        (regions(lambda boxes, losses: (boxes, losses or {"loss_a": torch.zeros(())})), "at inference losses must be"),
        (regions(lambda boxes, losses: (boxes, losses or None)), "at inference losses must be {}"),
        (regions(lambda boxes, losses: (boxes, list(losses.values()) or {})), "losses are named `loss_…`"),
        (regions(lambda boxes, losses: (boxes, {n[5:]: loss for n, loss in losses.items()})), "named `loss_…`"),
        (regions(lambda boxes, losses: (boxes, {n: loss / 0 for n, loss in losses.items()})), "objectness is not fini"),
        (regions(lambda boxes, losses: (boxes, {n: loss.detach() for n, loss in losses.items()})), "it is detached"),
        (regions(state=idle), "unused.weight has no gradient"),
    ],
)
def test_regions_that_break_their_contract_are_named(part, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_regions(part)


def head(change=lambda found, losses: (found, losses), sample=lambda chosen: chosen, state=lambda part: None):
    """A head broken by one change: to its results, to those of `sample`, or to the part."""

    class Changed(FastRCNN):
        def __init__(self, in_channels, size, num_classes):
            super().__init__(in_channels, size, num_classes, hidden_channels=8)
            state(self)

        def sample(self, boxes, targets):
            return sample(super().sample(boxes, targets))

        def forward(self, regions, samples=None):
            return change(*super().forward(regions, samples))

    return Changed


def each(change):
    """A change to the detections of each image."""
    return lambda found, losses: ([change(own) for own in found], losses)


class NotANumberWithoutObjects(FastRCNN):
    """A mean over positive boxes, of which an image without objects has none."""

    def forward(self, regions, samples=None):
        found, losses = super().forward(regions, samples)
        if samples is not None:
            losses["loss_box_reg"] = losses["loss_box_reg"] / (samples.labels > 0).sum()
        return found, losses


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (head(lambda found, losses: losses or (found, losses)), "two results, detections and losses by name"),
        (head(lambda found, losses: (found, losses) if losses else tuple(found) * 2), "must return two results"),
        (head(lambda found, losses: (found, losses) if losses else found), "a list of boxes .* for each of 2 images"),
        (head(sample=lambda chosen: chosen[0]), r"detector.head.sample: must return a list of boxes \(N, 4\)"),
        (head(lambda found, losses: (found, {})), "in training a head returns losses"),
        (head(lambda found, losses: (losses and [losses] or found, losses)), "losses, and no detections"),
        (head(lambda found, losses: (found, {n[5:]: loss for n, loss in losses.items()})), "named `loss_…`"),
        (head(lambda found, losses: (found, {n: loss.detach() for n, loss in losses.items()})), "it is detached"),
        (partial(NotANumberWithoutObjects, hidden_channels=8), "loss_box_reg is not finite"),
        (head(state=idle), "unused.weight has no gradient"),
        (head(lambda found, losses: (found, losses or {"loss_a": torch.zeros(())})), "at inference losses must be {}"),
        (head(lambda found, losses: (found[:1], losses)), "for each of 2 images"),
        (head(lambda found, losses: (found[:1] * 2, losses)), "an image without regions must have no detections"),
        (head(each(lambda own: {**own, "boxes": own["boxes"][:, None].repeat(1, 3, 1)})), "boxes of image 0 must be"),
        (head(each(lambda own: {**own, "boxes": own["boxes"] * torch.nan})), "boxes must be finite"),
        (head(each(lambda own: {**own, "boxes": own["boxes"].long()})), "boxes must be finite floats"),
        (head(each(lambda own: {**own, "scores": own["scores"][:1]})), "scores of image 0 must be of shape"),
        (head(each(lambda own: {**own, "scores": own["scores"] + 100})), r"scores must be in \[0, 1\]"),
        (head(each(lambda own: {**own, "scores": own["scores"] - 1})), r"scores must be in \[0, 1\]"),
        (head(each(lambda own: {key: column.flip(0) for key, column in own.items()})), "by falling score"),
        (head(each(lambda own: {"boxes": own["boxes"], "scores": own["scores"]})), "labels of image 0 must be of"),
        (head(each(lambda own: {**own, "masks": own["scores"]})), "`boxes`, `labels` and `scores` only"),
    ],
)
def test_a_head_that_breaks_its_contract_is_named(part, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_head(part)


def backbone(change=lambda features: features, state=lambda part: None, stages=lambda stages: stages):
    """A backbone broken by one change: to its feature maps, to the part, or to its stages."""

    class Changed(Tiny):
        def __init__(self):
            super().__init__(channels=(8, 16), stem_channels=8)
            state(self)

        def forward(self, images):
            return change(super().forward(images))

        def stages(self):
            return stages(super().stages())

    return Changed


def finer(part):
    part.strides["c3"] = 4


def wider(part):
    part.out_channels["c3"] = 17


def without_gradient_at_0(features):
    return {name: feature + (0 * feature).sum().sqrt() for name, feature in features.items()}


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (backbone(state=finer), r"c3 is \(2, 16, 1, 2\), not \(2, 16, 2, 3\)"),
        (backbone(state=wider), r"c3 is \(2, 16, 2, 3\), not \(2, 17, 2, 3\)"),
        (backbone(lambda maps: {**maps, "c4": maps["c3"]}), "names in out_channels and strides"),
        (backbone(lambda maps: {"c3": maps["c3"]}), "names in out_channels and strides"),
        (backbone(stages=lambda stages: {n: s for n, s in stages.items() if n != "stem"}), "first stage is `stem`"),
        (backbone(stages=lambda stages: {}), "the first stage is `stem`"),
        (backbone(lambda maps: {name: f.detach() for name, f in maps.items()}), "it is detached"),
        (backbone(without_gradient_at_0), "the gradient of .* is not finite"),
    ],
)
def test_a_backbone_that_breaks_its_contract_is_named(part, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_backbone(part)
