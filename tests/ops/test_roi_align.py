"""Our RoIAlign against torchvision's: the same descriptors, gradients to rounding, and torchvision itself elsewhere."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from detection.ops import roi_align as module
from detection.ops.roi_align import roi_align
from detection.pooling import RoIAlign


@pytest.fixture
def always(monkeypatch):
    """Our backward whatever the size."""
    for name in ("MIN_CHANNELS", "MIN_VALUES"):
        monkeypatch.setattr(module, name, 0)


def is_ours(output):
    return type(output.grad_fn).__name__ == "_RoIAlignBackward"


def one_map(m, rois, scale=1.0, n=2, samples=2):
    """Ours on a single map."""
    return roi_align([m], rois, torch.zeros(len(rois), dtype=torch.int64), [scale], n, samples)


def gradients(output, features, grad):
    return torch.autograd.grad(output, features, grad)


def assert_close(ours, theirs):
    """Equal to 1e-5 of the largest gradient."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()) + 1e-12)


def test_one_sample_between_four_cells(always):
    """A box of size 1 with one sample in its center, (1.25, 0.5): a quarter to the right, half down."""
    m = torch.arange(6.0).view(1, 1, 2, 3).requires_grad_()  # 0 1 2 / 3 4 5
    output = one_map(m, torch.tensor([[0, 0.75, 0.0, 1.75, 1.0]]), n=1, samples=1)
    assert is_ours(output)
    assert output.item() == pytest.approx((1 * 3 + 2 * 1 + 4 * 3 + 5 * 1) / 8)
    (grad,) = gradients(output, [m], torch.full((1, 1, 1, 1), 8.0))
    assert grad.flatten().tolist() == [0, 3, 1, 0, 3, 1]


def test_a_sample_up_to_one_cell_outside_reads_the_border(always):
    m = torch.ones(1, 1, 2, 3, requires_grad=True)
    # One sample each, at x = -1, -1.5, 3 and 3.5, y = 0.
    rois = torch.tensor([[0, x - 0.5, -0.5, x + 0.5, 0.5] for x in (-1, -1.5, 3, 3.5)])
    output = one_map(m, rois, n=1, samples=1)
    assert output.flatten().tolist() == [1, 0, 1, 0]
    (grad,) = gradients(output, [m], torch.tensor([1.0, 10, 100, 1000]).view(4, 1, 1, 1))
    assert grad.flatten().tolist() == [1, 0, 100, 0, 0, 0]


coordinate = st.one_of(
    st.floats(-40, 120, width=32), st.integers(-40, 120).map(float), st.sampled_from([-8.0, -4.0, 0.0, 32.0, 64.0])
)


@st.composite
def pyramids(draw):
    """Strides, an image's size, boxes of each image (outside, inverted and empty ones too), bins, samples, a seed."""
    strides = [4, 8, 16][: draw(st.integers(1, 3))]
    size = (draw(st.integers(1, 4)) * 16, draw(st.integers(1, 4)) * 16)
    images = draw(st.lists(st.lists(st.tuples(*[coordinate] * 4), max_size=5), min_size=1, max_size=3))
    return strides, size, images, draw(st.integers(1, 7)), draw(st.integers(1, 4)), draw(st.integers(0, 99))


@settings(deadline=None, max_examples=150)
@given(pyramids())
def test_every_pyramid_equals_torchvisions(pyramid):
    strides, (height, width), images, n, samples, seed = pyramid
    generator = torch.Generator().manual_seed(seed)
    features = {
        f"p{s}": torch.randn(len(images), 3, height // s, width // s, generator=generator).requires_grad_()
        for s in strides
    }
    boxes = [torch.tensor(b).view(-1, 4) for b in images]
    pool = RoIAlign(
        dict.fromkeys(features, 3),
        dict(zip(features, strides, strict=True)),
        stages=tuple(features),
        output_size=n,
        sampling_ratio=samples,
        canonical_scale=32,
        canonical_level=3,
    )
    theirs = MultiScaleRoIAlign(list(features), n, samples, canonical_scale=32, canonical_level=3)
    theirs.scales = [1 / s for s in strides]
    theirs.map_levels = initLevelMapper(int(math.log2(strides[0])), int(math.log2(strides[-1])), 32, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_CHANNELS", 0)
        patch.setattr(module, "MIN_VALUES", 0)
        found = pool(features, boxes, [(height, width)] * len(images))
    expected = theirs(features, boxes, [(height, width)] * len(images))
    assert is_ours(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(pool(features, boxes, [(height, width)] * len(images)), expected)
    grad = torch.randn(expected.shape, generator=generator)
    assert_close(gradients(found, list(features.values()), grad), gradients(expected, list(features.values()), grad))


def test_gradcheck_in_float64(always):
    features = [torch.randn(2, 2, s, s + 1, dtype=torch.float64, requires_grad=True) for s in (6, 3)]
    corners = torch.rand(6, 2, dtype=torch.float64) * 24 - 6
    boxes = torch.cat([corners, corners + torch.rand(6, 2, dtype=torch.float64) * 20], dim=1)
    rois = torch.cat([torch.tensor([0.0, 0, 1, 1, 1, 0], dtype=torch.float64)[:, None], boxes], dim=1)
    levels = torch.tensor([0, 1, 1, 0, 0, 1])
    assert torch.autograd.gradcheck(lambda *m: roi_align(m, rois, levels, [1 / 4, 1 / 8], 3, 2), features)


def test_a_map_without_boxes_gets_zeros(always):
    features = [torch.randn(1, 2, 4, 4, requires_grad=True) for _ in range(2)]
    output = roi_align(features, torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), [1.0, 0.5], 3, 2)
    assert output.shape == (0, 2, 3, 3)
    assert all(torch.equal(g, torch.zeros(1, 2, 4, 4)) for g in gradients(output, features, torch.zeros(0, 2, 3, 3)))


def test_only_the_maps_that_learn_get_gradients(always):
    frozen, learns = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 2, 2, requires_grad=True)
    rois = torch.tensor([[0.0, 0, 0, 4, 4], [0, 1, 1, 3, 3]])
    output = roi_align([frozen, learns], rois, torch.tensor([0, 1]), [1.0, 0.5], 2, 2)
    output.sum().backward()
    assert frozen.grad is None and learns.grad is not None and learns.grad.sum() == pytest.approx(2 * 4)


def test_equal_boxes_on_other_levels_or_maps_have_other_gradients(always):
    """One call after another, so that nothing of the one before may be used again."""
    rois = torch.tensor([[0.0, 1, 1, 6, 6], [0, 2, 0, 7, 5]])
    cases = [((8, 8), (0, 0), (1, 1)), ((8, 8), (0, 1), (1, 1)), ((8, 8), (0, 1), (1, 0.5)), ((8, 4), (0, 1), (1, 0.5))]
    for sizes, levels, scales in cases:
        features = [torch.zeros(1, 2, s, s, requires_grad=True) for s in sizes]
        output = roi_align(features, rois, torch.tensor(levels), scales, 2, 2)
        alone = [
            torchvision.ops.roi_align(features[k], roi[None], 2, scales[k], 2)
            for k, roi in zip(levels, rois, strict=True)
        ]
        expected = torch.cat(alone)
        ours, theirs = (torch.autograd.grad(y.sum(), features, allow_unused=True) for y in (output, expected))
        assert_close(ours, [torch.zeros_like(f) if g is None else g for f, g in zip(features, theirs, strict=True)])


def big_case():
    """A case over the thresholds: 256 boxes, 32 channels."""
    torch.manual_seed(0)
    corners = torch.rand(256, 2) * 60
    rois = torch.cat([torch.randint(0, 2, (256, 1)).float(), corners, corners + torch.rand(256, 2) * 60], dim=1)
    return torch.randn(2, 32, 20, 24, requires_grad=True), rois


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_torchvisions_types(dtype):
    m, rois = big_case()
    m = m.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = one_map(m, rois, 1 / 4, 7)
        expected = torchvision.ops.roi_align(m, rois, 7, 1 / 4, 2)
    assert is_ours(found) and found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 2**-7)
    grad = torch.randn_like(expected)
    (a,), (b,) = gradients(found, [m], grad), gradients(expected, [m], grad)
    assert a.dtype == b.dtype == dtype
    torch.testing.assert_close(a, b, rtol=0, atol=(1e-5 if dtype == torch.float32 else 2**-7) * float(b.abs().max()))


def test_descriptors_have_channels_last():
    """As convolutions of such maps have, and as the gradient is read."""
    m, rois = big_case()
    assert one_map(m, rois, 1 / 4, 7).is_contiguous(memory_format=torch.channels_last)


def test_gradients_repeat_bit_by_bit():
    m, rois = big_case()
    output = one_map(m, rois, 1 / 4, 7)
    grad = torch.randn_like(output)
    first, again = (torch.autograd.grad(output, m, grad, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)


def test_a_second_derivative_is_refused():
    m, rois = big_case()
    (grad,) = torch.autograd.grad(one_map(m, rois, 1 / 4, 7).square().sum(), m, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


@pytest.mark.parametrize("change", ["small", "few channels", "adaptive", "many samples", "no grad"])
def test_torchvisions_backward_where_ours_does_not_pay(change):
    m, rois = big_case()
    rois = rois[:4] if change == "small" else rois
    m = m[:, :8] if change == "few channels" else m.detach() if change == "no grad" else m
    samples = {"adaptive": 0, "many samples": 5}.get(change, 2)
    found, expected = one_map(m, rois, 1 / 4, 7, samples), torchvision.ops.roi_align(m, rois, 7, 1 / 4, samples)
    assert not is_ours(found) and torch.equal(found, expected)
    if change != "no grad":
        grad = torch.randn_like(expected)
        assert_close(gradients(found, [m], grad), gradients(expected, [m], grad))


class Pool(torch.nn.Module):
    """A pool of one map or two, for one image, as a module of tensors."""

    def __init__(self, stages):
        super().__init__()
        self.stages = stages
        self.pool = RoIAlign({"p2": 32, "p3": 32}, {"p2": 4, "p3": 8}, stages=stages)

    def forward(self, m, boxes):
        features = {"p2": m, "p3": m[:, :, ::2, ::2]}
        return self.pool(features, [boxes], [(80, 96)])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("stages", [("p2",), ("p2", "p3")])
def test_a_trace_holds_torchvisions_op(stages):
    m, rois = big_case()
    rois[:, 1:] *= 4
    pool, args = Pool(stages), (m[:1].detach().requires_grad_(), rois[:, 1:])
    traced = torch.jit.trace(pool, args)
    assert "torchvision::roi_align" in str(traced.inlined_graph)
    with torch.no_grad():
        assert torch.equal(traced(*args), pool(*args))


@pytest.mark.parametrize("stages", [("p2",), ("p2", "p3")])
def test_an_export_holds_torchvisions_op(stages):
    m, rois = big_case()
    rois[:, 1:] *= 4
    pool, args = Pool(stages), (m[:1].detach(), rois[:, 1:])
    program = torch.export.export(pool, args)
    assert "torchvision.roi_align" in str(program.graph)
    assert torch.equal(program.module()(*args), pool(*args))


def test_weights_are_kept_for_equal_boxes_alone(always, monkeypatch):
    """As in a skip pool: another map of the same size costs no second W; anything else that differs does."""
    built = []
    build = module._weights
    monkeypatch.setattr(module, "_weights", lambda *args: built.append(args) or build(*args))
    monkeypatch.setattr(module, "_last_weights", module._LastWeights())
    rois = torch.tensor([[0, 1.0, 1.0, 5.0, 4.0], [1, 0.0, 2.0, 3.0, 6.0]])

    def check(rois, builds, channels=3, scale=1.0, n=2, samples=2, dtype=torch.float32, height=7, width=6):
        m = torch.randn(2, channels, height, width, dtype=dtype, requires_grad=True)
        rois = rois.to(dtype)
        output = one_map(m, rois, scale, n, samples)
        grad = torch.randn_like(output)
        theirs = torchvision.ops.roi_align(m, rois, n, scale, samples)
        assert_close(gradients(output, [m], grad), gradients(theirs, [m], grad))
        assert len(built) == builds

    check(rois, 1)
    check(rois.clone(), 1, channels=5)
    rois += 0.5  # the very tensor that was kept
    check(rois, 2)
    check(rois[:1], 3)
    check(rois[:1], 4, scale=0.5)
    check(rois[:1], 5, n=3)
    check(rois[:1], 6, samples=1)
    check(rois[:1], 7, dtype=torch.float64)
    check(rois[:1], 8, dtype=torch.float64, height=6, width=7)


def test_a_gpu_that_must_repeat_takes_our_backward_on_its_own_memory(monkeypatch):
    """Shapes and devices alone are computed: a tensor left on the CPU is an error."""
    monkeypatch.setattr(module, "_last_weights", module._weights)
    with FakeTensorMode(shape_env=ShapeEnv()):
        features = [torch.randn(2, 16, s, s, device="cuda", requires_grad=True) for s in (8, 4)]
        rois, levels = torch.rand(6, 5, device="cuda"), torch.zeros(6, dtype=torch.int64, device="cuda")
        assert not is_ours(roi_align(features[:1], rois, levels, [1.0], 3, 2))
        torch.use_deterministic_algorithms(True)
        try:
            output = roi_align(features[:1], rois, levels, [1.0], 3, 2)
            # Without adaptive sampling, whose samples differ by box.
            assert is_ours(output) and not is_ours(roi_align(features[:1], rois, levels, [1.0], 3, 0))
            grads = output.grad_fn.apply(torch.ones_like(output))  # pyright: ignore
        finally:
            torch.use_deterministic_algorithms(False)
        assert grads[-1].device.type == "cuda" and grads[-1].shape == (2, 16, 8, 8)
