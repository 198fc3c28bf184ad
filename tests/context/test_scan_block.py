"""The block around a context against its formula, as a no-op at first, and around every context."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from detection.backbones import RecurrentStages, Tiny
from detection.context import ConvStack, GlobalAverage, GridLSTM, NoContext, ScanBlock, SelfAttention, SpatialRNN
from detection.detector import build_detector
from detection.insertion import add_context
from detection.testing import check_context, padded_batch
from tests.context.test_contract import CONTEXTS
from tests.tiny_runs import DETECTOR


def randomized(block):
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return block


@pytest.mark.parametrize("name", CONTEXTS)
def test_contract(name):
    check_context(partial(ScanBlock, mixer=CONTEXTS[name], hidden_channels=8), 6)


@pytest.mark.parametrize("hidden_channels", [None, 5])
def test_it_is_its_formula(hidden_channels):
    torch.manual_seed(0)
    mixer = partial(GlobalAverage, hidden_channels=4)
    block = randomized(ScanBlock(6, mixer=mixer, hidden_channels=hidden_channels)).double()
    x, valid = (t.detach() for t in padded_batch(6))
    x = x.double() * valid

    def over_rms(t, scale):
        return t / (t.square().mean(1, keepdim=True) + 1e-6).sqrt() * scale.view(1, -1, 1, 1)

    size = hidden_channels or 6
    both = F.conv2d(over_rms(x, block.scale), block.branches.weight, block.branches.bias)
    read = F.conv2d(both[:, :size] * valid, block.depthwise.weight, block.depthwise.bias, padding=1, groups=size)
    mixed = over_rms(block.mixer(F.silu(read) * valid, valid), block.mixed_scale) * F.silu(both[:, size:])
    expected = (x + F.conv2d(mixed, block.output.weight, block.output.bias)) * valid
    torch.testing.assert_close(block(x, valid), expected)


def test_gradcheck():
    block = randomized(ScanBlock(2, mixer=partial(GridLSTM, hidden_channels=2))).double()
    x, valid = padded_batch(2, ((2, 3), (3, 1)), 3, 3)
    assert torch.autograd.gradcheck(lambda x: block(x, valid), x.double())


@pytest.mark.parametrize("mixer", [partial(SpatialRNN, hidden_channels=5), partial(GridLSTM, hidden_channels=5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_at_first_it_changes_no_bit_and_learns(mixer, dtype):
    x, valid = padded_batch(6)
    block, x = ScanBlock(6, mixer=mixer).to(torch.promote_types(dtype, torch.float32)), x.detach().to(dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype.itemsize < 4):
        y = block(x, valid)
        assert y.dtype == dtype and torch.equal(y, x * valid)
        y.float().square().sum().backward()
    assert block.output.weight.grad.abs().sum() > 0


def test_a_trained_detector_stays_the_same():
    torch.manual_seed(0)
    plain, image = build_detector(DETECTOR, 3).eval(), [torch.rand(3, 64, 64)]
    with torch.no_grad():
        expected = plain(image)[0]
        found = add_context(plain, partial(ScanBlock, mixer=partial(GridLSTM, hidden_channels=8)), "c3")(image)[0]
    assert len(expected["boxes"]) and all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_backbone_with_blocks_between_its_stages_stays_the_same():
    layer = partial(ScanBlock, mixer=partial(SpatialRNN, hidden_channels=8))
    torch.manual_seed(0)
    body = partial(Tiny, channels=(8, 16))
    plain, image = body().eval(), torch.rand(2, 3, 64, 64)
    with_blocks = RecurrentStages(body, recurrent_stages=("c2", "c3"), layer=layer).eval()
    with_blocks.body.load_state_dict(plain.state_dict())
    assert sum(isinstance(m, ScanBlock) for m in with_blocks.modules()) == 2
    for name, feature in plain(image).items():
        assert torch.equal(with_blocks(image)[name], feature)


def test_without_a_mixer_it_sees_three_by_three():
    """The norms read one location at a time."""
    block = randomized(ScanBlock(3, mixer=partial(NoContext))).double()
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    y = block(x, torch.ones(1, 1, 5, 5, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(y[0, :, 2, 2].sum(), x)
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[1:4, 1:4] = True
    assert torch.equal((gradient[0] != 0).any(0), expected)


def test_features_beyond_half_precision_stay_finite():
    """Squares of 1000 are beyond float16, and so are sums along a line that the mixer gives in float32."""
    block = randomized(ScanBlock(6, mixer=partial(SpatialRNN, hidden_channels=5)))
    x, valid = padded_batch(6)
    with torch.autocast("cpu", dtype=torch.float16):
        y = block((1000 * x.detach()).half(), valid)
    assert y.isfinite().all()
    assert ScanBlock(6, mixer=partial(NoContext)).half()(x.detach().half(), valid).dtype == torch.float16


def test_parts_of_a_projection_start_alone():
    torch.manual_seed(0)
    for part in SelfAttention(64).blocks[0].qkv.weight.chunk(3):
        assert 0.95 < part.abs().max() / (6 / (64 + 64)) ** 0.5 <= 1
    block = ScanBlock(64, mixer=partial(ConvStack, hidden_channels=32))
    for part in block.branches.weight.split(block.sizes):
        assert 0.95 < part.abs().max() / (6 / (64 + len(part))) ** 0.5 <= 1
