"""What of an ablation with a question is run: decided once from measured times, then read again."""

import dataclasses
import json
from pathlib import Path

from detection.ablation.ablation import Ablation
from detection.ablation.own_data.budget import Scope
from detection.ablation.plan import Plan
from detection.atomic_write import write_json

FILE = "budget.json"


def scope_digest(plan: Plan, hours: float | None) -> str:
    """Digest of all that a scope follows from: the runs and the budget, not the speed of the machine."""
    return plan.ablation.run_type.digest([hours, {run.name: run.digest for run in plan.runs}])


def save_scope(output: Path, scope: Scope, digest: str) -> None:
    """Write what was decided, so that the same command goes on with the same runs."""
    write_json(output / FILE, {"digest": digest, **dataclasses.asdict(scope)})


def read_scope(output: Path, digest: str) -> Scope | None:
    """What was decided before for the same runs and budget; None where nothing was."""
    try:
        plain = json.loads((output / FILE).read_text(encoding="utf-8"))
        if plain.pop("digest") != digest:
            return None
        return Scope(tuple(plain.pop("dropped")), plain.pop("epochs"), plain.pop("hours"), tuple(plain.pop("texts")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def apply_scope(ablation: Ablation, scope: Scope) -> tuple[Ablation, list[str]]:
    """Return the ablation without the variants that are left out, and the changes of the base."""
    kept = [name for name in ablation.variants if name not in scope.dropped]
    changes = [] if scope.epochs is None else [f"{ablation.run_type.epochs_key}={scope.epochs}"]
    return ablation.only(kept), changes
