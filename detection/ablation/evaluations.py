"""Evaluations of an ablation's trained runs on other data, each as another data set in the report."""

from dataclasses import replace
from typing import Any

from detection.ablation.plan import Plan, Run
from detection.errors import UserError


def with_evaluations(plan: Plan) -> Plan:
    """Add the evaluations of every run: the data set `DATA-NAME` after each that is evaluated as `NAME`.

    The runs come after all trainings.

    Raises:
        UserError: changes that do not fit, or change nothing.
    """
    ablation, evaluations = plan.ablation, plan.ablation.evaluations
    if not evaluations:
        return plan
    data: dict[str, tuple[str, ...]] = {}
    chance, runs = dict(ablation.chance), list[Run]()
    for trained, of_data in ablation.data.items():
        data[trained] = tuple(of_data)  # type: ignore[arg-type]
        for name, by_data in evaluations.items():
            if trained not in by_data:
                continue
            own = f"{trained}-{name}"
            data[own] = (*data[trained], *by_data[trained])
            chance |= {own: chance[trained]} if trained in chance else {}
            runs += [_evaluation(plan, run, name, by_data[trained]) for run in plan.runs if run.data == trained]
    extended = replace(ablation, data=data, chance=chance, evaluate_on={})
    return replace(plan, ablation=extended, runs=(*plan.runs, *runs))


def _evaluation(plan: Plan, run: Run, name: str, changes: tuple[str, ...]) -> Run:
    run_type = plan.ablation.run_type
    key = f"evaluate_on[{name!r}], {run.data}/{run.variant}"
    try:
        config: Any = run_type.evaluation_config(run.config, changes)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    digest = run_type.digest(run_type.plain(config))
    if digest == run.digest:
        raise UserError(f"{key}: changes nothing.")
    folder = run.folder / f"evaluation-{name}"
    return Run(f"{run.data}-{name}", run.variant, run.seed, changes, folder, config, digest, run)
