"""`detection benchmark cross-scan` measures what computes the same."""

import pytest
import torch

from detection.benchmarks import cross_scan
from detection.ops.cross_scan import route_scan


def test_ratios_are_measured():
    found = cross_scan.measure_routes((1, 4, 3, 4), 1, "cpu")
    assert any("ratios" in name for name in found) and all(value > 0 for value in found.values())


@pytest.mark.parametrize("kind", cross_scan.IN_PIECES)
def test_ratios_of_pieces_are_measured(kind):
    found = cross_scan.measure_pieces(kind, (1, 4, 3, 4), 1, "cpu")
    assert any("ratios" in name for name in found) and all(value > 0 for value in found.values())


def test_one_step_after_another_is_the_operation():
    torch.manual_seed(0)
    a, b = torch.rand(2, 8, 3, 4), torch.rand(2, 8, 3, 4)
    for routes in ("right left down up", "up right"):
        torch.testing.assert_close(route_scan(a, b, routes), cross_scan.scan_by_steps(a, b, routes))
