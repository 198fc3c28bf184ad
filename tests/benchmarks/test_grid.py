"""`detection benchmark grid` measures what computes the same."""

import torch

from detection.benchmarks import grid
from detection.ops.grid.lstm import GATES, scan_grid_lstm


def test_ratios_are_measured():
    found = grid.measure_grid((1, 4, 3, 4), 1, "cpu")
    assert {name for name in found if "ratios" in name} == {
        "GridLSTM by diagonals / GridLSTM ours (median of 1 ratios)",
        "one corner by location / one corner ours (median of 1 ratios)",
    }
    assert all(value > 0 for value in found.values())


def test_the_linear_form_is_measured_with_its_scratch():
    found = grid.measure_linear((1, 8, 3, 4), 1, "cpu")
    assert "linear GridLSTM by diagonals / linear GridLSTM ours (median of 1 ratios)" in found
    assert found["linear GridLSTM ours: scratch (feature maps a corner)"] > 0
    assert all(value > 0 for value in found.values())


def test_by_location_is_the_operation():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, GATES * 3, 4, 5), torch.randn(1, GATES * 3, 6), torch.randn(1, GATES * 3)
    found = grid._by_location(x, weight[0], bias[0])
    torch.testing.assert_close(found, scan_grid_lstm(x, weight, bias, None, ("top_left",)))
