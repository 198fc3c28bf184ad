"""Skip pooling: against a naive reference, by hand, by property, and as a part of a detector."""

import dataclasses
import json
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import roi_align

from detection.backbones import FPN
from detection.config import Config, from_plain, to_plain, validate
from detection.contracts import Context
from detection.detector import build_detector
from detection.errors import UserError
from detection.ops import roi_align as roi_align_module
from detection.pooling import RoIAlign, SkipPool, Source
from detection.pooling.skip_pool import _NormalizedSource, _PooledSource, scale_boxes
from tests.tiny_runs import DETECTOR

CHANNELS = {"p2": 8, "p3": 8, "p4": 8, "c3": 6, "context": 5}
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "c3": 8, "context": 16}
PYRAMID = ("p2", "p3", "p4")
SIZES = [(64, 96), (48, 80)]
CANONICAL = {"canonical_scale": 16, "canonical_level": 3}  # boxes of 16 pixels belong to stride 8
FPN_AND_CONTEXT = (Source(PYRAMID), Source(("context",), norm="channels"))


def make_pool(*sources, **settings):
    torch.manual_seed(0)
    return SkipPool(CHANNELS, STRIDES, sources=sources, **{"output_size": 3, **CANONICAL, **settings})


def make_maps(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(2, c, 64 // STRIDES[name], 96 // STRIDES[name], generator=generator, dtype=dtype)
        for name, c in CHANNELS.items()
    }


def make_boxes(counts=(5, 4), seed=0):
    """Boxes inside each image, from 5 pixels on a side to 45: of every level."""
    generator, boxes = torch.Generator().manual_seed(seed), []
    for count, (height, width) in zip(counts, SIZES, strict=True):
        sides = torch.linspace(5, 45, count)[:, None] * (1 + 0.05 * torch.rand(count, 2, generator=generator))
        corners = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - sides)
        boxes.append(torch.cat([corners, corners + sides], 1))
    return boxes


@pytest.fixture(params=["on the maps", "on the descriptors"])
def place(request, monkeypatch):
    """Where the convolution goes, whatever the sizes."""
    monkeypatch.setattr(_PooledSource, "_convolves_maps", lambda *args: request.param == "on the maps")


def naive(pool, features, boxes):
    """Every box by itself: scale, clip, choose the level, pool, normalize, times √numbers · amplitude; cat; conv."""
    amplitudes = [part.amplitude if isinstance(part, _NormalizedSource) else None for part in pool.parts]
    rows = []
    for image, (height, width) in enumerate(SIZES):
        for box in boxes[image].tolist():
            found = []
            for source, amplitude in zip(pool.sources, amplitudes, strict=True):
                (x1, y1, x2, y2), s = box, source.box_scale
                x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) * s, (y2 - y1) * s
                x1, y1, x2, y2 = max(x - w / 2, 0), max(y - h / 2, 0), min(x + w / 2, width), min(y + h / 2, height)
                level = math.floor(3 + math.log2(math.sqrt((x2 - x1) * (y2 - y1)) / 16) + 1e-6)
                lowest = int(math.log2(STRIDES[source.feature_maps[0]]))
                name = source.feature_maps[min(max(level - lowest, 0), len(source.feature_maps) - 1)]
                roi = torch.tensor([[image, x1, y1, x2, y2]], dtype=features[name].dtype)
                cells = roi_align(features[name], roi, pool.output_size, 1 / STRIDES[name], 2)
                if source.norm is not None:
                    dims = 1 if source.norm == "channels" else (1, 2, 3)
                    numbers = cells.shape[1] if source.norm == "channels" else cells.numel()
                    cells = nn.functional.normalize(cells, dim=dims) * math.sqrt(numbers) * amplitude.view(-1, 1, 1)
                found.append(cells)
            rows.append(pool.reduce(torch.cat(found, 1)))
    return torch.cat(rows)


@pytest.mark.parametrize(
    "sources",
    [
        FPN_AND_CONTEXT,
        (Source(("c3",), norm="channels"), Source(PYRAMID, norm="region"), Source(("context",), norm="region")),
        (Source(("c3",), 0.8), Source(("c3",), 1.2, "channels"), Source(PYRAMID, 1.8, "channels")),
        (Source(("context",)),),
    ],
    ids=["pyramid and context", "all normalized", "box scales", "one"],
)
def test_descriptors_and_gradients_equal_the_naive_ones(sources, place):
    pool = make_pool(*sources, out_channels=7, amplitude=3.0)
    with torch.no_grad():
        for p in pool.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    features = {name: m.requires_grad_() for name, m in make_maps().items()}
    boxes = make_boxes()
    found, expected = pool(features, boxes, SIZES), naive(pool, features, boxes)
    assert found.shape == (9, 7, 3, 3) and (pool.out_channels, pool.output_size) == (7, 3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    learning = [*pool.parameters(), *(features[m] for source in sources for m in source.feature_maps)]
    grad = torch.randn_like(found)
    for a, b in zip(*(torch.autograd.grad(out, learning, grad) for out in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_norms_by_hand():
    """A map of (3, 4) everywhere: over channels 3 and 4 are divided by √(25/2); over the region alike."""
    features = {"context": torch.tensor([3.0, 4]).view(1, 2, 1, 1).expand(1, 2, 4, 4)}
    boxes, size = [torch.tensor([[16.0, 16, 48, 48]])], [(64, 64)]
    for norm in ("channels", "region"):
        pool = SkipPool(
            {"context": 2}, {"context": 16}, sources=(Source(("context",), norm=norm),), output_size=2, amplitude=10.0
        )
        nn.init.eye_(pool.reduce.weight.data[:, :, 0, 0])
        found = pool(features, boxes, size)
        assert found.shape == (1, 2, 2, 2)
        expected = torch.tensor([30.0, 40]) / math.sqrt(12.5)
        torch.testing.assert_close(found, expected.view(1, 2, 1, 1).expand(1, 2, 2, 2))


def test_the_norm_over_channels_levels_cells_and_that_over_the_region_keeps_their_ratio():
    """One channel, left half 1 and right half 3: ±1 a cell, or 1 : 3 at a root mean square of 1."""
    m = torch.tensor([1.0, 1, 3, 3]).expand(1, 1, 4, 4)
    found = {}
    for norm in ("channels", "region"):
        pool = SkipPool({"c": 1}, {"c": 1}, sources=(Source(("c",), norm=norm),), output_size=2, sampling_ratio=1)
        pool.reduce.weight.data.fill_(1)
        found[norm] = pool({"c": m}, [torch.tensor([[0.0, 0, 4, 4]])], [(4, 4)])[0, 0].tolist()
    assert found["channels"] == [[1, 1], [1, 1]]
    assert found["region"][0] == pytest.approx([1 / math.sqrt(5), 3 / math.sqrt(5)])


def test_boxes_are_scaled_about_their_center_and_clipped():
    boxes = torch.tensor([[10.0, 20, 20, 40], [0, 0, 30, 30], [5, 5, 5, 5]])
    expected = torch.tensor([[5.0, 10, 25, 50], [0, 0, 40, 45], [5, 5, 5, 5]])
    found, none, clipped = scale_boxes([boxes, boxes[:0], boxes[:1]], 2, [(60, 40), (60, 40), (45, 20)])
    assert torch.equal(found, expected) and none.shape == (0, 4) and clipped.tolist() == [[5, 10, 20, 45]]
    shrunk = torch.tensor([[12.5, 25, 17.5, 35], [7.5, 7.5, 22.5, 22.5], [5, 5, 5, 5]])
    assert torch.equal(*scale_boxes([boxes], 0.5, [(60, 40)]), shrunk)


def test_a_scaled_box_at_the_border_pools_what_is_in_the_picture():
    features, boxes = make_maps(), [torch.tensor([[0.0, 0, 20, 20]]), torch.tensor([[60.0, 28, 80, 48]])]
    clipped = [torch.tensor([[0.0, 0, 30, 30]]), torch.tensor([[50.0, 18, 80, 48]])]
    scaled, plain = make_pool(Source(("c3",), 2.0)), make_pool(Source(("c3",)))
    assert torch.equal(scaled(features, boxes, SIZES), plain(features, clipped, SIZES))


def test_at_scale_one_boxes_outside_the_picture_stay_as_they_are():
    features, boxes = make_maps(), [torch.tensor([[-8.0, -8, 20, 20]]), torch.zeros(0, 4)]
    found = make_pool(Source(("c3",)), init="identity")(features, boxes, SIZES)
    plain = RoIAlign(CHANNELS, STRIDES, stages=("c3",), output_size=3)
    assert torch.equal(found, plain(features, boxes, SIZES))


@settings(deadline=None, max_examples=60)
@given(st.tuples(*[st.integers(0, 6)] * 2), st.integers(0, 99), st.booleans(), st.sampled_from(["channels", "region"]))
def test_the_identity_start_is_the_first_source_bit_by_bit(counts, seed, on_maps, norm):
    features, boxes = make_maps(seed), make_boxes(counts, seed)
    pool = make_pool(Source(PYRAMID), Source(("c3",), 1.5), Source(("context",), 0.7, norm), init="identity")
    plain = RoIAlign(CHANNELS, STRIDES, stages=PYRAMID, output_size=3, **CANONICAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_PooledSource, "_convolves_maps", lambda *args: on_maps)
        found = pool(features, boxes, SIZES)
    assert found.shape == (sum(counts), 8, 3, 3) and torch.equal(found, plain(features, boxes, SIZES))


@pytest.mark.parametrize("channels", [16, 40])
def test_the_identity_start_holds_at_real_widths(channels, place):
    """Wide enough for a blocked convolution, and for our own backward of RoIAlign."""
    names, strides = dict.fromkeys(("p2", "p3", "context"), channels), {"p2": 4, "p3": 8, "context": 8}
    features = {n: torch.randn(1, channels, 64 // s, 64 // s, requires_grad=True) for n, s in strides.items()}
    boxes = [torch.cat([torch.rand(120, 2) * 20, 21 + torch.rand(120, 2) * 40], 1)]
    stages = ("p2", "p3")
    sources = (Source(stages), Source(("context",), norm="channels"))
    pool = SkipPool(names, strides, sources=sources, init="identity", **CANONICAL)
    plain = RoIAlign(names, strides, stages=stages, **CANONICAL)
    assert torch.equal(pool(features, boxes, [(64, 64)]), plain(features, boxes, [(64, 64)]))


def test_the_convolution_goes_where_it_has_fewer_cells(monkeypatch):
    seen = []
    conv2d = nn.functional.conv2d
    monkeypatch.setattr("detection.pooling.skip_pool.conv2d", lambda x, w: seen.append(x.shape[-2:]) or conv2d(x, w))
    pool, features = make_pool(*FPN_AND_CONTEXT), make_maps()
    pool(features, make_boxes((50, 50)), SIZES)  # 900 cells of descriptors against 2 · (384 + 96 + 24) and 2 · 24
    pool(features, make_boxes((80, 80)), SIZES)
    assert seen == [(3, 3), (4, 6), (16, 24), (8, 12), (4, 6), (4, 6)]


def test_the_gradient_is_transposed_once(monkeypatch):
    """Each source's RoIAlign gets it with channels last, as it reads it."""
    seen, backward = [], roi_align_module._RoIAlign.backward

    def record(ctx, grad):
        seen.append(grad.is_contiguous(memory_format=torch.channels_last))
        return backward(ctx, grad)

    monkeypatch.setattr(roi_align_module, "MIN_CHANNELS", 0)
    monkeypatch.setattr(roi_align_module, "MIN_VALUES", 0)
    monkeypatch.setattr(roi_align_module._RoIAlign, "backward", staticmethod(record))
    maps = {name: m.requires_grad_() for name, m in make_maps().items()}
    make_pool(*FPN_AND_CONTEXT)(maps, make_boxes(), SIZES).flatten(1).square().sum().backward()
    assert seen == [True] * 3


@pytest.mark.parametrize("norm", [None, "channels", "region"])
def test_an_image_alone_equals_it_in_a_batch(norm):
    pool, features, boxes = (
        make_pool(Source(PYRAMID, 1.3, norm), Source(("context",), norm=norm)),
        make_maps(),
        make_boxes(),
    )
    together = pool(features, boxes, SIZES).split([len(b) for b in boxes])
    for i in range(2):
        alone = pool({name: m[i : i + 1] for name, m in features.items()}, boxes[i : i + 1], SIZES[i : i + 1])
        torch.testing.assert_close(together[i], alone)


def test_without_boxes_there_are_no_descriptors_and_gradients_are_zeros(place):
    pool, features = make_pool(*FPN_AND_CONTEXT), {name: m.requires_grad_() for name, m in make_maps().items()}
    found = pool(features, [torch.zeros(0, 4)] * 2, SIZES)
    assert found.shape == (0, 8, 3, 3)
    found.sum().backward()
    assert all(torch.count_nonzero(p.grad) == 0 for p in [*pool.parameters(), features["p2"], features["context"]])


def test_gradcheck_in_float64(place):
    sources = (Source(("p4",), 1.5), Source(("context",), norm="channels"), Source(("context",), norm="region"))
    pool = make_pool(*sources, out_channels=2, output_size=2).double()
    features, boxes = make_maps(dtype=torch.float64), [make_boxes((2, 0))[0].double()]
    p4, context = (features[n][:1].clone().requires_grad_() for n in ("p4", "context"))

    def found(p4, context, *parameters):
        return pool({"p4": p4, "context": context}, boxes, SIZES[:1])

    assert torch.autograd.gradcheck(found, [p4, context, *pool.parameters()])


@pytest.mark.parametrize("norm", ["channels", "region"])
def test_cells_of_zeros_give_zeros_and_small_gradients(norm, place):
    """A context whose ReLUs are dead, or that is 0 outside of the image."""
    pool, features = make_pool(Source(("context",), norm=norm)), make_maps()
    context = features["context"] = (features["context"] * (torch.arange(6) < 3)).requires_grad_()
    boxes = [torch.tensor([[60.0, 10, 90, 40]]), torch.tensor([[0.0, 10, 70, 40]])]
    found = pool(features, boxes, SIZES)
    assert torch.count_nonzero(found[0]) == 0 and torch.count_nonzero(found[1]) > 0
    found.sum().backward()
    largest = max(t.grad.abs().max() for t in (context, *pool.parameters()))
    assert torch.isfinite(largest) and largest < 1e4


def test_normalized_descriptors_do_not_change_with_the_size_of_the_maps(place):
    pool, features, boxes = (
        make_pool(Source(("c3",), norm="channels"), Source(PYRAMID, norm="region")),
        make_maps(),
        make_boxes(),
    )
    small, large = ({name: m * by for name, m in features.items()} for by in (0.1, 1000.0))
    torch.testing.assert_close(pool(small, boxes, SIZES), pool(large, boxes, SIZES))


@pytest.mark.parametrize("norm", ["channels", "region"])
@pytest.mark.parametrize("amplitude", [1.0, 44.0])
def test_amplitude_is_the_root_mean_square_of_a_source(norm, amplitude):
    pool = make_pool(Source(("c3",), norm=norm), out_channels=6, amplitude=amplitude)
    pool.reduce.weight.data[:, :, 0, 0] = torch.eye(6)
    found = pool(make_maps(), make_boxes(), SIZES)
    torch.testing.assert_close(found.square().mean((1, 2, 3)).sqrt(), torch.full((9,), amplitude))


@pytest.mark.parametrize(("learned", "parameters"), [(True, 4), (False, 2)])
def test_amplitudes_are_learned_by_channel_or_kept(learned, parameters):
    sources = (Source(("c3",), norm="channels"), Source(PYRAMID), Source(("context",), norm="region"))
    pool = make_pool(*sources, amplitude=(2, 30), learned_amplitude=learned)
    assert len(list(pool.parameters())) == parameters
    amplitudes = {n: t for n, t in pool.state_dict().items() if n.endswith("amplitude")}
    assert {n: (len(t), t.unique().item()) for n, t in amplitudes.items()} == {
        "parts.0.amplitude": (6, 2.0),
        "parts.2.amplitude": (5, 30.0),
    }
    pool.set_amplitude(7.5)
    assert all((t == 7.5).all() for t in amplitudes.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_close_and_normalizes_in_float32(dtype, place):
    """Maps of 200 in half precision: their squares overflow it."""
    pool, boxes = make_pool(*FPN_AND_CONTEXT), make_boxes()
    features = make_maps()
    features["context"] = features["context"] * 200
    expected = pool(features, boxes, SIZES)
    halves = {name: m.to(dtype).requires_grad_() for name, m in features.items()}
    with torch.autocast("cpu", dtype):
        found = pool(halves, boxes, SIZES)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05)
    found.float().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in (halves["p2"], halves["context"], *pool.parameters()))


def test_the_bias_starts_at_zero_and_weights_by_xavier():
    pool = make_pool(*FPN_AND_CONTEXT)
    assert torch.count_nonzero(pool.reduce.bias) == 0 and pool.reduce.weight.shape == (8, 13, 1, 1)
    bound = math.sqrt(6 / (8 + 13))
    assert 0.8 * bound < pool.reduce.weight.abs().max() <= bound


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sources": ()}, r"pool.sources=\(\): give at least one Source"),
        ({"sources": (Source(("c3",)), Source(()))}, r"pool.sources\[1\].feature_maps=\(\): name at least one"),
        (
            {"sources": (Source(("c9",)),)},
            r"pool.sources\[0\].feature_maps: there is no feature map 'c9'; .* p2, p3, p4, c3, context",
        ),
        ({"sources": (Source(("p2", "c3")),)}, r"pool.sources\[0\].feature_maps=\('p2', 'c3'\): .* different channels"),
        ({"sources": (Source(("p2", "p4")),)}, r"pool: \('p2', 'p4'\) have strides 4, 16: .* twice the stride"),
        ({"sources": (Source(("p3", "p2")),)}, r"pool: \('p3', 'p2'\) have strides 8, 4: .* finest first"),
        ({"amplitude": (1.0, 2.0)}, r"pool.amplitude=\(1.0, 2.0\): needs one number, or one for each of the 1 sources"),
        ({"reference": ("c9",)}, "pool.reference: there is no feature map 'c9'"),
        ({"init": "identity", "out_channels": 4}, r"pool.init=identity: pool.sources\[0\] has 8 .* the 4 channels"),
        (
            {"init": "identity", "sources": (Source(("c3",), norm="region"),)},
            "pool.init=identity: .* norm=region, but must have .* no norm",
        ),
    ],
)
def test_a_wrong_setting_gets_one_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        SkipPool(CHANNELS, STRIDES, **{"sources": FPN_AND_CONTEXT, **settings})
    assert "\n" not in str(error.value)


def test_a_box_scale_of_0_is_refused():
    with pytest.raises(UserError, match=r"pool.sources\[0\].box_scale=0.0: must be above 0"):
        from_plain(partial(SkipPool, sources=(Source(("c3",), 0.0),)), partial[SkipPool], "pool")


class Smooth(Context):
    """A context for tests: a 3×3 convolution with fewer channels."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.out_channels = 5
        self.conv = nn.Conv2d(in_channels, 5, 3, padding=1)

    def forward(self, x, valid):
        return self.conv(x * valid).relu()


def skip_detector(**settings):
    sources = (Source(("p2", "p3")), Source(("context",), 1.5, "channels"))
    return dataclasses.replace(
        DETECTOR,
        backbone=partial(FPN, body=DETECTOR.backbone, stages=("c2", "c3"), out_channels=8),
        context=partial(Smooth),
        context_source="c3",
        pool=partial(SkipPool, sources=sources, output_size=3, **CANONICAL, **settings),
    )


def test_a_detector_learns_through_every_source():
    torch.manual_seed(0)
    detector = build_detector(skip_detector(), 3).train()
    images = [torch.rand(3, 64, 64), torch.rand(3, 48, 64)]
    targets = [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}] * 2
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01)
    before = {n: p.detach().clone() for n, p in detector.named_parameters()}
    losses = detector(images, targets)
    sum(losses.values()).backward()
    optimizer.step()
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name in (
        "context.conv.weight",
        "pool.parts.1.amplitude",
        "pool.reduce.weight",
        "backbone.fpn.layer_blocks.0.0.weight",
    ):
        assert not torch.equal(before[name], detector.get_parameter(name)), name
    assert all(p.grad is not None for p in detector.parameters())


def test_a_context_that_starts_as_identity_detects_what_the_plain_detector_does():
    config = skip_detector(init="identity")
    plain = partial(RoIAlign, stages=("p2", "p3"), output_size=3, **CANONICAL)
    with_context = build_detector(config, 3).eval()
    without = build_detector(dataclasses.replace(config, context=None, pool=plain), 3).eval()
    without.load_state_dict(with_context.state_dict(), strict=False)
    images = [torch.rand(3, 64, 64), torch.rand(3, 48, 64)]
    with torch.no_grad():
        expected, found = without(images), with_context(images)
    for e, f in zip(expected, found, strict=True):
        assert len(e["boxes"]) and all(torch.equal(e[key], f[key]) for key in ("boxes", "labels", "scores"))


def test_sources_survive_config_json():
    sources = (Source(("c2",)), Source(("c3",), 1.5, "region"))
    pool = partial(SkipPool, sources=sources, amplitude=(44.0,), reference=("c3",), output_size=3)
    config = Config(detector=dataclasses.replace(DETECTOR, pool=pool))
    validate(config)
    again = from_plain(json.loads(json.dumps(to_plain(config))), Config)
    assert again.detector.pool.func is SkipPool and again.detector.pool.keywords["sources"] == sources
    assert to_plain(again) == to_plain(config)
    assert build_detector(again.detector, 3).pool.sources == sources


class OneImage(nn.Module):
    """A pool for one image as a module of tensors."""

    def __init__(self, *sources):
        super().__init__()
        self.pool = make_pool(*sources)

    def forward(self, p2, p3, p4, context, boxes):
        return self.pool({"p2": p2, "p3": p3, "p4": p4, "context": context}, [boxes], [(64, 96)])


def one_image(boxes):
    return *(make_maps()[name][:1] for name in (*PYRAMID, "context")), make_boxes((boxes, 0))[0]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_serves_other_numbers_of_boxes():
    module, many, few = OneImage(*FPN_AND_CONTEXT).eval(), one_image(200), one_image(3)
    with torch.no_grad():
        traced = torch.jit.trace(module, many)
        torch.testing.assert_close(traced(*few), module(*few), rtol=1e-4, atol=1e-4)


def test_an_export_serves_other_numbers_of_boxes():
    module = OneImage(Source(("p2",), 1.5), Source(("context",), norm="channels")).eval()
    dynamic = (None, None, None, None, {0: torch.export.Dim("boxes")})
    program = torch.export.export(module, one_image(200), dynamic_shapes=dynamic)
    for boxes in (3, 300):
        torch.testing.assert_close(program.module()(*one_image(boxes)), module(*one_image(boxes)), rtol=1e-4, atol=1e-4)
