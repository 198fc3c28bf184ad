"""Effective receptive fields of contexts whose gradients are known; their table and figure."""

from functools import partial

import pytest
import torch
from torch import nn

from detection.analysis.receptive_field import (
    build_context,
    decay,
    effective_receptive_field,
    field_radius,
    random_inputs,
    receptive_field_table,
    with_each_cell,
)
from detection.analysis.receptive_field_plots import plot_receptive_field
from detection.cells import CELLS, GRU, Accumulator, IndRNN, TanhRNN
from detection.context import ConvStack, GlobalAverage, NoContext, SpatialRNN
from detection.errors import UserError

ALL = ("right", "left", "down", "up")


def field_of(context, in_channels, height, width):
    return effective_receptive_field(context, random_inputs(in_channels, height, width, 8))


def chebyshev(height, width):
    rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    return torch.maximum(rows.abs()[:, None], columns.abs()[None])


def valid_of(height, width, padded):
    valid = torch.zeros(1, 1, padded, padded, dtype=torch.bool)
    valid[..., :height, :width] = True
    return valid


class Neighbors(nn.Module):
    """Twice the location, and once its left neighbor."""

    def forward(self, x, valid):
        x = x * valid
        return 2 * x + x.roll(1, 3)


class Product(nn.Module):
    """The location plus the product of its neighbors on both sides, whose gradients are each other."""

    def forward(self, x, valid):
        return x + x.roll(1, 3) * x.roll(-1, 3)


class Linear(nn.Module):
    """One output channel from two: (3, 4) of the location and (0, 1) of the one above."""

    def forward(self, x, valid):
        return (3 * x[:, 0] + 4 * x[:, 1] + x[:, 1].roll(1, 1))[:, None]


@pytest.mark.parametrize("size", [(7, 9), (6, 8)])
def test_the_gradient_is_the_centers_at_the_inputs_place(size):
    expected = torch.zeros(size, dtype=torch.float64)
    expected[size[0] // 2, size[1] // 2] = 1
    expected[size[0] // 2, size[1] // 2 - 1] = 0.5
    torch.testing.assert_close(field_of(Neighbors(), 5, *size), expected, rtol=1e-6, atol=0)


def test_the_norm_is_over_input_channels():
    field = field_of(Linear(), 2, 5, 5)
    assert field[2, 2] == 1 and field[1, 2] == pytest.approx(1 / 5) and field.sum() == pytest.approx(1.2)


def test_draws_are_averaged_by_their_root_mean_square():
    maps = [torch.zeros(1, 1, 3, 3) for _ in range(2)]
    maps[0][0, 0, 1] = torch.tensor([0.0, 9, 1])  # the gradient at the left is what stands at the right
    maps[1][0, 0, 1] = torch.tensor([0.0, 9, 7])
    field = effective_receptive_field(Product(), [(x, valid_of(3, 3, 3)) for x in maps])
    assert field[1].tolist() == pytest.approx([5, 1, 0])


def test_directions_are_drawn_for_each_input():
    """Output channels that read different locations: one direction weighs them at random, many weigh them equally."""

    class Two(nn.Module):
        def forward(self, x, valid):
            return torch.cat([x, x + x.roll(1, 3)], 1)

    inputs = random_inputs(1, 3, 3, 1)
    one, many = (effective_receptive_field(Two(), inputs, draws=draws)[1, 0].item() for draws in (1, 500))
    # Center: E (u₁ + u₂)² = 1; left: E u₂² = 1/2.
    assert many == pytest.approx(0.5**0.5, rel=0.1) and one != pytest.approx(many, rel=0.1)
    assert effective_receptive_field(Two(), inputs, draws=1)[1, 0].item() == one
    assert effective_receptive_field(Two(), inputs, draws=1, seed=1)[1, 0].item() != one


def test_a_stack_of_two_3x3_convolutions_depends_on_2_locations_around():
    field = field_of(build_context(partial(ConvStack, hidden_channels=16), 4), 4, 11, 9)
    near = chebyshev(11, 9) <= 2
    assert (field[near] > 0).all() and (field[~near] == 0).all()
    assert field_radius(field) == 3


def test_an_average_depends_on_every_location_equally():
    field = field_of(build_context(partial(GlobalAverage, hidden_channels=16), 4), 4, 5, 8)
    torch.testing.assert_close(field, torch.ones(5, 8, dtype=torch.float64))
    assert field_radius(field) is None


def test_no_context_depends_on_its_location():
    assert torch.equal(field_of(NoContext(4), 4, 5, 6), (chebyshev(5, 6) == 0).double())


def test_one_layer_depends_on_row_and_column_and_two_on_the_map():
    one, two = (
        field_of(build_context(partial(SpatialRNN, hidden_channels=32, layers=(ALL,) * n), 4), 4, 7, 9) for n in (1, 2)
    )
    cross = torch.zeros(7, 9, dtype=torch.bool)
    cross[3], cross[:, 4] = True, True
    assert (one[cross] > 0).all() and (one[~cross] == 0).all() and (two > 0).all()


def scan_to_the_right(weight):
    """h = max(weight · h + x, 0) along rows, on positive input: linear."""
    context = SpatialRNN(1, cell=partial(IndRNN), hidden_channels=1, layers=(("right",),), rms_norm=False)
    for conv in context.convs:
        nn.init.ones_(conv.weight)
    nn.init.constant_(context.cells[0][0].weight_hh, weight)
    return context.eval()


def test_a_scan_fades_by_its_weight_at_every_step():
    field = effective_receptive_field(scan_to_the_right(0.5), [(torch.ones(1, 1, 3, 7), valid_of(3, 7, 7)[..., :3, :])])
    assert field[1].tolist() == [0.125, 0.25, 0.5, 1, 0, 0, 0] and field.sum() == 1.875


def test_what_is_left_after_a_hundred_steps_is_not_lost():
    """Its square is 0 in float32."""
    field = effective_receptive_field(
        scan_to_the_right(0.5), [(torch.ones(1, 1, 1, 201), torch.ones(1, 1, 1, 201, dtype=torch.bool))]
    )
    assert field[0, 0].item() == 2.0**-100


def test_maps_of_images_are_cropped_around_their_centers():
    inputs = [(torch.randn(1, 2, 8, 8), valid_of(*size, 8)) for size in ((5, 8), (8, 6), (7, 7))]
    field = effective_receptive_field(Neighbors(), inputs)
    assert field.shape == (5, 6)
    assert (field > 0).nonzero().tolist() == [[2, 2], [2, 3]] and field[2, 2] == pytest.approx(0.5)
    average = effective_receptive_field(build_context(partial(GlobalAverage, hidden_channels=8), 2), inputs)
    torch.testing.assert_close(average, torch.ones(5, 6, dtype=torch.float64))


def test_gated_cells_depend_on_farther_locations_than_a_plain_one():
    parts = with_each_cell(partial(SpatialRNN, hidden_channels=16))
    plain, lstm, gru, sums = (
        decay(field_of(build_context(parts[name], 8), 8, 17, 17))[1][8]
        for name in ("TanhRNN", "LSTM", "GRU", "Accumulator")
    )
    assert plain < 0.01 and min(lstm, gru, sums) > 10 * plain


def test_a_measurement_leaves_no_trace():
    context = build_context(partial(SpatialRNN, hidden_channels=4), 2)
    state = torch.get_rng_state()
    with torch.no_grad():
        field_of(context, 2, 3, 3)
    build_context(partial(SpatialRNN, hidden_channels=4), 2, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert not context.training and all(p.grad is None for p in context.parameters())


def test_a_dead_context_is_named():
    context = build_context(partial(ConvStack, hidden_channels=4), 2)
    nn.init.constant_(context.convs[1].bias, -1e6)
    with pytest.raises(UserError, match="ConvStack: .* gradient is 0 at the center"):
        field_of(context, 2, 3, 3)


class Blown(nn.Module):
    """The location, and infinitely its left neighbor."""

    def forward(self, x, valid):
        return x + torch.inf * x.roll(1, 3)


@pytest.mark.parametrize("broken", ["weights", "gradient"])
def test_a_gradient_that_is_not_finite_is_named(broken):
    context = build_context(partial(ConvStack, hidden_channels=4), 2)
    nn.init.constant_(context.convs[1].weight, torch.nan)
    with pytest.raises(UserError, match="gradient is not finite"):
        field_of(context if broken == "weights" else Blown(), 2, 3, 3)


def test_decay_is_the_mean_of_four_directions():
    field = torch.tensor([[9, 9, 6, 9, 9], [9, 9, 5, 9, 9], [4, 3, 1, 7, 8], [9, 9, 2, 9, 9.0]])
    distances, values = decay(field)
    assert distances.tolist() == [0, 1, 2]
    assert values.tolist() == [1, (5 + 3 + 7 + 2) / 4, (6 + 4 + 8) / 3]
    assert [v.tolist() for v in decay(torch.ones(1, 1))] == [[0], [1]]


def line(*values):
    """A map of one row that reads the same on both sides of its center."""
    return torch.tensor([[*values[:0:-1], *values]], dtype=torch.float64)


def test_the_radius_is_the_first_distance_below_a_hundredth():
    assert field_radius(line(1, 0.5, 0.01, 0.009, 0.5)) == 3
    assert field_radius(line(1, 0.5, 0.01)) is None
    assert field_radius(line(1, 0)) == 1


def test_the_table():
    table = receptive_field_table({"far": line(1, 0.5, 0.25), "near and long": line(1, 0.004, 0)}, (1, 2, 3))
    assert [row.split() for row in table.splitlines()] == [
        ["context", "at", "1", "at", "2", "at", "3", "under", "1", "%", "at"],
        ["far", "0.5", "0.25", "-", "beyond", "the", "map"],
        ["near", "and", "long", "0.004", "0", "-", "1"],
    ]
    assert len({row.index(word) for row, word in zip(table.splitlines(), ("under", "beyond", "1"), strict=True)}) == 1


def test_each_cell_replaces_the_contexts():
    context = partial(SpatialRNN, hidden_channels=4, cell=partial(GRU, reset="before"), layers=(("down",),))
    parts = with_each_cell(context)
    assert list(parts) == [cell.__name__ for cell in CELLS] and len(parts) == 19
    for cell in CELLS:
        (made,) = build_context(parts[cell.__name__], 2).cells[0]
        assert type(made) is cell and made.hidden_size == 4
    assert parts["GRU"].keywords["cell"].keywords == {"reset": "before"}


def test_a_cell_from_outside_comes_first():
    class Mine(TanhRNN):
        pass

    assert list(with_each_cell(partial(SpatialRNN, cell=partial(Mine))))[:2] == ["Mine", "TanhRNN"]
    assert with_each_cell(partial(SpatialRNN))["Accumulator"].keywords["cell"].func is Accumulator


def test_a_context_without_cells_is_named():
    with pytest.raises(UserError, match="the context is a ConvStack"):
        with_each_cell(partial(ConvStack))


def test_the_plot():
    fields = {
        "TanhRNN": line(1, 0.5, 0.2),
        "this run": line(1, 0.9, 0.02),
        "cut": line(1, 0, 0),
        "NoContext": line(1, 0, 0),
    }
    figure = plot_receptive_field(fields, "a title", 16, "this run")
    figure.draw_without_rendering()
    curve, *images = (axes for axes in figure.axes if axes.get_label() != "<colorbar>")
    lines = {drawn.get_label(): drawn for drawn in curve.get_lines()}
    assert lines["this run"].get_linewidth() > lines["TanhRNN"].get_linewidth()
    bottom, top = curve.get_ylim()
    assert curve.get_yscale() == "log" and 0 < bottom < 0.01 and top > 1
    assert all(0 < y < bottom for y in lines["cut"].get_ydata()[1:]) and "16 px" in curve.get_xlabel()
    assert [axes.get_title() for axes in images] == list(fields)
    assert images[2].get_images()[0].get_array().mask.tolist() == [[True, True, False, True, True]]


def test_the_plot_of_one_context_has_no_legend():
    figure = plot_receptive_field({"NoContext": line(1.0)}, "a title", 16)
    figure.draw_without_rendering()
    assert figure.axes[0].get_legend() is None
