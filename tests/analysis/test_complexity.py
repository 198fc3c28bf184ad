"""Counts of parameters and operations against counts by hand."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from detection import cells
from detection.analysis.complexity import count_flops, count_parameters, step_flops
from detection.context import ConvStack, GlobalAverage, NoContext, NonLocal, SpatialRNN
from detection.detector import build_detector
from detection.errors import UserError
from detection.ops.sweep import dispatch as sweeps
from detection.ops.sweep.cudnn import cudnn_is_allowed
from detection.pooling import SkipPool, Source
from tests.tiny_runs import DETECTOR

# Matrices of D×D on the last state, and without any of them operations per value, counted in the equations that the
# classes' docstrings state.
RECURRENT = {
    cells.TanhRNN: (1, 0),
    cells.IRNN: (1, 0),
    cells.IndRNN: (0, 3),
    cells.Accumulator: (0, 2),
    cells.LSTM: (4, 0),
    cells.PeepholeLSTM: (4, 0),
    cells.GRU: (3, 0),
    cells.TiedLSTM: (3, 0),
    partial(cells.GRU, reset="before"): (3, 0),
    cells.MUT1: (2, 0),
    cells.MUT2: (3, 0),
    cells.MUT3: (3, 0),
    cells.MinGRU: (0, 2),
    cells.MinLSTM: (0, 2),
    cells.GatedLinear: (0, 2),
    cells.RGLRU: (0, 2),
}
BATCH, CHANNELS, HEIGHT, WIDTH, HIDDEN, OUT = 2, 3, 4, 5, 6, 7
LOCATIONS = BATCH * HEIGHT * WIDTH

every_cell = pytest.mark.parametrize(("cell", "products", "others"), [(c, *n) for c, n in RECURRENT.items()], ids=str)

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def a_map(channels=CHANNELS):
    return torch.randn(BATCH, channels, HEIGHT, WIDTH), torch.ones(BATCH, 1, HEIGHT, WIDTH, dtype=torch.bool)


@every_cell
def test_a_step(cell, products, others):
    made = cell(HIDDEN, CHANNELS)
    multiplied = 2 * made.gates * HIDDEN * CHANNELS + products * 2 * HIDDEN * HIDDEN
    assert step_flops(made) == multiplied + others * HIDDEN
    assert count_flops(made, torch.randn(5, CHANNELS)) == 5 * multiplied
    assert step_flops(cell(HIDDEN)) == products * 2 * HIDDEN * HIDDEN + others * HIDDEN


@every_cell
@pytest.mark.parametrize("bias", [True, False])
def test_a_spatial_rnn(cell, products, others, bias):
    context = SpatialRNN(CHANNELS, cell=partial(cell, bias=bias), hidden_channels=HIDDEN, out_channels=OUT)
    gates = context.cells[0][0].gates
    convolutions = CHANNELS * gates * HIDDEN + 4 * HIDDEN * gates * HIDDEN + 4 * HIDDEN * OUT
    recurrent = 2 * products * HIDDEN * HIDDEN + others * HIDDEN
    assert (
        count_flops(context, *a_map()) == (2 * convolutions + 2 * 4 * recurrent) * LOCATIONS
    )  # two layers, four directions
    assert recurrent == step_flops(context.cells[0][0])


# Multiplications and sums of a step for each of D values, and what a sweep of lines of T steps computes instead.
LARGE = {
    partial(cells.S6, state_size=5): (4 * 5, lambda t: 4 * 5 * HIDDEN),
    partial(cells.SSD, state_size=5, num_heads=2): (4 * 5, lambda t: 2 * t * (5 + HIDDEN)),
    partial(cells.MLSTM, num_heads=2): (4 * HIDDEN // 2 + 4, lambda t: 4 * t * HIDDEN),
}


@pytest.mark.parametrize(("cell", "others", "swept"), [(c, *n) for c, n in LARGE.items()], ids=["S6", "SSD", "MLSTM"])
def test_a_large_memory(cell, others, swept):
    made = cell(HIDDEN)
    assert step_flops(made) == others * HIDDEN
    assert step_flops(cell(HIDDEN, CHANNELS)) == others * HIDDEN + 2 * CHANNELS * made.projection_channels
    context = SpatialRNN(CHANNELS, cell=cell, hidden_channels=HIDDEN, out_channels=OUT)
    read = made.projection_channels
    convolutions = CHANNELS * read + 4 * HIDDEN * read + 4 * HIDDEN * OUT
    sweeps = 2 * (2 * swept(WIDTH) + 2 * swept(HEIGHT))  # two layers
    assert count_flops(context, *a_map()) == (2 * convolutions + sweeps) * LOCATIONS


def test_heads_divide_the_matrix_of_an_slstm():
    assert step_flops(cells.SLSTM(HIDDEN, num_heads=2)) == 2 * 4 * HIDDEN * HIDDEN // 2
    assert count_flops(cells.SLSTM(HIDDEN, num_heads=2), torch.randn(5, 4 * HIDDEN)) == 5 * 4 * HIDDEN * HIDDEN


def test_a_spatial_rnn_of_two_directions_a_layer():
    layers = (("right", "left"), ("down", "up"))
    context = SpatialRNN(CHANNELS, cell=partial(cells.LSTM), hidden_channels=HIDDEN, layers=layers)
    convolutions = CHANNELS * 4 * HIDDEN + 2 * HIDDEN * 4 * HIDDEN + 2 * HIDDEN * HIDDEN
    assert count_flops(context, *a_map()) == 2 * (convolutions + 4 * 4 * HIDDEN * HIDDEN) * LOCATIONS


def test_a_mask_changes_no_count():
    context = SpatialRNN(CHANNELS, cell=partial(cells.GRU), hidden_channels=HIDDEN)
    x, valid = a_map()
    half = valid.clone()
    half[..., 2:] = False
    assert count_flops(context, x, half) == count_flops(context, x, valid)


def test_sweeps_that_would_use_cudnn_count_as_ours(monkeypatch):
    """On CUDA cuDNN scans where it can; here it is made the fastest, and must be again after a count."""
    monkeypatch.setattr(sweeps, "_fastest", lambda cells, *_: "cudnn" if cudnn_is_allowed() else "ours")
    context = SpatialRNN(CHANNELS, cell=partial(cells.GRU), hidden_channels=HIDDEN)
    with FlopCounterMode(display=False) as counter:
        context(*a_map())
    by_cudnn = counter.get_total_flops()
    count = count_flops(context, *a_map())
    assert by_cudnn > count and cudnn_is_allowed()

    def fail(x):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        count_flops(fail, 0)
    assert cudnn_is_allowed()


CONV_STACK = 2 * LOCATIONS * 25 * (CHANNELS * HIDDEN + 2 * HIDDEN * HIDDEN)
ATTENTION = 2 * BATCH * (HEIGHT * WIDTH) ** 2 * HIDDEN * 2  # queries · keys, and scores · values


@pytest.mark.parametrize(
    ("context", "flops"),
    [
        (NoContext(CHANNELS), 0),
        (ConvStack(CHANNELS, kernel_size=5, hidden_channels=HIDDEN, num_layers=3), CONV_STACK),
        (GlobalAverage(CHANNELS, hidden_channels=HIDDEN), 2 * BATCH * CHANNELS * HIDDEN),
        (NonLocal(CHANNELS, hidden_channels=HIDDEN), 2 * LOCATIONS * 4 * CHANNELS * HIDDEN + ATTENTION),
    ],
)
def test_a_context_without_recurrence(context, flops):
    assert count_flops(context, *a_map()) == flops


@pytest.mark.parametrize(("boxes", "locations"), [(1, 9), (200, HEIGHT * WIDTH)])
@pytest.mark.parametrize("norm", [None, "channels", "region"])
def test_the_reduction_of_a_skip_pool(boxes, locations, norm):
    """Its convolution works where there are fewer locations: on 3×3 of each box, or on the map."""
    sources = (Source(("c3",), norm=norm), Source(("c4",), box_scale=1.2, norm=norm))
    channels = {"c3": CHANNELS, "c4": HIDDEN}
    pool = SkipPool(channels, {"c3": 8, "c4": 8}, sources=sources, out_channels=OUT, output_size=3)
    features = {name: torch.randn(1, c, HEIGHT, WIDTH) for name, c in channels.items()}
    count = count_flops(pool, features, [torch.tensor([[4.0, 4, 20, 28]]).repeat(boxes, 1)], [(32, 40)])
    assert count == 2 * (CHANNELS + HIDDEN) * OUT * locations


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
@pytest.mark.parametrize("grad", [True, False])
def test_the_recurrent_layers_of_pytorch(kind, gates, grad):
    layer = kind(CHANNELS, HIDDEN, num_layers=2, bidirectional=True)
    per_step = gates * HIDDEN * (CHANNELS + HIDDEN + 2 * HIDDEN + HIDDEN) * 2  # both layers, both directions
    with torch.set_grad_enabled(grad):
        assert count_flops(layer, torch.randn(8, BATCH, CHANNELS)) == 2 * per_step * 8 * BATCH


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_cudnn_counts_as_the_cpu_does(kind):
    layer, x = kind(CHANNELS, HIDDEN, num_layers=2, bidirectional=True), torch.randn(8, BATCH, CHANNELS)
    on_cpu = count_flops(layer, x)
    assert count_flops(layer.cuda(), x.cuda()) == on_cpu


@pytest.mark.gpu
@NEEDS_CUDA
@every_cell
def test_a_spatial_rnn_counts_on_cuda_as_on_the_cpu(cell, products, others):
    context = SpatialRNN(CHANNELS, cell=partial(cell), hidden_channels=HIDDEN)
    x, valid = a_map()
    on_cpu = count_flops(context, x, valid)
    assert count_flops(context.cuda(), x.cuda(), valid.cuda()) == on_cpu


def test_parameters():
    recurrent = 2 * 4 * (4 * HIDDEN * HIDDEN + 4 * HIDDEN)
    widths = [(CHANNELS, 4 * HIDDEN), (4 * HIDDEN, 4 * HIDDEN), (4 * HIDDEN, OUT)]
    convolutions = sum(i * o + o for i, o in widths)
    sizes = {"hidden_channels": HIDDEN, "out_channels": OUT, "rms_norm": False}
    context = SpatialRNN(CHANNELS, cell=partial(cells.LSTM), **sizes)
    assert count_parameters(context) == recurrent + convolutions
    shared = nn.Linear(2, 3)
    assert count_parameters(nn.ModuleList([shared, shared, nn.BatchNorm2d(5)])) == 2 * 3 + 3 + 10
    assert count_parameters(shared.requires_grad_(False)) == 9
    tied = nn.Linear(2, 3, bias=False)
    tied.weight = shared.weight
    assert count_parameters(nn.ModuleList([shared, tied])) == 9


def test_a_detector_is_the_sum_of_its_parts():
    torch.manual_seed(0)
    detector = build_detector(DETECTOR, 2).eval()
    sizes = {}
    detector.head.register_forward_hook(lambda m, args, out: sizes.update(boxes=len(args[0].descriptors)))
    total = count_flops(detector, [torch.rand(3, 64, 64)])
    features = detector.backbone(torch.rand(1, 3, 64, 64))
    backbone = count_flops(detector.backbone, torch.rand(1, 3, 64, 64))
    regions = count_flops(detector.regions.rpn.head, [features["c3"]])
    channels, hidden, classes = 16 * 3 * 3, 16, 2 + 1
    head = 2 * sizes["boxes"] * (channels * hidden + hidden * hidden + hidden * classes * 5)
    assert total == backbone + regions + head


def test_an_operator_without_a_formula_is_named():
    @torch.library.custom_op("mylab::doubled", mutates_args=())
    def doubled(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    with pytest.raises(UserError, match="FLOPs cannot be counted: mylab.doubled has no formula"):
        count_flops(doubled, torch.ones(2))


def test_every_operator_of_ours_has_a_formula():
    names = {name.split(".")[0] for name in torch._C._dispatch_get_all_op_names() if name.startswith("detection::")}
    assert len(names) >= 10
    for name in names:
        assert getattr(torch.ops.detection, name.removeprefix("detection::")) in flop_registry, name
