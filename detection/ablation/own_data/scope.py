"""What of an ablation with a question is run: decided once from measured times, then read again."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from detection.ablation.ablation import Ablation
from detection.ablation.own_data.budget import Scope
from detection.ablation.plan import Plan
from detection.atomic_write import write_json

FILE = "budget.json"


def scope_digest(plan: Plan, data: Sequence[str]) -> str:
    """Digest of the runs that a scope is of, and of sentences on their data, not of the speed of the machine."""
    return plan.ablation.run_type.digest({"runs": {run.name: run.digest for run in plan.runs}, "data": list(data)})


def save_scope(output: Path, scope: Scope, digest: str, budget: float | None) -> None:
    """Write what was decided, so that the same command goes on with the same runs."""
    write_json(output / FILE, {"digest": digest, "budget": budget, **dataclasses.asdict(scope)})


def read_scope(output: Path, digest: str, budget: float | None, *, any_budget: bool = False) -> Scope | None:
    """What was decided before for the same runs and budget, or whatever budget; None where nothing was."""
    try:
        plain = json.loads((output / FILE).read_text(encoding="utf-8"))
        if plain.pop("digest") != digest or (plain.pop("budget") != budget and not any_budget):
            return None
        return Scope(tuple(plain.pop("dropped")), plain.pop("epochs"), plain.pop("hours"), tuple(plain.pop("texts")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def apply_scope(ablation: Ablation, scope: Scope) -> tuple[Ablation, list[str]]:
    """Return the ablation without the variants that are left out, and the changes of the base."""
    kept = [name for name in ablation.variants if name not in scope.dropped]
    changes = [] if scope.epochs is None else [f"{ablation.run_type.epochs_key}={scope.epochs}"]
    return ablation.only(kept), changes
