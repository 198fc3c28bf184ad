"""Provenance of the runs: code, versions and machines, and whether these were the same for all of them."""

from collections.abc import Collection, Mapping
from typing import Any

from detection.ablation.plan import Plan
from detection.reports.document import Block, Bullets, Paragraph
from detection.runs.records import environments, read_record, version_differences


def describe_runs(plan: Plan, counted: Collection[str]) -> list[Block]:
    """List code, versions and machines of the runs that count, with a warning where they differ."""
    runs = {run.name: read_record(run.folder) for run in plan.trainings if run.name in counted}
    differing = version_differences(runs)
    found: dict[str, list[str]] = {}
    for name, environment in runs.items():
        found.setdefault(made_with(environment, differing), []).append(name)
    if not found:
        return [Paragraph("There is none yet.")]
    if len(found) == 1:
        return [Paragraph(f"All were made with {next(iter(found))}.")]
    items = [f"{len(names)} with {text}: {', '.join(names)}" for text, names in found.items()]
    return [Paragraph("The runs were not all made with the same code, versions or threads.", True), Bullets(items)]


def made_with(environment: Mapping[str, Any], differing: Collection[str] = ()) -> str:
    """Commit, versions and machine of a run, and of each resume with others, from its `environment.json`, as one line.

    Of the libraries it names torch, torchvision and those that `differing` lists.
    """
    start, *resumes = environments(environment)
    text = last = _made_with(start, differing)
    for resume in resumes:
        if (other := _made_with(resume, differing)) != last:
            text, last = f"{text}; resumed after {resume.get('epoch', '?')} epochs with {other}", other
    return text


def _made_with(environment: Mapping[str, Any], differing: Collection[str]) -> str:
    try:
        git, versions, machine = (environment[key] for key in ("git", "versions", "machine"))
        names = [name for name in ("python", "torch", "torchvision") if name in versions]
        names += [name for name in differing if name not in names]
        parts = [_commit(git), *(f"{name} {versions.get(name, 'none')}" for name in names)]
        return ", ".join([*parts, f"{machine['device']}, {machine['threads']} thread(s)"])
    except (KeyError, TypeError, AttributeError):
        return "an unknown environment"


def _commit(git: dict[str, Any] | None) -> str:
    if git is None:
        return "code outside of a checkout"
    return f"commit {git['commit'][:12]}" + (f" with changes {git['changes']}" if git["changes"] else "")
