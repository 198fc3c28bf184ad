"""The part of an ablation with a question that is run: decided once from measured times, then read again."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from detection.ablation.ablation import Ablation
from detection.ablation.costs import MeasuredCosts
from detection.ablation.own_data.budget import SAFETY, Scope, estimate
from detection.ablation.plan import Plan
from detection.atomic_write import write_json
from detection.errors import UserError

FILE = "budget.json"

REPEATED = (
    "seeds were added to those that were decided on first: if that was because these did not decide it, a difference "
    "of 0 is called a help or a hurt more often than 5 % of the time, up to 16 % where they are added until one is"
)
"""What is stated of an answer that was looked at more than once: in 400 simulations with three seeds first and a spread
between seeds of 0.04, 3.8 % had a false outcome by the first three, and 15.8 % once the advice on seeds was followed
until it decided or would have taken more than 30 seeds; with a spread of 0.02, 4.2 and 9 %."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """The part that is run, and what it was decided for.

    Attributes:
        scope: what is run.
        digests: of each variant, see `scope_digests`.
        seeds: of its estimate.
        budget: hours; None: no limit.
    """

    scope: Scope
    digests: Mapping[str, str]
    seeds: tuple[int, ...]
    budget: float | None

    def lacks(self, seeds: Sequence[int]) -> list[int]:
        """The seeds among these that it was not made for."""
        return [seed for seed in seeds if seed not in self.seeds]

    def leaves_out(self, variants: Collection[str]) -> list[str]:
        """The variants among these that it leaves out."""
        return [name for name in self.scope.dropped if name in variants]


def scope_digests(plan: Plan, data: Sequence[str]) -> dict[str, str]:
    """Digest of each variant with any seed and of sentences on its data, not of the speed of the machine.

    A decision holds for more seeds and for fewer variants than it was made for, as finished runs have to stay.
    """
    run_type, digests = plan.ablation.run_type, dict[str, str]()
    for run in plan.runs:
        if run.variant not in digests:
            config = run_type.plain(run_type.override(run.config, ["seed=0"]))
            digests[run.variant] = run_type.digest({"run": config, "data": list(data)})
    return digests


def runs_digest(plan: Plan, data: Sequence[str]) -> str:
    """Digest of all runs and of sentences on their data, by which former versions knew a decision."""
    return plan.ablation.run_type.digest({"runs": {run.name: run.digest for run in plan.runs}, "data": list(data)})


def save_decision(output: Path, decision: Decision) -> None:
    """Write what was decided, so that the same command goes on with the same runs."""
    write_json(output / FILE, dataclasses.asdict(decision))


def read_decision(
    output: Path,
    digests: Mapping[str, str],
    budget: float | None,
    *,
    any_budget: bool = False,
    runs: tuple[str, Sequence[int]] = ("", ()),
) -> Decision | None:
    """Read the decision on these variants, or more, and this budget, or any; None where there is none.

    `runs` is the digest of all runs and their seeds, by which former versions knew a decision.
    """
    try:
        plain = json.loads((output / FILE).read_text(encoding="utf-8"))
        if "scope" not in plain and plain["digest"] == runs[0]:
            plain = {"scope": plain, "digests": dict(digests), "seeds": runs[1], "budget": plain["budget"]}
        saved = plain["scope"]
        scope = Scope(tuple(saved["dropped"]), saved["epochs"], saved["hours"], tuple(saved["texts"]))
        known = Decision(scope, plain["digests"], tuple(plain["seeds"]), plain["budget"])
        is_of_these = digests.items() <= known.digests.items() and (known.budget == budget or any_budget)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return known if is_of_these else None


def extend_decision(
    known: Decision, plan: Plan, costs: MeasuredCosts | None, slots: int, spent: float, wanted: Collection[str] = ()
) -> Decision:
    """Let a decision hold for seeds of a plan that it was not made for, and for variants that it left out.

    What is added has the epochs of the decision.

    Args:
        known: what was decided.
        plan: with more seeds, before anything is left out.
        costs: as they were measured for the decision.
        slots: runs at a time.
        spent: hours of the budget that are over; what the added runs take has to fit into what is left of it.
        wanted: variants that were asked for by name.

    Raises:
        UserError: it does not.
    """
    scope, budget, more, texts = known.scope, known.budget, known.lacks(plan.ablation.seeds), list[str]()
    found, added = estimate(plan, costs, slots), known.leaves_out(wanted)
    kept = [name for name in found.costs if name not in scope.dropped]
    hours = 0.0
    for names, seeds, of_what in (
        (kept, more, f"seeds {', '.join(map(str, more))}"),
        (added, list(plan.ablation.seeds), ", ".join(added)),
    ):
        if names and seeds:
            of_these = dataclasses.replace(found, seeds=len(seeds)).hours(names, scope.epochs or found.epochs)
            texts.append(f"{of_these:.2f} h for {len(names) * len(seeds)} runs of {of_what} with as many epochs")
            hours += of_these
    # The level of the answer is for one look at the data.
    repeated = [REPEATED] if more and REPEATED not in scope.texts else []
    if budget is not None and SAFETY * hours > budget - spent:
        what = " and ".join(["more seeds"] * bool(more) + ["more variants"] * bool(added))
        raise UserError(
            f"--budget-hours {budget:g}: is too little for {what}: {'; '.join(texts)}, {SAFETY * hours:.2f} h with "
            f"{SAFETY - 1:.0%} added for safety; give fewer at a time."
        )
    dropped = tuple(name for name in scope.dropped if name not in added)
    scope = dataclasses.replace(
        scope, dropped=dropped, hours=scope.hours + hours, texts=(*scope.texts, *texts, *repeated)
    )
    return dataclasses.replace(known, scope=scope, seeds=(*known.seeds, *more))


def apply_scope(ablation: Ablation, scope: Scope, wanted: Collection[str] = ()) -> tuple[Ablation, list[str]]:
    """Return the ablation without the variants that are left out and not `wanted`, and the changes of the base."""
    kept = [name for name in ablation.variants if name not in scope.dropped or name in wanted]
    changes = [] if scope.epochs is None else [f"{ablation.run_type.epochs_key}={scope.epochs}"]
    return ablation.only(kept), changes
