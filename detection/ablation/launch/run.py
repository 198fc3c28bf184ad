"""Carry out a plan: inspect all folders, set aside what does not count, run what is missing, and report each run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from detection.ablation.evaluations import with_evaluations
from detection.ablation.launch.launchers import Callbacks, Launcher, QueuedCommand, run_all
from detection.ablation.launch.progress_table import ProgressTable, has_ended
from detection.ablation.launch.status import RunStatus, inspect_evaluation, inspect_run, set_aside
from detection.ablation.plan import Plan, Run
from detection.errors import UserError


def prepare_data(plan: Plan) -> None:
    """Make every data set once, before runs that share it start at the same time."""
    run_type = plan.ablation.run_type
    for run in plan.distinct(lambda config: run_type.plain(config)["data"]).values():
        run_type.prepare(run.config)
    evaluations = [run for run in with_evaluations(plan).runs if run.trained is not None]
    for run in replace(plan, runs=tuple(evaluations)).distinct(lambda config: run_type.plain(config)["data"]).values():
        run_type.prepare_evaluation(run.config)


def inspect_all(plan: Plan) -> dict[str, RunStatus]:
    """The status of each run, by its name."""
    run_type = plan.ablation.run_type
    found = {run.name: inspect_run(run, run_type) for run in plan.trainings}
    for run in plan.runs:
        if run.trained is not None:
            found[run.name] = inspect_evaluation(run, run_type, found[run.trained.name])
    return found


def unplanned_runs(plan: Plan) -> list[Path]:
    """Run folders that are not in the plan: of variants, data sets or seeds that it no longer names."""
    known = {run.folder for run in plan.runs}
    found = sorted((plan.output / "runs").glob("*/*/seed-*"))
    return [folder for folder in found if folder.is_dir() and folder not in known]


def run_plan(
    plan: Plan, statuses: Mapping[str, RunStatus], launcher: Launcher, resume: bool, table: ProgressTable
) -> None:
    """Run every run that is not finished, once; `resume` continues stopped runs that have a checkpoint.

    Raises:
        UserError: a run is blocked; nothing is started then.
    """
    for run in plan.runs:
        if statuses[run.name].state == "blocked":
            raise UserError(statuses[run.name].reason)
    by_name = {run.name: run for run in plan.runs}
    began: dict[str, float] = {}
    queue = [queued for run in plan.runs if (queued := _enqueue(plan, run, statuses[run.name], resume, table))]

    def started(name: str) -> None:
        began[name] = time.monotonic()
        table.update(by_name[name], "running")

    def ended(name: str, code: int) -> None:
        status = inspect_run(by_name[name], plan.ablation.run_type)
        minutes = (time.monotonic() - began[name]) / 60
        table.update(by_name[name], outcome(plan, by_name[name], status, code, minutes))

    def waited(names: Sequence[str]) -> None:
        table.refresh({name: plan.ablation.run_type.progress(by_name[name].folder) for name in names})

    try:
        run_all(queue, launcher, Callbacks(started, ended, waited))
    except BaseException:
        for queued in queue:
            if not has_ended(table.progress[queued.name]):
                table.update(by_name[queued.name], "left")
        raise


def outcome(plan: Plan, run: Run, status: RunStatus, code: int, minutes: float) -> str:
    """Describe how a run ended; it is finished if its folder is complete, whatever its exit code."""
    if status.state != "finished":
        return f"failed with exit code {code} after {minutes:.1f} min: {status.reason} ({run.log})"
    despite = f", though with exit code {code}" if code else ""
    return f"finished in {minutes:.1f} min{despite}, {_headline(plan, status)}"


def _enqueue(plan: Plan, run: Run, status: RunStatus, resume: bool, table: ProgressTable) -> QueuedCommand | None:
    """Clear a run's folder and return its command; None if it is finished."""
    if status.state == "finished":
        table.update(run, f"finished before, {_headline(plan, status)}")
        return None
    if status.state == "stopped" and resume and plan.ablation.run_type.can_resume(run.folder):
        table.update(run, f"waiting; {status.reason}; continues from its last checkpoint")
        return QueuedCommand(run.name, plan.resume_command(run), run.log)
    if status.state == "absent":
        table.update(run, "waiting" if not run.log.exists() else f"waiting; the last time {status.reason}")
    else:
        place = set_aside(run, plan.output)
        table.update(run, f"waiting; was {status.state}: {status.reason}; set aside as {place}, starts again")
    return QueuedCommand(run.name, plan.command(run), run.log)


def _headline(plan: Plan, status: RunStatus) -> str:
    return f"{plan.ablation.metric} {status.metrics[plan.ablation.metric]:.3f}"
