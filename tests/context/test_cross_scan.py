"""The cross-scan as a context: what a location sees, and what is refused."""

from functools import partial

import pytest
import torch

from detection.cells import LSTM, MLSTM, RGLRU, S6, SLSTM, SSD, MinGRU
from detection.context import CrossScan, LinePropagation
from detection.errors import UserError
from detection.ops.cross_scan import cross_scan
from detection.ops.sweep.directions import DIRECTIONS
from detection.testing import padded_batch

HEIGHT, WIDTH = 4, 5


def support(y, x):
    """Locations of x on which any of the outputs y (D,) depends."""
    rows = [torch.autograd.grad(value, x, retain_graph=True)[0][0] for value in y]
    return torch.stack(rows).abs().sum((0, 1)) > 0


@pytest.mark.parametrize("cell", [MinGRU, RGLRU, SSD, MLSTM])
def test_a_route_depends_on_every_valid_location_before_it(cell, monkeypatch):
    monkeypatch.setattr("detection.ops.sweep.decay_matrix.PIECE", 5)
    torch.manual_seed(0)
    cells = [cell(2).double() for _ in DIRECTIONS]
    x = torch.randn(1, cells[0].projection_channels, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    valid = torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.bool)
    valid[..., 3, :] = valid[..., 4] = False
    y = cross_scan(cells, x, valid)[0, :, 1, 2]
    rows, columns = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)[None]
    by_rows, by_columns = rows * WIDTH + columns, columns * HEIGHT + rows
    own = by_rows[1, 2], by_columns[1, 2]
    expected = by_rows <= own[0], by_rows >= own[0], by_columns <= own[1], by_columns >= own[1]
    for k, before in enumerate(expected):
        assert torch.equal(support(y[2 * k : 2 * k + 2], x), before & valid[0, 0]), DIRECTIONS[k]


def test_one_layer_depends_on_every_valid_location_and_no_other():
    torch.manual_seed(0)
    context = CrossScan(3, hidden_channels=4).double()
    with torch.no_grad():
        context.convs[-1].bias.fill_(100)  # so that no ReLU closes
    x = torch.randn(1, 3, HEIGHT, WIDTH, dtype=torch.float64, requires_grad=True)
    valid = torch.zeros(1, 1, HEIGHT, WIDTH, dtype=torch.bool)
    valid[..., :3, :4] = True
    assert torch.equal(support(context(x, valid)[0, :, 2, 0], x), valid[0, 0])


@pytest.mark.parametrize("cell", [LSTM, SLSTM])
def test_a_cell_without_an_identity_step_gets_one_sentence(cell):
    sentence = f"context.cell={cell.__name__}: CrossScan passes .* context=SpatialRNN for {cell.__name__}"
    with pytest.raises(UserError, match=sentence):
        CrossScan(3, cell=partial(cell), hidden_channels=4)


@pytest.mark.parametrize(("parent", "method"), [(MinGRU, "coefficients"), (S6, "scan")])
def test_a_cell_that_changes_its_step_alone_gets_one_sentence(parent, method):
    class Other(parent):
        def step(self, x, state):
            return super().step(x, state)

    with pytest.raises(UserError, match=f"cell=Other: CrossScan computes with its `{method}`"):
        CrossScan(4, cell=partial(Other), hidden_channels=4)
    setattr(Other, method, getattr(parent, method))

    class Both(Other):
        pass

    CrossScan(4, cell=partial(Both), hidden_channels=4)


def test_each_route_of_each_layer_has_separate_weights():
    context = CrossScan(3, hidden_channels=4, num_layers=2)
    assert len({p.data_ptr() for n, p in context.named_parameters() if n.endswith("decay")}) == 8


@pytest.mark.parametrize("context", [CrossScan, LinePropagation])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_float32(context, dtype):
    with torch.autocast("cpu", dtype):
        assert context(6, hidden_channels=4)(*padded_batch(6)).dtype == torch.float32
