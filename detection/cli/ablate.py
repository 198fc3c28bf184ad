"""Run an ablation: every variant on every data set with every seed, and a report of the differences.

detection ablate ABLATION [--output DIR] [--workers N] [--match params|flops] [key=value ...]
detection ablate ABLATION --launcher slurm [--partition P] [--gpus N] [--hours H] [--memory GB] [...]
detection ablate ABLATION --variants A,B --data D --seeds 0,1      a part of it; the report names what is left out
detection ablate ABLATION --dry-run       print the runs and their commands, change nothing
detection ablate ABLATION --report-only   report the runs that are finished, also while others run
detection ablate own_data data.train.annotations=… [--budget-hours H]      does context help on these data?

ABLATION is a file, or a shipped one's name such as smoke. Each run is a process with a folder,
DIR/runs/DATA/VARIANT/seed-N. Finished, unchanged runs are skipped; those that are corrupt, stopped or of other settings
are reported, set aside and run again. DIR/report.html is the report. key=value changes the base of all runs. The exit
code is 1 if a run is missing. An ablation that asks a question, such as own_data, first examines the data and estimates
its time; --budget-hours leaves out variants, then epochs, until that fits.
"""

import argparse
import dataclasses
import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.cli import CHANGES, command_parser
from detection.errors import UserError, command_line
from detection.names import short_line
from detection.training.preemption import watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detection.ablation.ablation import Ablation
    from detection.ablation.choice import Chosen
    from detection.ablation.launch.launchers import Launcher
    from detection.ablation.own_data.budget import Scope
    from detection.ablation.plan import Plan
    from detection.ablation.size_matched import Control, Size

MATCHED: "dict[str | None, Size]" = {None: "parameters", "params": "parameters", "flops": "flops"}
VARIABLES = ("BASE", "DATA")
"""Variables of the environment that the shipped ablations read."""
NOT_NEGATIVE = ("workers", "gpus", "cpus", "hours", "memory", "cost_rounds", "budget_hours")


SLURM = ("partition", "account", "gpus", "cpus", "hours", "memory")


def names(text: str) -> list[str]:
    """Split names at commas; text without any is refused, such as an empty variable of a shell."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise argparse.ArgumentTypeError("names nothing; leave it out for all")
    return found


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line and refuse values out of range."""
    parser = command_parser("ablate", __doc__, trust=True)
    ends = "file that ends in ablation = Ablation(...), or a name"
    parser.add_argument("ablation", type=Path, metavar="ABLATION", help=ends)
    settings = f"of all runs, unless a variant sets it: {CHANGES}"
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=settings)
    parser.add_argument("--output", type=Path, metavar="DIR", help="runs/ablations/NAME if left out")
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local")
    parser.add_argument("--workers", type=int, metavar="N", help="runs at a time; local: one for each GPU, or core")
    parser.add_argument("--match", choices=("params", "flops"), help="add the reference as large as each variant")
    for key in ("variants", "data", "seeds"):
        only = f"only these {key} of the file, with commas between them; the reference is always run"
        only += "; of an ablation with a question, also others" if key == "seeds" else ""
        parser.add_argument(f"--{key}", type=names, default=(), metavar="A,B", help=only)
    parser.add_argument("--resume", action="store_true", help="continue stopped runs from their last checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="print runs and commands, change nothing")
    parser.add_argument("--report-only", action="store_true", help="run nothing, write the report")
    budget = "of an ablation with a question: leave out variants, then epochs, until it is estimated to take H hours"
    parser.add_argument("--budget-hours", type=float, metavar="H", help=budget)
    rounds = "rounds of measuring costs; 0: none (10; 5, and at least 1, with a question)"
    parser.add_argument("--cost-rounds", type=int, metavar="N", help=rounds)
    parser.add_argument("--measure-costs", action="store_true", help="measure costs in this process, and nothing else")
    slurm = parser.add_argument_group("with --launcher slurm, of each run")
    slurm.add_argument("--partition", metavar="P", help="the cluster's default if left out")
    slurm.add_argument("--account", metavar="A", help="the user's default if left out")
    slurm.add_argument("--gpus", type=int, metavar="N", help="1 if left out")
    slurm.add_argument("--cpus", type=int, metavar="N", help="4 if left out")
    slurm.add_argument("--hours", type=float, metavar="H", help="time limit; 4 if left out")
    slurm.add_argument("--memory", type=float, metavar="GB", help="16 if left out")
    args = parser.parse_args(argv)
    given = [name for name in SLURM if getattr(args, name) is not None]
    if given and args.launcher == "local":
        other = ", or give --budget-hours" if given[0] == "hours" else ""
        raise UserError(f"--{given[0]}: is of jobs of --launcher slurm; add that, or leave it out{other}.")
    for name in NOT_NEGATIVE:
        value, least = getattr(args, name), 0 if name in ("gpus", "cost_rounds") else 1e-9
        if value is not None and not value >= least:  # nan is neither
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {'0 or more' if not least else 'above 0'}.")
    for seed in args.seeds:
        if not seed.isdecimal():
            raise UserError(f"--seeds: {seed!r} is not an integer; such as --seeds 0,1.")
    args.seeds = [int(seed) for seed in args.seeds]
    args.output = args.output or Path("runs", "ablations", args.ablation.stem)
    args.argv, args.began, args.remarks = argv, time.monotonic(), []
    return args


def open_ablation(args: argparse.Namespace) -> "tuple[Ablation, Ablation, Path]":
    """Return the ablation of the file, the part of it that is asked for, and the base of its runs."""
    from detection.ablation import load_ablation
    from detection.config.files import find_config

    complete, base = load_ablation(find_config(args.ablation))
    if complete.question is not None:
        if args.match:
            raise UserError(f"--match {args.match}: {args.ablation} has this control, `wider`; leave it out.")
        complete = ask(args, complete, base)
        complete = dataclasses.replace(complete, seeds=tuple(dict.fromkeys([*complete.seeds, *args.seeds])))
    elif args.budget_hours is not None:
        raise UserError(f"--budget-hours: {args.ablation} asks no question; own_data does. Leave it out.")
    if args.cost_rounds is None:
        args.cost_rounds = 10 if complete.question is None else 5
    elif complete.question is not None:
        args.cost_rounds = max(1, args.cost_rounds)
    return complete, complete.only(args.variants, args.data, args.seeds), base


def ask(args: argparse.Namespace, ablation: "Ablation", base: Path) -> "Ablation":
    """Examine the data of an ablation with a question, and return it with the variants that follow from them."""
    from detection.ablation.own_data.question import resolve_question
    from detection.ablation.size_matched import find_controls

    run_type, question = ablation.run_type, ablation.question
    assert question is not None
    config: Any = run_type.override(run_type.load(base), [*next(iter(ablation.data.values())), *args.overrides])
    run_type.prepare(config)
    args.remarks = run_type.data_remarks(config)
    args.data_remarks = tuple(args.remarks)
    pair = ablation.only([question.default])
    args.wider = find_controls(pair, base, args.overrides, "flops", args.output / "wider.json")
    asked, texts = resolve_question(
        ablation, run_type.overlap(config), next(iter(args.wider[0].values()), None), args.variants
    )
    args.remarks += texts
    if not args.measure_costs:
        print(*(short_line(f"data     {remark}") for remark in args.remarks), sep="\n", flush=True)
    return asked


def open_scope(args: argparse.Namespace, plan: "Plan") -> "Scope | None":
    """Return what of an ablation with a question is run: as decided before, or by a measurement of all variants."""
    from detection.ablation.costs import read_costs
    from detection.ablation.launch.lock import locked
    from detection.ablation.own_data.budget import decide
    from detection.ablation.own_data.scope import (
        Decision,
        read_decision,
        runs_digest,
        save_decision,
        scope_digests,
        with_more_seeds,
    )
    from detection.ablation.size_matched import save_controls
    from detection.atomic_write import write_json

    digests, budget, seeds = scope_digests(plan, args.data_remarks), args.budget_hours, plan.ablation.seeds
    only_looks = args.report_only or args.dry_run
    former = runs_digest(plan, args.data_remarks), seeds
    known = read_decision(args.output, digests, budget, any_budget=args.report_only and budget is None, runs=former)
    if only_looks or (known is not None and not known.lacks(seeds)):
        return None if known is None else known.scope
    require_ours(args.output)
    with watch(until_exit=True), locked(args.output) as held:
        launcher = build_launcher(args, len(plan.runs), held)
        save_controls(args.output / "wider.json", *args.wider)
        if not (args.output / "ablation.json").exists():
            write_json(args.output / "ablation.json", plan.record())
        launch_cost_measurement(args, plan, launcher)
        slots = min(launcher.slots, len(plan.runs))
        spent = (time.monotonic() - args.began) / 3600
        costs = read_costs(args.output / "costs.json")
        if known is None:
            decision = Decision(decide(plan, costs, slots, budget, spent), digests, tuple(seeds), budget)
        else:
            decision = with_more_seeds(known, plan, costs, slots, spent)
        save_decision(args.output, decision)
    return decision.scope


def open_plan(
    args: argparse.Namespace, complete: "Ablation", part: "Ablation", base: Path, chosen: "Mapping[str, Chosen]"
) -> "tuple[Plan, dict[str, Control], str]":
    """Return the plan of a part, the size-matched controls, and the digest that these are saved under."""
    from detection.ablation.choosing import with_chosen
    from detection.ablation.evaluations import with_evaluations
    from detection.ablation.plan import make_plan, superseded
    from detection.ablation.primary import registered
    from detection.ablation.size_matched import find_controls

    ablation = with_chosen(part, chosen)
    controls, digest = {}, ""
    if args.match:
        saved = args.output / "controls.json"
        controls, digest = find_controls(ablation, base, args.overrides, MATCHED[args.match], saved)
    named = {variant: (control.name, control.overrides) for variant, control in controls.items()}
    plan = make_plan(args.ablation.stem, ablation, base, args.output, args.overrides, named)
    notes = [text for text in superseded(plan) if text not in args.remarks]
    args.remarks += notes
    if not args.measure_costs:
        print(*(short_line(f"note     {text}") for text in notes), sep="\n", end="\n" if notes else "", flush=True)
    with_evaluations(plan)  # refuses what does not fit
    left_out, primary = tuple(complete.beyond(part)), complete.comparisons
    before = registered(args.output, primary)
    plan = dataclasses.replace(plan, left_out=left_out, primary=primary, registered=before, chosen=chosen)
    return plan, controls, digest


def open_scoped_plan(
    args: argparse.Namespace, complete: "Ablation", part: "Ablation", base: Path, scope: "Scope"
) -> "tuple[Plan, dict[str, Control], str]":
    """Print what was decided of the time, and return the plan of what is left, as `open_plan` does."""
    from detection.ablation.own_data.scope import apply_scope

    print(*(short_line(f"time     {text}") for text in scope.texts), sep="\n", flush=True)
    args.remarks += scope.texts
    part, changes = apply_scope(part, scope, args.variants)
    args.overrides = [*args.overrides, *changes]
    return open_plan(args, complete, part, base, {})


def open_choice(args: argparse.Namespace, part: "Ablation", base: Path) -> "tuple[argparse.Namespace, Plan]":
    """Return the plan of the options that are tried before a part, and the arguments that it is run with."""
    from detection.ablation.choosing import FOLDER, choice_ablation
    from detection.ablation.plan import make_plan

    assert part.choice is not None
    own = argparse.Namespace(**{**vars(args), "output": args.output / FOLDER, "match": None, "cost_rounds": 0})
    plan = make_plan(
        f"{args.ablation.stem}: choice", choice_ablation(part, part.choice), base, own.output, args.overrides
    )
    return own, plan


def read_choice(part: "Ablation", plan: "Plan") -> "dict[str, Chosen]":
    """Choose by the finished runs of a choice; a `UserError` where one is missing."""
    from detection.ablation.choosing import choose
    from detection.ablation.launch.run import inspect_all
    from detection.ablation.summary import summarize

    assert part.choice is not None
    # The means alone are read, which need no samples.
    return choose(part.choice, summarize(plan, inspect_all(plan), resamplings=1))


def require_ours(output: Path) -> None:
    """Refuse a folder that holds something other than an ablation."""
    from detection.ablation.choosing import FOLDER
    from detection.runs.lock import LOCK

    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; choose another --output.")
    files = (output / "ablation.json", output / FOLDER / "ablation.json")
    # A start that was refused leaves its lock.
    folders = [folder for folder in (output, output / FOLDER) if folder.is_dir()]
    held = [path for folder in folders for path in folder.iterdir() if path.name != LOCK and path not in folders]
    if held and not any(file.exists() for file in files):
        raise UserError(f"{output}: holds something other than an ablation; choose another --output.")


def build_launcher(args: argparse.Namespace, runs: int, held: int) -> "Launcher":
    """Build the launcher of a number of runs, which keep the lock's open file; a `UserError` where Slurm is missing."""
    from detection.ablation.launch.launchers import LocalLauncher
    from detection.ablation.launch.slurm import SlurmLauncher, SlurmOptions

    if args.launcher == "slurm":
        given = {name: value for name in SLURM if (value := getattr(args, name)) is not None}
        if "memory" in given:
            given["memory_gb"] = given.pop("memory")
        options = SlurmOptions(**given)
        return SlurmLauncher(options, args.output / "slurm", args.workers)
    import torch

    from detection.cores import usable_cores

    cores, gpus = usable_cores(), torch.cuda.device_count()
    return LocalLauncher(args.workers or min(gpus or cores, runs), cores, gpus, (held,))


def run(args: argparse.Namespace, plan: "Plan", controls: "dict[str, Control]", digest: str) -> None:
    """Run what is missing, then measure costs that are not known yet."""
    from detection.ablation.launch.evaluations import run_evaluations
    from detection.ablation.launch.lock import locked
    from detection.ablation.launch.progress_table import ProgressTable
    from detection.ablation.launch.run import inspect_all, prepare_data, run_plan, unplanned_runs
    from detection.ablation.size_matched import save_controls
    from detection.atomic_write import write_json

    require_ours(args.output)
    # A signal ends the runs, too, which save their state.
    with watch(until_exit=True), locked(args.output) as held:
        launcher = build_launcher(args, len(plan.runs), held)
        write_json(args.output / "ablation.json", plan.record())
        if controls:
            save_controls(args.output / "controls.json", controls, digest)
        prepare_data(plan)
        if others := unplanned_runs(plan):
            shown = ", ".join(map(str, others[:3])) + (", …" if len(others) > 3 else "")
            print(short_line(f"note     {len(others)} other runs are kept and not counted: {shown}"))
        table = ProgressTable(plan, slots=launcher.slots)
        try:
            with table:
                run_plan(plan, inspect_all(plan), launcher, args.resume, table)
        except KeyboardInterrupt:
            left = list(table.progress.values()).count("left")
            print(f"{left} of {len(plan.runs)} runs are left; the same command with --resume goes on", flush=True)
            raise
        run_evaluations(plan, launcher)
        launch_cost_measurement(args, plan, launcher)


def launch_cost_measurement(args: argparse.Namespace, plan: "Plan", launcher: "Launcher") -> None:
    """Measure costs in a process of the launcher, where the runs are, with no other run at the same time."""
    from detection.ablation.costs import all_measured, read_costs
    from detection.ablation.launch.launchers import Callbacks, QueuedCommand, run_all

    if not args.cost_rounds or all_measured(read_costs(args.output / "costs.json"), plan):
        return
    print("measuring costs of all architectures", flush=True)
    measured = ["--measure-costs", f"--cost-rounds={args.cost_rounds}"]
    command = [sys.executable, "-m", "detection.cli.ablate", *args.argv, *measured]
    log = args.output / "costs.log"

    def ended(_: str, code: int) -> None:
        if code:
            print(short_line(f"costs    exit code {code} ({log})"))

    run_all([QueuedCommand("costs", command, log)], launcher, Callbacks(ended=ended))


def measure_costs_here(args: argparse.Namespace, plan: "Plan") -> None:
    """Measure costs in this process and write them."""
    import torch

    from detection.ablation.costs import measure_costs
    from detection.analysis.timing import peak_bytes, settle_on
    from detection.atomic_write import write_json

    device = "cuda" if torch.cuda.is_available() else "cpu"
    costs = measure_costs(plan, args.cost_rounds, settle_on(device), lambda function: peak_bytes(function, device))
    write_json(args.output / "costs.json", dataclasses.asdict(costs))


def report_ablation(args: argparse.Namespace, plan: "Plan", controls: "dict[str, Control]") -> int:
    """Write the report and print its path; returns the number of missing runs."""
    from detection.ablation.costs import read_costs
    from detection.ablation.evaluations import with_evaluations
    from detection.ablation.launch.run import inspect_all
    from detection.ablation.report.csv_export import to_csv
    from detection.ablation.report.report import build_report, headline
    from detection.ablation.summary import summarize
    from detection.reports.files import write_files, write_report
    from detection.runs.logs import progress

    plan = with_evaluations(plan)
    with progress("resampling images", len(plan.runs)) as bar:
        summary = summarize(plan, inspect_all(plan), on_run=lambda run: bar.advance())
    costs = read_costs(args.output / "costs.json")
    command = " ".join([*args.environment, shlex.join(["detection", "ablate", *args.argv])])
    blocks = build_report(summary, costs, controls, MATCHED[args.match], command, args.remarks)
    write_files(args.output, {"report.csv": to_csv(summary).encode()})
    written = write_report(args.output, "report", blocks)
    print(headline(summary), end="")
    for name, reason in summary.missing.items():
        print(short_line(f"missing  {name}: {reason}"))
    print(short_line(f"report   {written[-1]}"))
    return len(summary.missing)


def environment_of(args: argparse.Namespace) -> list[str]:
    """The variables of the environment that the ablation's file names and that are set, as before a command."""
    from detection.config.files import find_config

    text = find_config(args.ablation).read_bytes().decode(errors="replace")
    named = [name for name in VARIABLES if re.search(rf"\b{name}\b", text) and os.environ.get(name)]
    return [f"{name}={shlex.quote(os.environ[name])}" for name in named]


@command_line
def main(argv: list[str] | None = None) -> int:
    """Plan, then run, then report."""
    args = parse(sys.argv[1:] if argv is None else argv)
    complete, part, base = open_ablation(args)
    args.environment = environment_of(args)
    chosen: dict[str, Chosen] = {}
    if part.choice is not None:
        open_plan(args, complete, part, base, {})  # refuses what does not fit before the choice takes hours
        own, tried = open_choice(args, part, base)
        if args.dry_run:
            print_runs(tried)
            print("the runs of the ablation itself follow from what is chosen")
            return 0
        if not (args.report_only or args.measure_costs):
            require_ours(args.output)
            run(own, tried, {}, "")
            if report_ablation(own, tried, {}):
                return 1
        chosen = read_choice(part, tried)
    plan, controls, digest = open_plan(args, complete, part, base, chosen)
    if args.measure_costs:
        measure_costs_here(args, plan)
        return 0
    if part.question is not None and (scope := open_scope(args, plan)) is not None:
        plan, controls, digest = open_scoped_plan(args, complete, part, base, scope)
    elif args.dry_run and args.budget_hours is not None:
        print("note     what --budget-hours leaves out follows from times that are measured first: these are all runs")
    if args.dry_run:
        print_runs(plan)
        return 0
    if args.report_only and not (args.output / "ablation.json").exists():
        raise UserError(f"{args.output}: there is no ablation yet; leave out --report-only to run it.")
    if not args.report_only:
        run(args, plan, controls, digest)
    return 1 if report_ablation(args, plan, controls) else 0


def print_runs(plan: "Plan") -> None:
    """Print the number and the commands of all runs."""
    from detection.ablation.evaluations import with_evaluations

    count, plan = len(plan.runs), with_evaluations(plan)
    print(f"{count} runs" + (f", {len(plan.runs) - count} evaluations" if len(plan.runs) > count else ""))
    print(*map(plan.printed_command, plan.runs), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
