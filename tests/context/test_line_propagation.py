"""Line propagation as a context: what a location sees, how it starts, and what it refuses."""

from functools import partial

import numpy as np
import pytest
import torch

from detection.analysis.receptive_field import effective_receptive_field, random_inputs
from detection.config.serialization import from_plain
from detection.context import LinePropagation
from detection.errors import UserError
from detection.export.onnx_file import write_onnx
from detection.ops.sweep.traced import lines_of_any_length
from detection.testing import padded_batch

HEIGHT, WIDTH = 6, 7


def randomized(context):
    """Weights of which no product is 0; the outer ReLU is kept open by its bias."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in context.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        context.out.bias.fill_(100)
    return context.double()


def dependencies_of(context, row, column, valid=None):
    """Locations of the input on which the output at a location depends: the support of the Jacobian."""
    x = torch.randn(1, 3, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    valid = torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.bool) if valid is None else valid
    output = context(x, valid)[0, :, row, column]
    rows = [torch.autograd.grad(o, x, retain_graph=True)[0][0] for o in output]
    return torch.stack(rows).abs().sum((0, 1)) > 0


def cone(direction, row, column):
    """Where a scan comes from, 45 degrees to each side."""
    down, right = torch.arange(HEIGHT)[:, None] - row, torch.arange(WIDTH)[None] - column
    ahead, aside = {"right": (-right, down), "left": (right, down), "down": (-down, right), "up": (down, right)}[
        direction
    ]
    return aside.abs() <= ahead


@pytest.mark.parametrize("direction", ["right", "left", "down", "up"])
def test_one_direction_depends_on_a_cone(direction):
    context = randomized(LinePropagation(3, hidden_channels=4, layers=((direction,),)))
    assert torch.equal(dependencies_of(context, 3, 3), cone(direction, 3, 3))


def test_four_directions_depend_on_every_valid_location_and_no_other():
    context = randomized(LinePropagation(3, hidden_channels=4))
    valid = torch.zeros(1, 1, HEIGHT, WIDTH, dtype=torch.bool)
    valid[..., :5, :6] = True
    assert torch.equal(dependencies_of(context, 2, 1, valid), valid[0, 0])


def test_two_layers_see_around_corners():
    context = randomized(LinePropagation(3, hidden_channels=4, layers=(("right",), ("down",))))
    found = dependencies_of(context, 4, 3)
    # Down from (4, 3) to row 1 the cone is as wide as the map, and from each of its locations right.
    assert found[:5, :4].all() and found[0, 6] and not found[5, 5:].any()


def test_at_the_start_a_tenth_of_the_gradient_is_left_after_40_locations():
    """With equal weights of the neighbors it is a third of that."""
    fields = {}
    for middle in (5.0, 0.0):
        torch.manual_seed(0)
        context = LinePropagation(8, hidden_channels=16, middle=middle).eval()
        field = effective_receptive_field(context, random_inputs(8, 81, 81, 2))
        ends = field[40, 0], field[40, -1], field[0, 40], field[-1, 40]
        fields[middle] = min(float(end) for end in ends)
    assert fields[5.0] >= 0.1 > 2 * fields[0.0]


def test_it_starts_as_running_sums():
    """λ = u = 1 wherever it looks, and with `middle` large nothing goes aside."""
    torch.manual_seed(0)
    context = LinePropagation(3, hidden_channels=2, layers=(("right",),), middle=40.0, gain=0.5).double()
    x, valid = padded_batch(3)
    context.out.weight.data = torch.eye(2, dtype=torch.float64)[:, :, None, None]
    values = context.convs[0](x.double())[:, :2] * valid
    torch.testing.assert_close(context(x.double(), valid), (0.5 * values.cumsum(3)).relu() * valid)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"hidden_channels": 6, "groups": 4}, "context.groups=4: must divide hidden_channels=6"),
        ({"layers": ((),)}, "at least one direction"),
        ({"layers": (("up", "up"),)}, "names a direction twice"),
        ({"layers": (("up", "down_left"),)}, "down_left is no direction here; take right, left, down, up"),
    ],
)
def test_bad_settings_get_one_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        LinePropagation(3, **settings)


def test_diagonals_are_refused():
    with pytest.raises(UserError, match=r"context.layers\[0\]\[0\]=down_left"):
        from_plain(partial(LinePropagation, layers=(("down_left",),)), partial[LinePropagation], "context")


def test_an_exported_file_of_one_size_is_exact_and_others_are_refused(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    context = randomized(LinePropagation(6, hidden_channels=4, groups=2)).float().eval()
    x, valid = padded_batch(6)
    inputs, path = {"x": x.detach(), "valid": valid}, tmp_path / "context.onnx"
    write_onnx(context, inputs, ["y"], path, opset=17, dynamic=None)
    (found,) = onnxruntime.InferenceSession(path).run(None, {name: t.numpy() for name, t in inputs.items()})
    assert np.abs(found - context(x, valid).detach().numpy()).max() < 1e-4
    with lines_of_any_length(), pytest.raises(UserError, match="--dynamic: LinePropagation has no ONNX operator"):
        write_onnx(context, inputs, ["y"], path, opset=17, dynamic=None)


def test_starts_of_the_gates():
    made = LinePropagation(3, hidden_channels=2, layers=(("right",),), gain=0.5)
    assert made.convs[0].bias.tolist() == [0, 0, 0.5, 0.5, 1, 1, 0, 5, 0]
    assert LinePropagation(3, hidden_channels=2).convs[0].bias[2:6].tolist() == [1] * 4


def test_one_channel_by_hand():
    """v = x, λ = 2x and u = x + 3 of one line: h = [2, 2 + 8], and the output is u ⊙ h."""
    context = LinePropagation(1, hidden_channels=1, layers=(("right",),))
    with torch.no_grad():
        context.convs[0].weight.zero_()
        context.convs[0].bias.zero_()
        context.convs[0].weight[:3, 0, 0, 0] = torch.tensor([1.0, 2.0, 1.0])
        context.convs[0].bias[2] = 3
        context.out.weight.fill_(1)
        context.out.bias.zero_()
    found = context(torch.tensor([[[[1.0, 2.0]]]]), torch.ones(1, 1, 1, 2, dtype=torch.bool))
    assert found.flatten().tolist() == [4 * 2, 5 * 10]
