"""Carry a plan out in its folder: its runs, its evaluations, its costs and its report."""

import dataclasses
import shlex
import sys
import time
from pathlib import Path

import torch

from detection.ablation.choosing import FOLDER
from detection.ablation.costs import all_measured, machine_name, measure_costs, read_costs
from detection.ablation.evaluations import with_evaluations
from detection.ablation.launch.evaluations import run_evaluations
from detection.ablation.launch.launchers import Callbacks, Launcher, LocalLauncher, QueuedCommand, run_all
from detection.ablation.launch.lock import locked
from detection.ablation.launch.progress_table import ProgressTable
from detection.ablation.launch.run import inspect_all, prepare_data, run_plan, unplanned_runs
from detection.ablation.launch.slurm import SlurmLauncher
from detection.ablation.own_data.budget import Scope, decide
from detection.ablation.own_data.scope import (
    Decision,
    extend_decision,
    read_decision,
    runs_digest,
    save_decision,
    scope_digests,
)
from detection.ablation.plan import Plan
from detection.ablation.planning import WIDER_FILE, Opened, Planned
from detection.ablation.report.csv_export import to_csv
from detection.ablation.report.report import build_report, headline
from detection.ablation.request import Request
from detection.ablation.size_matched import save_controls
from detection.ablation.summary import summarize
from detection.analysis.timing import peak_bytes, settle_on
from detection.atomic_write import write_json
from detection.cores import usable_cores
from detection.errors import UserError
from detection.names import short_line
from detection.reports.files import write_files, write_report
from detection.runs.lock import LOCK
from detection.runs.logs import progress
from detection.training.preemption import watch

RECORD = "ablation.json"
"""File of what is planned, in the ablation's folder."""
COSTS = "costs.json"
"""File of the measured costs, in the ablation's folder."""


def require_ours(output: Path) -> None:
    """Refuse a folder that holds something other than an ablation."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; choose another --output.")
    files = (output / RECORD, output / FOLDER / RECORD)
    # A start that was refused leaves its lock, a power cut what was written of the record.
    folders = [folder for folder in (output, output / FOLDER) if folder.is_dir()]
    paths = [path for folder in folders for path in folder.iterdir() if path not in folders]
    held = [path for path in paths if path.name != LOCK and not path.match(f".{RECORD}.*")]
    if held and not any(file.exists() for file in files):
        raise UserError(f"{output}: holds something other than an ablation; choose another --output.")


def build_launcher(request: Request, runs: int, held: int) -> Launcher:
    """Build the launcher of a number of runs, which keep the lock's open file; a `UserError` where Slurm is missing."""
    if request.slurm is not None:
        return SlurmLauncher(request.slurm, request.output / "slurm", request.workers)
    cores, gpus = usable_cores(), torch.cuda.device_count()
    return LocalLauncher(request.workers or min(gpus or cores, runs), cores, gpus, (held,))


def open_scope(request: Request, opened: Opened, plan: Plan) -> Scope | None:
    """Return what of an ablation with a question is run: as decided before, or by a measurement of all variants.

    None: nothing is decided yet, and nothing is to be changed.
    """
    output, budget, seeds = request.output, request.budget_hours, plan.ablation.seeds
    digests = scope_digests(plan, opened.data_remarks)
    former = runs_digest(plan, opened.data_remarks), seeds
    any_budget = request.report_only and budget is None
    known = read_decision(output, digests, budget, any_budget=any_budget, runs=former)
    is_enough = known is not None and not known.lacks(seeds) and not known.leaves_out(request.variants)
    if request.report_only or request.dry_run or is_enough:
        return None if known is None else known.scope
    require_ours(output)
    with watch(until_exit=True), locked(output) as held:
        launcher = build_launcher(request, len(plan.runs), held)
        # First, or `require_ours` would refuse what is left of a start that was killed. The record of runs that exist
        # stays until `run_planned` replaces it.
        if not (output / RECORD).exists():
            write_json(output / RECORD, plan.record())
        save_controls(output / WIDER_FILE, *opened.wider)
        # A budget is held against what runs take here, so that costs of another machine or other threads do not count.
        launch_cost_measurement(request, plan, launcher, any_machine=False)
        slots = min(launcher.slots, len(plan.runs))
        spent = (time.monotonic() - request.began) / 3600
        costs = read_costs(output / COSTS)
        if known is None:
            scope = decide(plan, costs, slots, budget, spent, request.variants)
            decision = Decision(scope, digests, tuple(seeds), budget)
        else:
            decision = extend_decision(known, plan, costs, slots, spent, request.variants)
        save_decision(output, decision)
    return decision.scope


def run_planned(request: Request, planned: Planned) -> None:
    """Run what is missing, then measure costs that are not known yet."""
    plan = planned.plan
    require_ours(request.output)
    # A signal ends the runs, too, which save their state.
    with watch(until_exit=True), locked(request.output) as held:
        launcher = build_launcher(request, len(plan.runs), held)
        # Before the first run: primary comparisons count if they are recorded by then.
        write_json(request.output / RECORD, plan.record())
        if planned.controls:
            save_controls(request.output / "controls.json", planned.controls, planned.digest)
        prepare_data(plan)
        if others := unplanned_runs(plan):
            shown = ", ".join(map(str, others[:3])) + (", …" if len(others) > 3 else "")
            print(short_line(f"note     {len(others)} other runs are kept and not counted: {shown}"))
        table = ProgressTable(plan, slots=launcher.slots)
        try:
            with table:
                run_plan(plan, inspect_all(plan), launcher, request.resume, table)
        except KeyboardInterrupt:
            left = list(table.progress.values()).count("left")
            print(f"{left} of {len(plan.runs)} runs are left; the same command with --resume goes on", flush=True)
            raise
        run_evaluations(plan, launcher)
        launch_cost_measurement(request, plan, launcher)


def launch_cost_measurement(request: Request, plan: Plan, launcher: Launcher, *, any_machine: bool = True) -> None:
    """Measure costs in a process of the launcher, where the runs are, with no other run at the same time.

    Costs that were measured before are taken; with a question and not `any_machine`, that process decides whether they
    are of its machine and number of threads, which are not known here.
    """
    rounds = request.rounds_of(plan.ablation)
    if not rounds or (any_machine and all_measured(read_costs(request.output / COSTS), plan)):
        return
    print("measuring costs of all architectures", flush=True)
    measured = ["--measure-costs", f"--cost-rounds={rounds}"]
    command = [sys.executable, "-m", "detection.cli.ablate", *request.argv, *measured]
    log = request.output / "costs.log"

    def ended(_: str, code: int) -> None:
        if code:
            print(short_line(f"costs    exit code {code} ({log})"))

    run_all([QueuedCommand("costs", command, log)], launcher, Callbacks(ended=ended))


def measure_costs_here(request: Request, plan: Plan) -> None:
    """Measure costs in this process and write them; with a question, those that were measured like this are kept."""
    known = read_costs(request.output / COSTS)
    if plan.ablation.question is not None and known is not None and all_measured(known, plan):
        if known.machine == machine_name():
            return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rounds = request.rounds_of(plan.ablation)
    costs = measure_costs(plan, rounds, settle_on(device), lambda function: peak_bytes(function, device))
    write_json(request.output / COSTS, dataclasses.asdict(costs))


def report_planned(request: Request, planned: Planned) -> int:
    """Write the report and print its path; returns the number of missing runs."""
    plan = with_evaluations(planned.plan)
    with progress("resampling images", len(plan.runs)) as bar:
        summary = summarize(plan, inspect_all(plan), on_run=lambda run: bar.advance())
    costs = read_costs(request.output / COSTS)
    command = " ".join([*request.environment, shlex.join(["detection", "ablate", *request.argv])])
    size = request.match or "parameters"
    blocks = build_report(summary, costs, planned.controls, size, command, request.remarks)
    write_files(request.output, {"report.csv": to_csv(summary).encode()})
    written = write_report(request.output, "report", blocks)
    print(headline(summary), end="")
    for name, reason in summary.missing.items():
        print(short_line(f"missing  {name}: {reason}"))
    print(short_line(f"report   {written[-1]}"))
    return len(summary.missing)
