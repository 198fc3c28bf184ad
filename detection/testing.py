"""Contract tests of parts, importable: for every context, pool, regions, head and backbone.

    from detection.testing import check_context

    def test_my_context():
        check_context(partial(MyContext, hidden_channels=8))

Each function builds the part on the CPU, with random weights that are the same at every call, and raises an
`AssertionError` that names what does not hold. `detection.contracts` states the contracts in words.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchvision.models.detection.image_list import ImageList

from detection.backbones.backbone import Backbone
from detection.contracts import Context, Head, Pool, PooledRegions, Regions
from detection.errors import UserError
from detection.part_outputs import (
    require_descriptors,
    require_detections,
    require_head_results,
    require_regions,
    require_samples,
)

SIZES = ((4, 7), (6, 3), (6, 7))
"""Valid locations (h, w) of the images of a padded batch of 6×7 locations."""

_DETACHED = "the output has no gradient: it is detached from its input and weights"

_P = ParamSpec("_P")


def _reproducible(check: Callable[_P, None]) -> Callable[_P, None]:
    """Wrap a check, so that what it draws depends on no other test, and no other test on it."""

    @functools.wraps(check)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            check(*args, **kwargs)

    return run


@_reproducible
def check_context(context: Callable[..., Context], in_channels: int = 6) -> None:
    """Check a context: shape and type, no leak from padding, alone = in a batch, gradients, and degenerate inputs.

    It must change neither input, keep nothing from one call to the next, and draw nothing outside of training. In
    training, too, padding must not leak, and every weight that is trained must have a gradient.

    Args:
        context: a class, or a partial of one with its settings.
        in_channels: channels of the feature map that it is tried on.
    """
    part = _randomized(context(in_channels)).eval()
    assert isinstance(getattr(part, "out_channels", None), int), "out_channels must be set, to channels of the output"
    x, valid = padded_batch(in_channels)
    given, mask = x.detach().clone(), valid.clone()
    with torch.no_grad(), _kept(given, mask):
        part(given, mask)
    y = part(x, valid)
    assert isinstance(y, Tensor), f"the output must be a tensor, not a {type(y).__name__}"
    assert y.requires_grad, _DETACHED
    expected = (len(SIZES), part.out_channels, 6, 7)
    assert y.shape == expected, f"output of {tuple(y.shape)}, not {expected} (out_channels={part.out_channels})"
    assert torch.isfinite(y).all() and y.dtype == torch.float32, "the output must be finite float32"
    assert (y[~valid.expand_as(y)] == 0).all(), "the output must be 0 outside of the valid locations"
    with torch.no_grad():
        part(2 * x, valid)  # what is kept of the last call is of another input
    assert torch.equal(y, part(x, valid)), "a later call gives another output: something is kept, or drawn at random"
    noise = torch.where(valid, x, 100 * torch.randn_like(x))
    assert torch.equal(y, part(noise, valid)), "valid locations depend on what lies outside of `valid`"
    (gradient,) = torch.autograd.grad(y.square().sum(), x, allow_unused=True, retain_graph=True)
    assert gradient is None or (gradient[~valid.expand_as(x)] == 0).all(), "a gradient flows into the padding"
    _check_alone(part, x, valid, y)
    _check_gradients(part, y, every=False)
    _check_training(part, x, valid)
    degenerate = [padded_batch(in_channels, (size,), *size) for size in ((1, 1), (1, 9), (9, 1))]
    degenerate += [padded_batch(in_channels, ()), padded_batch(in_channels, ((6, 7), (0, 0)))]
    for x, valid in degenerate:
        y, given = part(x, valid), tuple(x.shape)
        assert y.shape == (len(x), part.out_channels, *given[2:]), f"output of {tuple(y.shape)} on an input of {given}"
        assert y.isfinite().all(), f"not finite on an input of {given}"
        assert (y[~valid.expand_as(y)] == 0).all(), "an image without any valid location must give zeros"
        _check_gradients(part, y, every=False, x=x)
    x, valid = padded_batch(in_channels)
    double = part.double()(x.double(), valid)
    assert double.dtype == torch.float64, "in double precision the output must be double"
    _check_alone(part, x.double(), valid, double)


def _check_training(part: Context, x: Tensor, valid: Tensor) -> None:
    """Check what holds in training: a batch norm, for one, reads other values there."""
    part.train()
    outputs = []
    for given in (x, torch.where(valid, x, 100 * x)):
        torch.manual_seed(0)  # what a dropout draws
        outputs.append(part(given, valid))
    y, other = outputs
    expected = (len(x), part.out_channels, *x.shape[2:])
    assert y.shape == expected, f"in training the output is {tuple(y.shape)}, not {expected}"
    assert torch.isfinite(y).all(), "in training the output is not finite"
    assert (y[~valid.expand_as(y)] == 0).all(), "in training the output is not 0 outside of the valid locations"
    assert torch.equal(y, other), "in training valid locations depend on what lies outside of `valid`"
    _check_gradients(part, y)
    part.eval()


@contextmanager
def _kept(*inputs: Any) -> Iterator[None]:
    """Check that a block changes no tensor or number of what it is given: nested lists and dictionaries."""
    before = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(inputs)]
    yield
    after = tree_leaves(inputs)
    kept = len(after) == len(before) and all(map(_same, before, after))
    assert kept, "the input is changed in place, which other parts read: write to a copy"


@contextmanager
def _as_assertion() -> Iterator[None]:
    """Turn what the detector would refuse into an `AssertionError` of the same sentence."""
    try:
        yield
    except UserError as error:
        raise AssertionError(str(error)) from None


def _same(before: Any, after: Any) -> bool:
    if not isinstance(before, Tensor):
        return before == after
    return isinstance(after, Tensor) and torch.equal(before, after)


def _check_losses(losses: Any) -> None:
    assert isinstance(losses, dict) and all(name.startswith("loss_") for name in losses), "losses are named `loss_…`"
    for name, loss in losses.items():
        assert isinstance(loss, Tensor) and loss.ndim == 0, f"{name} must be a tensor of one number, without dimensions"
        assert loss.isfinite(), f"{name} is not finite"


def _check_alone(part: Context, x: Tensor, valid: Tensor, y: Tensor) -> None:
    for i, (height, width) in enumerate(SIZES):
        alone = part(x[i : i + 1, :, :height, :width], valid[i : i + 1, :, :height, :width])
        _close(alone, y[i : i + 1, :, :height, :width], f"image {i} alone is not as in the batch")


@_reproducible
def check_pool(pool: Callable[..., Pool], channels: int = 4) -> None:
    """Check a pool: the shape of descriptors, their order over images, empty images, gradients, and inputs kept.

    Args:
        pool: a class, or a partial of one; it may read the feature maps c2 … c5 and p2 … p6 at strides 4 … 64.
        channels: of every feature map.
    """
    strides = _strides()
    part = _randomized(pool(dict.fromkeys(strides, channels), strides)).eval()
    features = _features(channels)
    boxes = [torch.tensor([[4.0, 4, 40, 60], [10, 20, 100, 90]]), torch.zeros(0, 4), torch.tensor([[0.0, 0, 64, 64]])]
    sizes = [(128, 128)] * 3
    with _kept(features, boxes, sizes):
        found = part(features, boxes, sizes)
    with _as_assertion():
        require_descriptors(found, part.out_channels, part.output_size, boxes)
    for i, rows in ((0, slice(0, 2)), (2, slice(2, 3))):
        alone = part({name: f[i : i + 1] for name, f in features.items()}, [boxes[i]], sizes[:1])
        _close(found[rows], alone, f"descriptors of image {i} alone are not as in the batch")
    none = part(features, [torch.zeros(0, 4)] * 3, sizes)
    assert none.shape == (0, *found.shape[1:]), "no boxes must give no descriptors"
    # Clones, as torch itself refuses to change in place what a gradient is asked for, which `_kept` is to name.
    features = {name: feature.requires_grad_().clone() for name, feature in features.items()}
    with _kept(features, boxes, sizes):
        found = part.train()(features, boxes, sizes)
    assert found.requires_grad, _DETACHED
    _check_gradients(part, found)
    gradients = torch.autograd.grad(found.sum(), list(features.values()), allow_unused=True)
    assert any(g is not None for g in gradients), "no gradient reaches a feature map: descriptors are detached from all"


@_reproducible
def check_regions(regions: Callable[..., Regions], channels: int = 4) -> None:
    """Check regions: boxes for every image, losses in training only, gradients, and inputs kept.

    Args:
        regions: a class, or a partial of one; it may read the feature maps c2 … c5 and p2 … p6.
        channels: of every feature map.
    """
    part = _randomized(regions(dict.fromkeys(_strides(), channels)))
    images, features = ImageList(torch.zeros(3, 3, 128, 128), [(128, 128), (96, 128), (128, 64)]), _features(channels)
    targets = [{"boxes": torch.tensor([[8.0, 8, 50, 50]]), "labels": torch.tensor([1])}] * 3

    def propose(targets: Any) -> dict[str, Tensor]:
        with _kept(images.tensors, images.image_sizes, features, targets):
            found = part(images, features, targets)
        with _as_assertion():
            require_regions(found, 3)
        boxes, losses = found
        finite = all(b.is_floating_point() and b.isfinite().all() for b in boxes)
        assert finite, "boxes must be floating point and finite"
        return losses

    part.eval()
    assert propose(None) == {}, "at inference losses must be {}"
    part.train()
    losses = propose(targets)
    _check_losses(losses)
    if losses:
        _check_gradients(part, torch.stack(list(losses.values())))


@_reproducible
def check_head(head: Callable[..., Head], in_channels: int = 4, size: int = 3, num_classes: int = 2) -> None:
    """Check a head: finite losses in training, also without objects, sorted detections, gradients, and inputs kept.

    Args:
        head: a class, or a partial of one; its own pools may read the feature maps c2 … c5 and p2 … p6.
        in_channels: channels of a descriptor, and of every feature map.
        size: bins on a side of a descriptor.
        num_classes: foreground classes.
    """
    part = head(in_channels, size, num_classes)
    part.connect(dict.fromkeys(_strides(), in_channels), _strides())
    part = _randomized(part)
    boxes = [torch.tensor([[4.0, 4, 40, 60], [10, 20, 100, 90], [70, 70, 110, 120]]), torch.zeros(0, 4)]
    ground_truth = {"boxes": torch.tensor([[5.0, 5, 41, 58]]), "labels": torch.tensor([num_classes])}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    features = _features(in_channels, 2)

    def pooled(boxes: list[Tensor]) -> PooledRegions:
        generator = torch.Generator().manual_seed(2)
        descriptors = torch.randn(sum(map(len, boxes)), in_channels, size, size, generator=generator)
        return PooledRegions(descriptors, boxes, [(128, 128)] * 2, features)

    for targets in ([ground_truth, nothing], [nothing, nothing]):
        with _kept(boxes, targets):
            chosen = part.train().sample(boxes, targets)
        with _as_assertion():
            require_samples(chosen, 2)
        regions = pooled(chosen[0])
        with _kept(vars(regions), targets):
            found = part(regions, chosen[1])
        with _as_assertion():
            require_head_results(found)
        detections, losses = found
        assert losses and not detections, "in training a head returns losses, and no detections"
        _check_losses(losses)
        if targets[0] is ground_truth:
            _check_gradients(part, torch.stack(list(losses.values())))
    regions = pooled(boxes)
    with torch.no_grad(), _kept(vars(regions)):
        found = part.eval()(regions)
    with _as_assertion():
        require_head_results(found)
        require_detections(found[0], 2)
    detections, losses = found
    assert losses == {}, "at inference losses must be {}"
    assert not len(detections[1]["boxes"]), "an image without regions must have no detections"
    for found in detections:
        assert set(found) == {"boxes", "labels", "scores"}, "detections are `boxes`, `labels` and `scores` only"
        assert found["boxes"].is_floating_point() and found["boxes"].isfinite().all(), "boxes must be finite floats"
        scores = found["scores"]
        assert ((scores >= 0) & (scores <= 1)).all(), "scores must be in [0, 1]"
        assert (scores.diff() <= 0).all(), "detections must be by falling score, best first"
        assert set(found["labels"].tolist()) <= set(range(1, num_classes + 1)), "labels are 1 … K"


@_reproducible
def check_backbone(backbone: Callable[..., Backbone]) -> None:
    """Check a backbone: the channels and strides that it states, its stages, and gradients of what it outputs."""
    part = _randomized(backbone()).eval()
    side = max(part.strides.values())
    images = torch.rand(2, 3, 2 * side, 3 * side, generator=torch.Generator().manual_seed(0))
    with _kept(images):
        features = part(images)
    assert isinstance(features, Mapping), f"the output must be feature maps by name, not a {type(features).__name__}"
    assert set(features) == set(part.out_channels) == set(part.strides), "names in out_channels and strides"
    for name, feature in features.items():
        expected = (2, part.out_channels[name], 2 * side // part.strides[name], 3 * side // part.strides[name])
        assert feature.shape == expected, f"{name} is {tuple(feature.shape)}, not {expected}"
    assert next(iter(part.stages()), None) == "stem", "the first stage is `stem`"
    _check_gradients(part, torch.stack([f.mean() for f in features.values()]), every=False)


def padded_batch(
    channels: int, sizes: tuple[tuple[int, int], ...] = SIZES, height: int = 6, width: int = 7
) -> tuple[Tensor, Tensor]:
    """Return feature maps (B, C, H, W) whose padding is anything but 0, and their valid locations (B, 1, H, W)."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(sizes), channels, height, width, generator=generator, requires_grad=True)
    valid = torch.zeros(len(sizes), 1, height, width, dtype=torch.bool)
    for mask, (h, w) in zip(valid, sizes, strict=True):
        mask[:, :h, :w] = True
    return x, valid


def _strides() -> dict[str, int]:
    return {**{f"c{k}": 2**k for k in range(2, 6)}, **{f"p{k}": 2**k for k in range(2, 7)}, "context": 16}


def _features(channels: int, images: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(images, channels, 128 // s, 128 // s, generator=generator) for n, s in _strides().items()}


def _require_registered(part: nn.Module) -> None:
    """Check that no attribute holds modules in a list, tuple or dictionary, where torch does not see them."""
    for path, module in part.named_modules():
        for key, value in vars(module).items():
            # A module's own dictionaries, such as `_modules`, begin with an underscore.
            held = list(value.values()) if isinstance(value, dict) and not key.startswith("_") else value
            if isinstance(held, list | tuple) and any(isinstance(item, nn.Module) for item in held):
                name = f"{path}.{key}".lstrip(".")
                raise AssertionError(f"{name} holds modules that nothing trains or saves: use an nn.ModuleList")


def _randomized(part: Any) -> Any:
    """Add noise to every weight: some are 0 at first, which would hide mistakes."""
    _require_registered(part)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return part


def _close(found: Tensor, expected: Tensor, sentence: str) -> None:
    # Matrix products of other sizes may add in another order.
    tolerance = 1e-9 if found.dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, msg=lambda text: f"{sentence}: {text}")


def _check_gradients(part: nn.Module, output: Tensor, every: bool = True, **others: Tensor) -> None:
    # A parameter may be fixed.
    inputs = {**{name: p for name, p in part.named_parameters() if p.requires_grad}, **others}
    if not inputs:
        return
    assert output.requires_grad, _DETACHED
    found = torch.autograd.grad(output.square().sum(), list(inputs.values()), allow_unused=True, retain_graph=True)
    gradients = dict(zip(inputs, found, strict=True))
    idle = [name for name, g in gradients.items() if g is None]
    assert not idle or not every, f"{idle[0]} has no gradient: a parameter that is not used breaks distributed training"
    broken = [name for name, g in gradients.items() if g is not None and not g.isfinite().all()]
    assert not broken, f"the gradient of {broken[0]} is not finite"
