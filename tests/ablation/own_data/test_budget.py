"""How long runs take together, and what fits into a budget, by costs made by hand."""

import pytest

from detection.ablation.costs import ArchitectureCost
from detection.ablation.own_data.budget import START_S, Estimate
from detection.ablation.workload import Effort


def estimate(seeds, slots, **step_seconds):
    costs = {name: ArchitectureCost(1, 1, seconds, 0.0, 1, 1) for name, seconds in step_seconds.items()}
    return Estimate(costs, lambda epochs: Effort(epochs, 1000 * epochs, 0, 1, 0.0), 1, seeds, slots)


@pytest.mark.parametrize(("slots", "runs_one_after_another"), [(1, 9), (2, 5), (4, 3), (8, 2), (9, 1), (20, 1)])
def test_runs_that_do_not_fill_the_slots_leave_some_idle(slots, runs_one_after_another):
    found = estimate(3, slots, a=1.0, b=1.0, c=1.0)
    expected = runs_one_after_another * (START_S + 1000) / 3600
    assert found.hours(["a", "b", "c"], 1) == pytest.approx(expected)
    assert found.hours(["a", "b", "c"], 2) == pytest.approx(runs_one_after_another * (START_S + 2000) / 3600)


def test_a_long_run_starts_when_a_slot_is_free():
    found = estimate(1, 2, a=1.0, b=2.0, c=4.0)
    assert found.hours(["a", "b", "c"], 1) == pytest.approx((2 * START_S + 5000) / 3600)


def test_a_run_loads_every_image_of_its_batches_and_evaluations():
    """10 steps of 2 s on 4 images of 0.5 s each, and 30 evaluated images of 0.1 s and as long to load."""
    costs = {"a": ArchitectureCost(1, 1, 2.0, 0.1, 1, 1)}
    found = Estimate(costs, lambda epochs: Effort(epochs, 10 * epochs, 30 * epochs, 4, 0.5), 1, 1, 1)
    assert found.run_seconds("a", 1) == pytest.approx(START_S + 10 * (2 + 4 * 0.5) + 30 * (0.1 + 0.5))
