"""What every context must do, whatever it is: one table, one set of tests."""

import dataclasses
import json
from functools import partial

import pytest
import torch

from detection.cells import CELLS, GRU, LSTM, MLSTM, S6, SSD, LinearCell, PeepholeLSTM, ScannedCell
from detection.config.serialization import from_plain, to_plain
from detection.context import (
    AttentionLSTM,
    ConvStack,
    CrossScan,
    GlobalAverage,
    GridLSTM,
    LargeKernel,
    LinePropagation,
    NoContext,
    NonLocal,
    RecurrentConv,
    SelfAttention,
    SpatialRNN,
)
from detection.contracts import Context
from detection.ops.sweep.directions import DIAGONALS
from detection.testing import check_context, padded_batch

IN = 6
CONTEXTS = {
    # What a memory is read by is a product of three pre-activations, which two layers without a norm raise to the ninth
    # power of the input: its rounding then exceeds what is allowed of others.
    **{
        c.__name__: partial(
            SpatialRNN, cell=partial(c), hidden_channels=5, out_channels=7, rms_norm=issubclass(c, ScannedCell)
        )
        for c in CELLS
    },
    "GRU, reset before": partial(SpatialRNN, cell=partial(GRU, reset="before"), hidden_channels=5),
    "one layer, two directions": partial(SpatialRNN, hidden_channels=5, layers=(("left", "up"),)),
    "rows, then columns": partial(SpatialRNN, hidden_channels=5, layers=(("right", "left"), ("down", "up"))),
    "rows and diagonals": partial(SpatialRNN, hidden_channels=5, layers=(("right", "up_left", "down_left"), ("left",))),
    "LSTM, diagonals": partial(SpatialRNN, cell=partial(LSTM), hidden_channels=5, layers=(DIAGONALS,)),
    "normalized": partial(SpatialRNN, hidden_channels=5, rms_norm=True),
    "grid LSTM": partial(GridLSTM, hidden_channels=5, out_channels=7),
    "grid LSTM, two layers": partial(
        GridLSTM, hidden_channels=5, layers=(("top_left", "bottom_right"), ("top_right",))
    ),
    "grid LSTM of 2007": partial(GridLSTM, hidden_channels=5, stable=False),
    "linear grid, propagation": partial(GridLSTM, hidden_channels=4, linear=True),
    "linear grid, diffusion": partial(GridLSTM, hidden_channels=5, linear=True, mode="D", out_channels=7),
    "two 3x3": partial(ConvStack, hidden_channels=5),
    "two 5x5": partial(ConvStack, hidden_channels=5, kernel_size=5),
    "global average": partial(GlobalAverage, hidden_channels=5),
    "non-local": partial(NonLocal),
    "self-attention": partial(SelfAttention, hidden_channels=8, num_heads=2, num_layers=2),
    "self-attention alone": partial(SelfAttention, hidden_channels=8, num_heads=1, expansion=0),
    "large kernel": partial(LargeKernel, hidden_channels=5),
    "cross-scan": partial(CrossScan, hidden_channels=5),
    "cross-scan, S6": partial(
        CrossScan, cell=partial(S6), hidden_channels=4, num_layers=2, rms_norm=True, out_channels=3
    ),
    **{
        f"cross-scan, {c.__name__}": partial(CrossScan, cell=partial(c), hidden_channels=5)
        for c in CELLS
        if issubclass(c, LinearCell) or c in (SSD, MLSTM)
    },
    "line propagation": partial(LinePropagation, hidden_channels=5),
    "line propagation, groups": partial(
        LinePropagation,
        hidden_channels=4,
        groups=2,
        layers=(("right", "left"), ("down",)),
        rms_norm=True,
        out_channels=3,
    ),
    "attention": partial(AttentionLSTM, hidden_channels=5, size=4),
    "attention, every cell": partial(AttentionLSTM, hidden_channels=5, score="additive"),
    "attention, additive": partial(AttentionLSTM, hidden_channels=5, size=4, score="additive", num_steps=2),
    "attention, one attention step": partial(AttentionLSTM, hidden_channels=5, size=4, num_steps=1),
    "attention, GRU": partial(AttentionLSTM, cell=partial(GRU), hidden_channels=5, size=4, num_layers=2),
    "attention, peephole": partial(AttentionLSTM, cell=partial(PeepholeLSTM), hidden_channels=5, size=4),
    "recurrent conv": partial(RecurrentConv, hidden_channels=5),
    "recurrent conv, group norm": partial(RecurrentConv, hidden_channels=8, norm="group", num_steps=2),
    "recurrent conv, batch norm": partial(RecurrentConv, hidden_channels=5, norm="batch"),
    "recurrent conv, residual": partial(RecurrentConv, norm="group", residual=True, init="zero"),
    "recurrent conv, fed once": partial(RecurrentConv, norm="none", feed="first", num_steps=2),
    "recurrent conv, gated": partial(RecurrentConv, hidden_channels=5, norm="batch", gated=True),
    "recurrent conv, gated residual": partial(RecurrentConv, norm="group", residual=True, init="zero", gated=True),
    "none": partial(NoContext),
}
# In training its statistics are those of the batch, so that an image alone is not as in a batch.
IN_EVALUATION_MODE = {"recurrent conv, batch norm", "recurrent conv, gated"}
# Quick to compile, one of each kind; that each cell's sweep compiles is tested with the sweeps.
COMPILED = {
    "Accumulator",
    "MinGRU",
    "normalized",
    "grid LSTM",
    "two 3x3",
    "non-local",
    "self-attention",
    "large kernel",
    "attention, one attention step",
    "none",
}
COMPILED |= {
    "cross-scan",
    "line propagation",
    "rows and diagonals",
    "recurrent conv",
    "recurrent conv, batch norm",
    "attention, GRU",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    context: partial[Context]


@pytest.fixture(params=list(CONTEXTS))
def name(request):
    return request.param


@pytest.fixture
def context(name):
    """With random weights everywhere: some are 0 at first, which would hide mistakes."""
    torch.manual_seed(0)
    context = CONTEXTS[name](IN)
    with torch.no_grad():
        for parameter in context.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return context.eval() if name in IN_EVALUATION_MODE else context


def test_contract(name):
    check_context(CONTEXTS[name], IN)


def test_some_output_is_not_0(context):
    assert context(*padded_batch(IN)).abs().max() > 0


def test_every_parameter_learns(context):
    x, valid = padded_batch(IN)
    context(x, valid).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in context.parameters())


def test_only_no_context_has_no_weights(context, name):
    assert bool(list(context.parameters())) == (name != "none")


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_mixed_precision_stays_close(context, name, precision):
    x, valid = padded_batch(IN)
    exact = context(x, valid)
    with torch.autocast("cpu", dtype=precision):
        y = context(x, valid)
        y.float().square().mean().backward()
    assert torch.isfinite(y).all()
    # An mLSTM divides by a sum of terms of both signs, which may nearly cancel.
    allowed = 0.25 if name.endswith("MLSTM") else 0.06
    assert (y.float() - exact).abs().max() < allowed * exact.abs().max() + 0.02
    assert all(torch.isfinite(p.grad).all() for p in context.parameters())


def test_state_dict_round_trip(context, name):
    x, valid = padded_batch(IN)
    other = CONTEXTS[name](IN).train(context.training)
    other.load_state_dict(context.state_dict())
    assert torch.equal(other(x, valid), context(x, valid))


def test_it_is_rebuilt_from_plain_data(context, name):
    """As when a run is opened."""
    plain = json.loads(json.dumps(to_plain(Settings(CONTEXTS[name]))))
    rebuilt = from_plain(plain, Settings).context(IN)
    assert {n: p.shape for n, p in rebuilt.state_dict().items()} == {
        n: p.shape for n, p in context.state_dict().items()
    }


def test_maps_and_masks_of_any_strides(context):
    """Such as those of a turned image, for which a mask alone may have other strides than the map."""
    x, valid = padded_batch(IN)
    expected = context(x, valid)
    for given in ((x, valid.mT.contiguous().mT), (x.mT.contiguous().mT, valid), (x.flip(3).flip(3), valid[:, [0, 0]])):
        torch.testing.assert_close(context(given[0], given[1][:, :1]), expected, rtol=1e-5, atol=1e-5)


def test_weights_of_half_precision(context, name):
    x, valid = padded_batch(IN)
    expected = context(x, valid)
    found = context.half()(x.half(), valid).float()
    allowed = 0.25 if name.endswith("MLSTM") else 0.06
    assert (found - expected).abs().max() < allowed * expected.abs().max() + 0.02


@pytest.mark.parametrize("name", [n for n in CONTEXTS if not n.startswith("self-")])  # PyTorch's attention has none
def test_a_second_derivative_is_computed_or_refused(context):
    x, valid = padded_batch(IN, ((2, 3), (3, 1)), 3, 3)
    (first,) = torch.autograd.grad(context(x, valid).square().sum(), x, create_graph=True)
    try:
        first.square().sum().backward()
    except NotImplementedError as error:
        assert "its operation has no second derivative; differentiate once" in str(error)


def test_double_precision_is_close(context):
    x, valid = padded_batch(IN)
    y = context.double()(x.double(), valid)
    torch.testing.assert_close(y.float(), context.float()(x, valid), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in COMPILED else pytest.mark.slow) for n in CONTEXTS])
def test_compiles_without_graph_breaks(context):
    """On a small map: what has no operation is unrolled step by step."""
    x, valid = padded_batch(IN, ((2, 2), (3, 1)), 3, 2)
    torch._dynamo.reset()
    compiled = torch.compile(context, fullgraph=True, backend="aot_eager")
    expected, found = context(x, valid), compiled(x, valid)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
    leaves = list(context.parameters())
    if leaves:
        for a, b in zip(
            torch.autograd.grad(expected.sum(), leaves), torch.autograd.grad(found.sum(), leaves), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
