"""The spatial RNN: where information goes, against a naive version, and by hand."""

from functools import partial

import pytest
import torch

from detection.cells import IRNN, LSTM, Accumulator, Cell, TanhRNN
from detection.config.serialization import from_plain
from detection.context import AttentionLSTM, SpatialRNN
from detection.errors import UserError
from detection.ops.sweep.directions import DIAGONALS, DIRECTIONS


def all_valid(x):
    return torch.ones(x.shape[0], 1, *x.shape[2:], dtype=torch.bool)


def positive(context):
    """Weights above 0, so that no ReLU stops anything: what can depend, does."""
    with torch.no_grad():
        for parameter in context.parameters():
            parameter.abs_().add_(0.01)
    return context.double()


def dependencies_of(context, row, column, height=5, width=6, valid=None):
    """Locations of the input on which the output at a location depends."""
    x = torch.rand(1, 3, height, width, dtype=torch.float64, requires_grad=True)
    context(x, all_valid(x) if valid is None else valid)[0, :, row, column].sum().backward()
    return x.grad[0].abs().sum(0) > 0


@pytest.mark.parametrize("cell", [Accumulator, TanhRNN, LSTM])
def test_one_layer_depends_on_its_row_and_column_only(cell):
    context = positive(SpatialRNN(3, cell=partial(cell), hidden_channels=4, layers=(DIRECTIONS,)))
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[2], expected[:, 4] = True, True
    assert torch.equal(dependencies_of(context, 2, 4), expected)


def test_one_layer_of_eight_directions_depends_on_four_lines():
    context = positive(SpatialRNN(3, hidden_channels=4, layers=((*DIRECTIONS, *DIAGONALS),)))
    rows, columns = torch.meshgrid(torch.arange(5), torch.arange(6), indexing="ij")
    lines = torch.stack([rows == 2, columns == 4, rows - columns == -2, rows + columns == 6])
    assert torch.equal(dependencies_of(context, 2, 4), lines.any(0))


@pytest.mark.parametrize("layers", [(DIRECTIONS, DIRECTIONS), (("right", "left"), ("down", "up"))])
@pytest.mark.parametrize("cell", [Accumulator, TanhRNN, LSTM])
def test_two_layers_depend_on_every_valid_location_and_no_other(cell, layers):
    context = positive(SpatialRNN(3, cell=partial(cell), hidden_channels=4, layers=layers))
    valid = torch.zeros(1, 1, 5, 6, dtype=torch.bool)
    valid[..., :4, :5] = True
    assert torch.equal(dependencies_of(context, 3, 0, valid=valid), valid[0, 0])


def test_directions_are_those_of_the_scan():
    """`right` scans to the right, so a location depends on what is to its left."""
    for direction, (rows, columns) in {
        "right": (slice(2, 3), slice(0, 4)),
        "left": (slice(2, 3), slice(3, 6)),
        "down": (slice(0, 3), slice(3, 4)),
        "up": (slice(2, 5), slice(3, 4)),
        "down_right": ((0, 1, 2), (1, 2, 3)),
        "down_left": ((0, 1, 2), (5, 4, 3)),
        "up_right": ((4, 3, 2), (1, 2, 3)),
        "up_left": ((4, 3, 2), (5, 4, 3)),
    }.items():
        context = positive(SpatialRNN(3, hidden_channels=4, layers=((direction,),)))
        expected = torch.zeros(5, 6, dtype=torch.bool)
        expected[rows, columns] = True
        assert torch.equal(dependencies_of(context, 2, 3), expected), direction


def naive(context, x):
    """Two layers of accumulators as in the paper's figure, loop by loop."""
    b, _, h, w = x.shape
    for layer in range(2):
        conv = context.convs[layer]
        x = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], x) + conv.bias[None, :, None, None]
        d = x.shape[1]
        swept = torch.zeros(b, 4 * d, h, w, dtype=x.dtype)
        for i in range(h):
            for j in range(w):
                before = swept[:, 0:d, i, j - 1] if j > 0 else 0
                swept[:, 0:d, i, j] = (x[:, :, i, j] + before).clamp(min=0)
                before = swept[:, 2 * d : 3 * d, i - 1, j] if i > 0 else 0
                swept[:, 2 * d : 3 * d, i, j] = (x[:, :, i, j] + before).clamp(min=0)
        for i in reversed(range(h)):
            for j in reversed(range(w)):
                before = swept[:, d : 2 * d, i, j + 1] if j < w - 1 else 0
                swept[:, d : 2 * d, i, j] = (x[:, :, i, j] + before).clamp(min=0)
                before = swept[:, 3 * d :, i + 1, j] if i < h - 1 else 0
                swept[:, 3 * d :, i, j] = (x[:, :, i, j] + before).clamp(min=0)
        x = swept
        if context.scales is not None:
            x = x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt() * context.scales[layer][None, :, None, None]
    conv = context.convs[2]
    return (torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], x) + conv.bias[None, :, None, None]).clamp(min=0)


@pytest.mark.parametrize("rms_norm", [True, False])
def test_equals_a_naive_version(rms_norm):
    torch.manual_seed(0)
    context = SpatialRNN(3, cell=partial(Accumulator), hidden_channels=4, out_channels=5, rms_norm=rms_norm).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(context(x, all_valid(x)), naive(context, x))


def test_by_hand():
    """One channel, all weights 1: 1 0 / 0 2 swept right is 1 1 / 0 2, and ReLU keeps what is not negative."""
    context = SpatialRNN(1, cell=partial(Accumulator), hidden_channels=1, layers=(("right",),), rms_norm=False)
    with torch.no_grad():
        for conv in context.convs:
            conv.weight.fill_(1)
            conv.bias.fill_(0)
    x = torch.tensor([[[[1.0, 0.0, -3.0, 2.0], [0.0, 2.0, 1.0, -1.0]]]])
    assert context(x, all_valid(x)).tolist() == [[[[1, 1, 0, 2], [0, 2, 3, 2]]]]


def test_gradcheck():
    torch.manual_seed(0)
    context = SpatialRNN(2, cell=partial(LSTM), hidden_channels=2, out_channels=2).double()
    x = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    parameters = tuple(context.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: context(x, all_valid(x)), (x, *parameters))


def test_each_direction_of_each_layer_has_separate_recurrent_weights():
    context = SpatialRNN(3, cell=partial(TanhRNN), hidden_channels=4)
    assert len({p.data_ptr() for n, p in context.named_parameters() if n.endswith("weight_hh")}) == 8


def test_convolutions_start_as_glorot_and_bengio_each_gate_alone():
    """Evenly in ±√(6 / (inputs + outputs)), the outputs of one gate: 20 and 30, then 2·30 and 30, then 2·30 and 40."""
    torch.manual_seed(0)
    context = SpatialRNN(
        20, cell=partial(LSTM), hidden_channels=30, out_channels=40, layers=(("right", "left"), ("down", "up"))
    )
    sides = [(20, 30)] * 4, [(60, 30)] * 4, [(60, 40)]
    for conv, gates in zip(context.convs, sides, strict=True):
        for weight, (inputs, outputs) in zip(conv.weight.chunk(len(gates)), gates, strict=True):
            assert weight.shape[:2] == (outputs, inputs)
            assert weight.abs().max().item() == pytest.approx((6 / (inputs + outputs)) ** 0.5, rel=0.02)
        assert not conv.bias.any()


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ((), "at least one layer"),
        ((("right",), ()), "at least one direction"),
        ((("up", "up"),), "names a direction twice"),
        ((("rigth",),), "rigth is no direction here; take right, left"),
    ],
)
def test_bad_layers_get_one_sentence(layers, sentence):
    with pytest.raises(UserError, match=sentence):
        SpatialRNN(3, layers=layers)


def test_an_unknown_direction_is_refused():
    with pytest.raises(UserError, match=r"context.layers\[0\]\[0\]=rigth: .* \(did you mean right\?\)"):
        from_plain(partial(SpatialRNN, layers=(("rigth",),)), partial[SpatialRNN], "context")


@pytest.mark.parametrize("cell", [Accumulator, IRNN])
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_sums_along_a_line_do_not_overflow_in_mixed_precision(cell, precision):
    """60 locations of 40 through two layers: sums of sums are far beyond 65504, float16's largest number."""
    torch.manual_seed(0)
    context = positive(SpatialRNN(4, cell=partial(cell), hidden_channels=4)).float()
    x = torch.full((1, 4, 1, 60), 40.0, requires_grad=True)
    exact = context(x, all_valid(x))
    assert exact.max() > 65504
    with torch.autocast("cpu", precision):
        found = context(x, all_valid(x))
        found.float().mean().backward()
    torch.testing.assert_close(found.float(), exact, rtol=0.05 if precision == torch.bfloat16 else 5e-3, atol=1.0)
    assert x.grad.isfinite().all()


class Plain(Cell):
    """A cell as docs/extending.md says how to write one: no default for what the builder gives."""

    def __init__(self, hidden_size, input_size, *, scale=1.0):
        super().__init__(hidden_size, input_size)
        self.scale = scale

    def step(self, x, state):
        return (torch.tanh(self.scale * (x + self._recur(state[0]))),)


@pytest.mark.parametrize("context", [SpatialRNN, AttentionLSTM])
def test_contexts_give_a_cell_its_input_size(context):
    x, valid = torch.randn(2, 3, 4, 5), torch.ones(2, 1, 4, 5, dtype=torch.bool)
    assert context(3, cell=partial(Plain, scale=0.5), hidden_channels=4)(x, valid).isfinite().all()
    with pytest.raises(UserError, match="cell.input_size=9: what uses the cell gives it its input size; leave it out"):
        context(3, cell=partial(Plain, input_size=9), hidden_channels=4)
