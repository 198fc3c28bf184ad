"""Carry out a plan: look what is there, put aside what does not count, run what is missing, and say what happened."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from detection.ablation.launch.launchers import Callbacks, Launcher, Task, run_all
from detection.ablation.launch.progress_table import ProgressTable
from detection.ablation.launch.status import State, inspect, set_aside
from detection.ablation.plan import Cell, Plan


def prepare_data(plan: Plan) -> None:
    """Make every data set once, before runs that share it start at the same time."""
    first = {(cell.data, cell.variant): cell for cell in reversed(plan.cells)}
    made = set()
    for cell in first.values():
        digest = plan.ablation.kind.digest(plan.ablation.kind.plain(cell.config)["data"])
        if digest not in made:
            made.add(digest)
            plan.ablation.kind.prepare(cell.config)


def inspect_all(plan: Plan) -> dict[str, State]:
    """What lies in the folder of each cell, by its name; a `UserError` where one holds something else than a run."""
    return {cell.name: inspect(cell, plan.ablation.kind) for cell in plan.cells}


def unplanned_runs(plan: Plan) -> list[Path]:
    """Run folders that no cell of the plan has: of variants, data sets or seeds that it no longer names."""
    known = {cell.folder for cell in plan.cells}
    found = sorted((plan.output / "runs").glob("*/*/seed-*"))
    return [folder for folder in found if folder.is_dir() and folder not in known]


def carry_out(plan: Plan, states: Mapping[str, State], launcher: Launcher, resume: bool, board: ProgressTable) -> None:
    """Run every cell that is not finished, once.

    Args:
        plan: the cells.
        states: what lies in their folders.
        launcher: what starts them.
        resume: go on with stopped runs that left a checkpoint; the others, and without it all, begin again.
        board: what is told.
    """
    by_name = {cell.name: cell for cell in plan.cells}
    began: dict[str, float] = {}
    tasks = [task for cell in plan.cells if (task := _task(plan, cell, states[cell.name], resume, board))]

    def started(name: str) -> None:
        began[name] = time.monotonic()
        board.set(by_name[name], "at work")

    def ended(name: str, code: int) -> None:
        state = inspect(by_name[name], plan.ablation.kind)
        minutes = (time.monotonic() - began[name]) / 60
        board.set(by_name[name], outcome(plan, by_name[name], state, code, minutes))

    def waited(names: Sequence[str]) -> None:
        kind = plan.ablation.kind
        board.show({name: kind.progress(by_name[name].folder) for name in names})

    try:
        run_all(tasks, launcher, Callbacks(started, ended, waited))
    except BaseException:
        for task in tasks:
            if not board.status[task.name].startswith(("finished", "failed")):
                board.set(by_name[task.name], "left")
        raise


def outcome(plan: Plan, cell: Cell, state: State, code: int, minutes: float) -> str:
    """How a run ended, in words; a run is finished if its folder is whole, whatever its process said at the end."""
    if state.what != "finished":
        return f"failed with exit code {code} after {minutes:.1f} min: {state.reason} ({cell.log})"
    beside = f", though with exit code {code}" if code else ""
    return f"finished in {minutes:.1f} min{beside}, {_headline(plan, state)}"


def _task(plan: Plan, cell: Cell, state: State, resume: bool, board: ProgressTable) -> Task | None:
    """What is to be run for a cell, and what is said about it beforehand; None if it is finished."""
    if state.what == "finished":
        board.set(cell, f"finished before, {_headline(plan, state)}")
        return None
    if state.what == "stopped" and resume and plan.ablation.kind.can_resume(cell.folder):
        board.set(cell, f"waiting; {state.reason}; goes on from its last checkpoint")
        return Task(cell.name, plan.resume_command(cell), cell.log)
    if state.what == "absent":
        board.set(cell, "waiting" if not cell.log.exists() else f"waiting; the last time {state.reason}")
    else:
        place = set_aside(cell, plan.output)
        board.set(cell, f"waiting; was {state.what}: {state.reason}; set aside as {place}, begins again")
    return Task(cell.name, plan.command(cell), cell.log)


def _headline(plan: Plan, state: State) -> str:
    return f"{plan.ablation.metric} {state.numbers[plan.ablation.metric]:.3f}"
