"""The time of an ablation, from a measured step of each variant, and what a budget of hours leaves out.

Variants go first, in the order of the question, then epochs; seeds never go, nor one epoch of the variants that answer
the question or were asked for by name.
"""

import heapq
import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from detection.ablation.ablation import Ablation
from detection.ablation.costs import ArchitectureCost, MeasuredCosts
from detection.ablation.plan import Plan
from detection.ablation.workload import Effort
from detection.errors import UserError

START_S = 20.0
"""Seconds in which a run starts, and writes its results at the end."""

SAFETY = 1.2
"""What an estimate is multiplied by before it is held against a budget."""


@dataclass(frozen=True)
class Scope:
    """The part of a plan that is run.

    Attributes:
        dropped: variants that are left out, in order.
        epochs: of every run; None: as the base has it.
        hours: estimated for all runs.
        texts: sentences on the estimate and on what is left out.
    """

    dropped: tuple[str, ...]
    epochs: int | None
    hours: float
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """The time of a plan's runs.

    Attributes:
        costs: measured costs of each variant.
        effort: what a run does that has so many epochs.
        epochs: of the base.
        seeds: runs of each variant.
        slots: runs at a time.
    """

    costs: Mapping[str, ArchitectureCost]
    effort: Callable[[int], Effort]
    epochs: int
    seeds: int
    slots: int

    def run_seconds(self, variant: str, epochs: int) -> float:
        """Seconds of one run."""
        effort, cost = self.effort(epochs), self.costs[variant]
        training = effort.steps * (cost.train_step_s + effort.batch_size * effort.load_s)
        return START_S + training + effort.evaluated * (cost.inference_s + effort.load_s)

    def hours(self, variants: Sequence[str], epochs: int) -> float:
        """Hours of all runs of some variants, each of which starts when one of the slots is free."""
        free = [0.0] * self.slots
        for variant in variants:
            for _ in range(self.seeds):
                # As the launcher does it: the next run takes the slot that is free first.
                heapq.heapreplace(free, free[0] + self.run_seconds(variant, epochs))
        return max(free) / 3600


def estimate(plan: Plan, costs: MeasuredCosts | None, slots: int) -> Estimate:
    """Combine measured costs with what the runs do.

    Raises:
        UserError: the step of a variant could not be measured, or the data cannot be used.
    """
    run_type = plan.ablation.run_type
    of_variant: dict[str, ArchitectureCost] = {}
    for run in plan.runs:
        digest = run_type.digest(run_type.architecture(run.config))
        if costs is None or digest not in costs.architectures:
            reason = (costs.failures.get(digest) if costs else None) or "see costs.log in the ablation's folder"
            raise UserError(f"{run.data}/{run.variant}: its training step could not be measured ({reason}).")
        of_variant[run.variant] = costs.architectures[digest]
    config = plan.runs[0].config  # an ablation with a question has one data set
    base = run_type.effort(config)
    known = {base.epochs: base}

    def effort(epochs: int) -> Effort:
        # A search for the number of epochs asks for many; loading an image is timed once, so that hours rise with them.
        if epochs not in known:
            found = run_type.effort(run_type.override(config, [f"{run_type.epochs_key}={epochs}"]))
            known[epochs] = replace(found, load_s=base.load_s)
        return known[epochs]

    return Estimate(of_variant, effort, base.epochs, len(plan.ablation.seeds), slots)


def describe(found: Estimate, rounds: int) -> list[str]:
    """Sentences on the estimate, a line for each variant."""
    effort = found.effort(found.epochs)
    lines = [
        f"{variant}: {found.run_seconds(variant, found.epochs) / 60:.1f} min a run, {effort.steps} training steps of "
        f"{cost.train_step_s * 1e3:.0f} ms and {effort.evaluated} evaluated images of {cost.inference_s * 1e3:.0f} ms"
        for variant, cost in found.costs.items()
    ]
    total = len(found.costs) * found.seeds
    lines.append(
        f"{found.hours(list(found.costs), found.epochs):.2f} h for {total} runs, {found.slots} at a time; steps and "
        f"inference are medians of {rounds} measured here one after another, loading an image takes "
        f"{effort.load_s * 1e3:.0f} ms, and {START_S:.0f} s are added to start and end each run"
    )
    return lines


def decide(
    plan: Plan,
    costs: MeasuredCosts | None,
    slots: int,
    budget: float | None,
    spent: float,
    wanted: Collection[str] = (),
) -> Scope:
    """Estimate the time of a plan, and leave out what a budget has no room for.

    Args:
        plan: all runs.
        costs: measured, of all variants.
        slots: runs at a time.
        budget: hours for everything; None: no limit.
        spent: hours of it that are over.
        wanted: variants that were asked for by name, which are not left out.

    Raises:
        UserError: as `estimate` and `fit_budget`.
    """
    found = estimate(plan, costs, slots)
    texts = describe(found, costs.rounds if costs else 0)
    if budget is None:
        return Scope((), None, found.hours(list(found.costs), found.epochs), tuple(texts))
    scope = fit_budget(plan.ablation, found, budget, spent, wanted)
    return replace(scope, texts=(*texts, *scope.texts))


def fit_budget(
    ablation: Ablation, found: Estimate, budget: float, spent: float = 0.0, wanted: Collection[str] = ()
) -> Scope:
    """Leave out variants, then epochs, until the estimate times `SAFETY` is within what is left of a budget in hours.

    Variants that are `wanted` are not left out.

    Raises:
        UserError: one epoch of these and of the variants that answer the question takes longer.
    """
    assert ablation.question is not None
    kept, epochs, texts = list(found.costs), found.epochs, list[str]()
    core = ablation.question.core(ablation)
    # Variants that the question does not name are the first to go.
    unnamed = [name for name in kept if name not in (*core, *ablation.question.drop)]

    def hours(of_epochs: int) -> float:
        return SAFETY * found.hours(kept, of_epochs)

    start, left = hours(epochs), budget - spent
    order = [name for name in (*unnamed, *ablation.question.drop) if name in kept and name not in wanted]
    dropped = []
    while hours(epochs) > left and order:
        dropped.append(order.pop(0))
        kept.remove(dropped[-1])
        texts.append(f"leaves out {dropped[-1]}: {hours(epochs):.2f} h")
    if hours(epochs) > left:
        # The most epochs that fit: hours rise with epochs.
        epochs = max(1, bisect_right(range(1, epochs + 1), left, key=hours))
    if hours(epochs) > left:
        seeds, need = ", ".join(map(str, ablation.seeds)), math.ceil(10 * (hours(1) + spent)) / 10
        raise UserError(
            f"--budget-hours {budget:g}: is too little for one epoch of {', '.join(kept)} with seeds {seeds}, which "
            f"takes about {hours(1):.2g} h here with {SAFETY - 1:.0%} added for safety; give --budget-hours {need:g}, "
            "or run it on a faster machine."
        )
    if epochs < found.epochs:
        texts.append(f"trains for {epochs} of {found.epochs} epochs: {hours(epochs):.2f} h")
    if texts:
        over = f"with {SAFETY - 1:.0%} added for safety {start:.2f} h, more than the {left:.2f} h that are left"
        texts.insert(0, f"{over} of {budget:g}")
    return Scope(tuple(dropped), epochs if epochs < found.epochs else None, found.hours(kept, epochs), tuple(texts))
