"""Texts of a table's cells."""

import pytest

from detection.ablation.costs import ArchitectureCost
from detection.ablation.report.formatting import COST_COLUMNS, cost, p_value


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0, "below 0.001"), (0.00099, "below 0.001"), (0.001, "0.001"), (0.0312, "0.031"), (0.0494, "0.049"),
     (0.0496, "below 0.05"), (0.0499999, "below 0.05"), (0.0501, "0.050"), (0.0506, "0.051"), (1.0, "1.000")],
)  # fmt: skip
def test_a_p_value_below_the_level_is_not_rounded_to_it(p, text):
    assert p_value(p) == text


def test_costs_have_the_units_of_their_columns():
    found = ArchitectureCost(1_234_567, 2_500_000_000, 0.25, 0.04, 3_000_000, 500_000)
    reference = ArchitectureCost(1, 1, 0.2, 0.01, 1, 1)
    assert dict(zip(COST_COLUMNS, cost(found, reference), strict=True)) == {
        "parameters": "1,234,567",
        "FLOPs (G)": "2.500",
        "training step (ms)": "250.0",
        "training step ×": "1.25",
        "inference (ms)": "40.0",
        "inference ×": "4.00",
        "training memory (MB)": "3.0",
        "inference memory (MB)": "0.5",
    }
    assert cost(found, None)[3] == cost(found, None)[5] == "missing" and set(cost(None, reference)) == {"missing"}
