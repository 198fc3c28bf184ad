"""From what is asked of an ablation's file to the plan of its runs."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detection.ablation.ablation import Ablation, load_ablation
from detection.ablation.choice import Chosen
from detection.ablation.choosing import FOLDER, choice_ablation, choose, with_chosen
from detection.ablation.evaluations import with_evaluations
from detection.ablation.launch.run import inspect_all
from detection.ablation.own_data.budget import Scope
from detection.ablation.own_data.question import resolve_question
from detection.ablation.own_data.scope import apply_scope
from detection.ablation.plan import Plan, make_plan, superseded
from detection.ablation.primary import registered
from detection.ablation.request import Request
from detection.ablation.size_matched import Control, find_controls
from detection.ablation.summary import summarize
from detection.config.files import find_config
from detection.errors import UserError
from detection.names import short_line

WIDER_FILE = "wider.json"
"""File of the size-matched control of a question, in the ablation's folder."""


@dataclass(frozen=True)
class Opened:
    """An ablation's file, read for a request.

    Attributes:
        complete: all of it.
        part: what is asked for.
        base: the config file of all runs.
        data_remarks: of a question, sentences on its data.
        wider: of a question, its size-matched control, and the digest that it is saved under.
    """

    complete: Ablation
    part: Ablation
    base: Path
    data_remarks: tuple[str, ...] = ()
    wider: tuple[dict[str, Control], str] = ({}, "")


@dataclass(frozen=True)
class Planned:
    """A plan, its size-matched controls, and the digest that these are saved under."""

    plan: Plan
    controls: dict[str, Control] = field(default_factory=dict)
    digest: str = ""


def open_ablation(request: Request) -> Opened:
    """Read the ablation's file; with a question, examine its data and print what was found.

    Raises:
        UserError: no such file, data that cannot be used, or options that do not fit the file.
    """
    complete, base = load_ablation(find_config(request.file))
    if complete.question is None:
        if request.budget_hours is not None:
            raise UserError(f"--budget-hours: {request.file} asks no question; own_data does. Leave it out.")
        return Opened(complete, _part(complete, request), base)
    if request.match is not None:
        raise UserError(f"--match: {request.file} has this control, `wider`; leave it out.")
    opened = _examine(request, complete, base)
    complete = opened.complete
    complete = dataclasses.replace(complete, seeds=tuple(dict.fromkeys([*complete.seeds, *request.seeds])))
    return dataclasses.replace(opened, complete=complete, part=_part(complete, request))


def _part(complete: Ablation, request: Request) -> Ablation:
    return complete.only(request.variants, request.data, request.seeds)


def _examine(request: Request, ablation: Ablation, base: Path) -> Opened:
    """Examine the data of a question, and find the variants that follow from them."""
    run_type, question = ablation.run_type, ablation.question
    assert question is not None
    changes = [*next(iter(ablation.data.values())), *request.overrides]
    config: Any = run_type.override(run_type.load(base), changes)
    run_type.prepare(config)
    data_remarks = tuple(run_type.data_remarks(config))
    pair = ablation.only([question.default])
    wider = find_controls(pair, base, request.overrides, "flops", request.output / WIDER_FILE)
    control = next(iter(wider[0].values()), None)
    asked, texts = resolve_question(ablation, run_type.overlap(config), control, request.variants)
    request.remarks += [*data_remarks, *texts]
    if not request.measure_costs:
        print(*(short_line(f"data     {remark}") for remark in request.remarks), sep="\n", flush=True)
    return Opened(asked, asked, base, data_remarks, wider)


def open_plan(request: Request, opened: Opened, chosen: Mapping[str, Chosen]) -> Planned:
    """Plan the runs of a part, with what was chosen for its variants; every config is checked.

    Raises:
        UserError: a run or an evaluation does not fit.
    """
    ablation = with_chosen(opened.part, chosen)
    controls, digest = {}, ""
    if request.match is not None:
        saved = request.output / "controls.json"
        controls, digest = find_controls(ablation, opened.base, request.overrides, request.match, saved)
    named = {variant: (control.name, control.overrides) for variant, control in controls.items()}
    plan = make_plan(request.file.stem, ablation, opened.base, request.output, request.overrides, named)
    notes = [text for text in superseded(plan) if text not in request.remarks]
    request.remarks += notes
    if not request.measure_costs:
        print(*(short_line(f"note     {text}") for text in notes), sep="\n", end="\n" if notes else "", flush=True)
    with_evaluations(plan)  # refuses what does not fit
    primary = opened.complete.comparisons
    plan = dataclasses.replace(
        plan,
        left_out=tuple(opened.complete.beyond(opened.part)),
        primary=primary,
        registered=registered(request.output, primary),
        chosen=chosen,
    )
    return Planned(plan, controls, digest)


def open_scoped_plan(request: Request, opened: Opened, scope: Scope) -> Planned:
    """Print what was decided of the time, and plan what is left."""
    print(*(short_line(f"time     {text}") for text in scope.texts), sep="\n", flush=True)
    request.remarks += scope.texts
    part, changes = apply_scope(opened.part, scope, request.variants)
    request.overrides = [*request.overrides, *changes]
    return open_plan(request, dataclasses.replace(opened, part=part), {})


def open_choice(request: Request, opened: Opened) -> tuple[Request, Planned]:
    """Plan the options that are tried before a part, and return the request that they are run with."""
    part = opened.part
    assert part.choice is not None
    own = dataclasses.replace(request, output=request.output / FOLDER, match=None, cost_rounds=0)
    name = f"{request.file.stem}: choice"
    tried = choice_ablation(part, part.choice)
    return own, Planned(make_plan(name, tried, opened.base, own.output, request.overrides))


def read_choice(part: Ablation, plan: Plan) -> dict[str, Chosen]:
    """Choose by the finished runs of a choice.

    Raises:
        UserError: one is missing.
    """
    assert part.choice is not None
    # The means alone are read, which need no samples.
    return choose(part.choice, summarize(plan, inspect_all(plan), resamplings=1))
