"""Provenance of the runs: code, versions and machines, and whether these were the same for all of them."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from detection.ablation.plan import Plan
from detection.reports.document import Block, Bullets, Paragraph


def describe_runs(plan: Plan, counted: Collection[str]) -> list[Block]:
    """List code, versions and machines of the runs that count, with a warning where they differ."""
    found: dict[str, list[str]] = {}
    for run in plan.runs:
        if run.name in counted:
            found.setdefault(made_with(run.folder), []).append(run.name)
    if not found:
        return [Paragraph("There is none yet.")]
    if len(found) == 1:
        return [Paragraph(f"All were made with {next(iter(found))}.")]
    items = [f"{len(names)} with {text}: {', '.join(names)}" for text, names in found.items()]
    return [Paragraph("The runs were not all made with the same code, versions or threads.", True), Bullets(items)]


def made_with(folder: Path) -> str:
    """Commit, versions and machine of a run, from its `environment.json`, as one line."""
    try:
        environment = json.loads((folder / "environment.json").read_text())
        git, versions, machine = (environment[key] for key in ("git", "versions", "machine"))
        names = [name for name in ("python", "torch", "torchvision") if name in versions]
        parts = [_commit(git), *(f"{name} {versions[name]}" for name in names)]
        return ", ".join([*parts, f"{machine['device']}, {machine['threads']} thread(s)"])
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown environment"


def _commit(git: dict[str, Any] | None) -> str:
    if git is None:
        return "code outside of a checkout"
    return f"commit {git['commit'][:12]}" + (f" with changes {git['changes']}" if git["changes"] else "")
