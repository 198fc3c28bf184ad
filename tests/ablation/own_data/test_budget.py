"""How long runs take together, and what fits into a budget, by costs made by hand."""

import dataclasses

import pytest

from detection.ablation import Ablation
from detection.ablation.costs import ArchitectureCost, MeasuredCosts, architectures
from detection.ablation.own_data.budget import START_S, Estimate, fit_budget
from detection.ablation.own_data.budget import estimate as estimate_of
from detection.ablation.own_data.question import Question
from detection.ablation.plan import make_plan
from detection.ablation.workload import Effort
from detection.errors import UserError
from tests.ablation.coins import COINS


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


def fitted(budget, spent):
    """Hours for one slot: 1.2 · runs · (20 s + 1000 steps of 1 s an epoch), that is 2 · epochs + 0.04 for six runs."""
    question = Question(default="default", drop=("third", "second"))
    variants = {name: [] for name in ("none", "second", "default", "unnamed", "third")}
    ablation = Ablation("base.py", variants, seeds=(0, 1, 2), question=question)
    found = dataclasses.replace(estimate(3, 1, **dict.fromkeys(variants, 1.0)), epochs=10)
    return fit_budget(ablation, found, budget, spent)


@pytest.mark.parametrize(
    ("budget", "spent", "dropped", "epochs"),
    [
        (50.2, 0, (), None),
        (50.0, 0, ("unnamed",), None),
        (60.2, 10, (), None),
        (60.2, 10.2, ("unnamed",), None),
        (40.0, 0, ("unnamed", "third"), None),
        (20.05, 0, ("unnamed", "third", "second"), None),
        (20.03, 0, ("unnamed", "third", "second"), 9),
        (8.05, 0, ("unnamed", "third", "second"), 4),
        (8.03, 0, ("unnamed", "third", "second"), 3),
        (3.05, 1, ("unnamed", "third", "second"), 1),
    ],
)
def test_variants_go_first_and_then_epochs(budget, spent, dropped, epochs):
    scope = fitted(budget, spent)
    assert (scope.dropped, scope.epochs) == (dropped, epochs)
    # The estimate itself is without what is added for safety.
    assert scope.hours == pytest.approx((5 - len(dropped)) * 3 * (START_S + 1000 * (epochs or 10)) / 3600)
    assert bool(scope.texts) == bool(dropped)


def test_less_than_an_epoch_names_what_would_be_enough():
    for spent, budget, need in ((0, 2.03, "2.1"), (5, 7, "7.1")):
        with pytest.raises(UserError, match=f"takes about 2 h here with 20% added .* give --budget-hours {need}, or"):
            fitted(budget, spent)


def test_loading_is_timed_once_for_all_numbers_of_epochs(tmp_path, monkeypatch):
    (tmp_path / "base.py").write_text("from tests.ablation.coins import CoinConfig\n\nconfig = CoinConfig()\n")
    ablation = Ablation("base.py", {"plain": [], "wide": ["width=16"]}, run_type=COINS)
    plan = make_plan("coins", ablation, tmp_path / "base.py", tmp_path / "out")
    costs = {digest: ArchitectureCost(1, 1, 1.0, 0.0, 1, 1) for digest in architectures(plan)}
    loads = iter((0.5, 0.1))
    monkeypatch.setattr(COINS, "effort", lambda config: Effort(config.epochs, config.epochs, 0, 1, next(loads)))
    found = estimate_of(plan, MeasuredCosts("here", 1, costs, {}), 1)
    other = found.epochs + 1
    assert [found.run_seconds("wide", n) for n in (found.epochs, other)] == [
        START_S + n * 1.5 for n in (other - 1, other)
    ]
