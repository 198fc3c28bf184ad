"""`detection benchmark line-propagation` measures what computes the same (tests/ops/test_line_propagation.py)."""

from detection.benchmarks import line_propagation


def test_ratios_are_measured():
    found = line_propagation.measure_groups(2, (1, 4, 3, 4), 1, "cpu")
    (ratio,) = (name for name in found if "ratios" in name)
    assert ratio.startswith("line propagation of 2 groups by steps / line propagation of 2 groups, ours")
    assert all(value > 0 for value in found.values())
