"""What a location sees through a two-dimensional LSTM, how far its start reaches, and settings that are refused."""

import pytest
import torch

from detection.analysis.receptive_field import decay, effective_receptive_field, random_inputs
from detection.context import GridLSTM
from detection.errors import UserError
from detection.ops.grid.corners import CORNERS


def seen(context, size, at):
    """Return the locations (H, W) whose input changes the output at a location: the support of the Jacobian."""
    x = torch.randn(1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = context.double()(x, torch.ones(1, 1, *size, dtype=torch.bool))
    found = torch.zeros(size, dtype=torch.bool)
    for value in y[0, :, at[0], at[1]]:
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        found |= (gradient[0] != 0).any(0)
    return found


def quadrant(corner, size, at):
    found = torch.zeros(size, dtype=torch.bool)
    rows = slice(None, at[0] + 1) if corner.startswith("top") else slice(at[0], None)
    columns = slice(None, at[1] + 1) if corner.endswith("left") else slice(at[1], None)
    found[rows, columns] = True
    return found


FORMS = [{}, {"stable": False}, {"linear": True}, {"linear": True, "mode": "D"}]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("corner", CORNERS)
def test_one_corner_sees_its_quadrant_and_no_more(corner, form):
    torch.manual_seed(0)
    context = GridLSTM(2, hidden_channels=3, out_channels=8, layers=((corner,),), **form)
    for at in ((2, 3), (0, 0), (4, 1)):
        assert torch.equal(seen(context, (5, 6), at), quadrant(corner, (5, 6), at))


@pytest.mark.parametrize("form", FORMS)
def test_four_corners_see_the_whole_map_in_one_layer(form):
    torch.manual_seed(0)
    assert seen(GridLSTM(2, hidden_channels=3, out_channels=8, **form), (5, 6), (2, 3)).all()


@pytest.mark.parametrize("size", [(81, 1), (1, 81), (81, 81)])
@pytest.mark.parametrize("mode", ["P", "D"])
def test_at_the_start_the_linear_form_remembers_a_line_of_40(mode, size):
    torch.manual_seed(0)
    context = GridLSTM(16, hidden_channels=16, linear=True, mode=mode)
    _, values = decay(effective_receptive_field(context, random_inputs(16, *size, 1)))
    assert 0.1 < values[40] < 1.1


def test_at_the_start_the_stable_form_remembers_a_line_of_40():
    torch.manual_seed(0)
    context = GridLSTM(4, hidden_channels=16)
    _, values = decay(effective_receptive_field(context, random_inputs(4, 1, 81, 1)))
    assert 0.1 < values[40] < 1.1
    bias = context.layers[0].bias.view(4, 5, 16)
    assert (bias[:, 1] == 5).all() and bias[0, 2].tolist() == [5, -5] * 8


def test_forms_that_exclude_each_other_are_refused():
    with pytest.raises(UserError, match="context.mode=D: is of the linear form"):
        GridLSTM(4, mode="D")
    with pytest.raises(UserError, match="context.mode=d: take P or D"):
        GridLSTM(4, linear=True, mode="d")
    with pytest.raises(UserError, match="context.stable=false: is of the LSTM"):
        GridLSTM(4, stable=False, linear=True)


def test_at_the_start_a_line_of_40_is_remembered_and_nothing_explodes():
    """With gates of 1/2 a memory of 2⁻¹⁶ is left after 16 steps along a row; with both near 1 it doubles at each."""
    torch.manual_seed(0)
    context = GridLSTM(4, hidden_channels=16, stable=False)
    _, values = decay(effective_receptive_field(context, random_inputs(4, 1, 81, 1)))
    assert 0.1 < values[40] < 1.1
    _, values = decay(effective_receptive_field(context, random_inputs(4, 41, 41, 1)))
    assert 0.1 < values[20] < 1.1
    bias = context.layers[0].bias.view(4, 5, 16)
    torch.testing.assert_close(bias[:, 1:3].sigmoid().sum(1), torch.ones(4, 16))
    context = GridLSTM(4, hidden_channels=16, forget_bias=0.0, stable=False)
    _, values = decay(effective_receptive_field(context, random_inputs(4, 33, 33, 1)))
    assert values[16] < 1e-3


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ((), "at least one layer"),
        (((),), "each at least one corner"),
        ((("top_left", "top_left"),), "names a corner twice"),
        ((("top", "left"),), "top is no corner here; take top_left"),
    ],
)
def test_layers_without_corners_are_refused(layers, sentence):
    with pytest.raises(UserError, match=sentence):
        GridLSTM(4, layers=layers)


def test_sums_over_a_map_do_not_overflow_in_mixed_precision():
    """With all gates open, mode D sums 3000 values of 120, half of which go both ways: float16 ends at 65504."""
    torch.manual_seed(0)
    context = GridLSTM(4, hidden_channels=4, linear=True, mode="D")
    layer = context.layers[0]
    layer.values.bias.data.fill_(120.0)
    biases = layer.gates.bias.data.fill_(8.0).view(4, 8, -1)
    biases[:, 1] = 0  # what a source splits between its edges
    x = torch.randn(1, 4, 50, 60, generator=torch.Generator().manual_seed(0)).requires_grad_()
    valid = torch.ones(1, 1, 50, 60, dtype=torch.bool)
    exact = context(x, valid)
    with torch.autocast("cpu", torch.float16):
        found = context(x, valid)
        found.float().mean().backward()
    torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.02)
    assert x.grad.isfinite().all()


def test_defaults_of_both_forms():
    torch.manual_seed(0)
    made = GridLSTM(2, hidden_channels=16, linear=True).layers[0]
    assert (made.mode, made.heads) == ("P", 8)
    lstm = GridLSTM(2, hidden_channels=50).layers[0]
    assert 0.099 < lstm.weight.abs().max() <= 0.1
    other = GridLSTM(2, hidden_channels=8, linear=True, forget_bias=3.0).layers[0]
    assert (other.gates.bias.view(4, 9, 8)[:, 2] == 3).all()


def test_the_start_of_the_linear_form():
    """Transitions of half of the heads have a bias of 5, the others' go down to 1; by gate for the first head."""
    biases = GridLSTM(2, hidden_channels=8, linear=True).layers[0].gates.bias.view(4, 9, 8)[0]
    for gate in (3, 5):
        torch.testing.assert_close(biases[gate], torch.tensor([5, 5, 5, 5, 31 / 7, 23 / 7, 15 / 7, 1]))
    assert biases[:, 0].tolist() == [2, 0, 5, 5, 5, 5, 2, 2, -2]
