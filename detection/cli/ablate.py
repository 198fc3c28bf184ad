"""Run an ablation: every variant on every data set with every seed, and a report of what the differences are worth.

detection ablate ABLATION [--output DIR] [--workers N] [--match params|flops] [key=value ...]
detection ablate ABLATION --launcher slurm [--partition P] [--gpus N] [--hours H] [--memory GB] [...]
detection ablate ABLATION --variants A,B --data D --seeds 0,1      a part of it; the report says what is left out
detection ablate ABLATION --dry-run       the runs and their commands, and nothing else
detection ablate ABLATION --report-only   the report of what is there now, also while others run

Each run is a process with a folder of its own, DIR/runs/DATA/VARIANT/seed-N. What is finished and unchanged is skipped;
what is damaged, stopped or of other settings is told, put aside and run again. DIR/report.html is the report.
key=value changes the base of all runs. The exit code is 1 if a run is missing in the end.
"""

import argparse
import dataclasses
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from detection.cli import command_parser
from detection.errors import UserError, command_line

if TYPE_CHECKING:
    from detection.ablation.costs import Costs
    from detection.ablation.launch.launchers import Launcher
    from detection.ablation.plan import Plan
    from detection.ablation.size_matched import Control, What

NEGATIVE_IS_WRONG = ("workers", "gpus", "cpus", "hours", "memory", "cost_rounds")


def words(text: str) -> list[str]:
    """Names with commas between them."""
    return [word.strip() for word in text.split(",") if word.strip()]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line and refuse what cannot be meant."""
    parser = command_parser("ablate", __doc__)
    parser.add_argument("ablation", type=Path, metavar="ABLATION", help="a file that ends in ablation = Ablation(...)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the base, for all runs")
    parser.add_argument("--output", type=Path, metavar="DIR", help="runs/ablations/NAME if left out")
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local")
    parser.add_argument("--workers", type=int, metavar="N", help="runs at a time; local: one for each GPU, or core")
    parser.add_argument("--match", choices=("params", "flops"), help="add the reference as large as each variant")
    for key in ("variants", "data", "seeds"):
        of_it = f"only these {key} of the file, with commas between them; the reference is always run"
        parser.add_argument(f"--{key}", type=words, default=(), metavar="A,B", help=of_it)
    parser.add_argument("--resume", action="store_true", help="go on with stopped runs from their last checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="print runs and commands, change nothing")
    parser.add_argument("--report-only", action="store_true", help="run nothing, write the report")
    parser.add_argument("--cost-rounds", type=int, default=10, metavar="N", help="turns of each cost; 0: none measured")
    parser.add_argument("--measure-costs", action="store_true", help="measure costs here and now, and nothing else")
    slurm = parser.add_argument_group("with --launcher slurm, of each run")
    slurm.add_argument("--partition", default="", metavar="P", help="the cluster's own if left out")
    slurm.add_argument("--account", default="", metavar="A", help="the user's own if left out")
    slurm.add_argument("--gpus", type=int, default=1, metavar="N")
    slurm.add_argument("--cpus", type=int, default=4, metavar="N")
    slurm.add_argument("--hours", type=float, default=4.0, metavar="H", help="longest time")
    slurm.add_argument("--memory", type=float, default=16.0, metavar="GB")
    args = parser.parse_intermixed_args(argv)
    for name in NEGATIVE_IS_WRONG:
        value, least = getattr(args, name), 0 if name in ("gpus", "cost_rounds") else 1e-9
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be {'0 or more' if not least else 'above 0'}.")
    for seed in args.seeds:
        if not seed.isdecimal():
            raise UserError(f"--seeds: {seed!r} is not a whole number; such as --seeds 0,1.")
    args.seeds = [int(seed) for seed in args.seeds]
    args.output = args.output or Path("runs", "ablations", args.ablation.stem)
    return args


def open_plan(args: argparse.Namespace) -> "tuple[Plan, dict[str, Control], str]":
    """The plan, the controls of equal size, and the question that these are the answer to."""
    from detection.ablation import load_ablation
    from detection.ablation.plan import make_plan
    from detection.ablation.size_matched import find_controls

    whole, base = load_ablation(args.ablation)
    ablation = whole.only(args.variants, args.data, args.seeds)
    controls, question = {}, ""
    if args.match:
        what = equal_in(args.match)
        remembered = args.output / "controls.json"
        controls, question = find_controls(ablation, base, args.overrides, what, remembered)
    named = {variant: (control.name, control.overrides) for variant, control in controls.items()}
    plan = make_plan(args.ablation.stem, ablation, base, args.output, args.overrides, named)
    return dataclasses.replace(plan, left_out=tuple(whole.beyond(ablation))), controls, question


def equal_in(match: str | None) -> "What":
    """What controls are equal in."""
    return "flops" if match == "flops" else "parameters"


def require_ours(output: Path) -> None:
    """Refuse a folder that holds something else than an ablation."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; choose another --output.")
    if output.is_dir() and any(output.iterdir()) and not (output / "ablation.json").exists():
        raise UserError(f"{output}: holds something else than an ablation; choose another --output.")


def build_launcher(args: argparse.Namespace, cells: int, held: int) -> "Launcher":
    """What starts runs; a `UserError` where it cannot."""
    from detection.ablation.launch.launchers import LocalLauncher
    from detection.ablation.launch.slurm import SlurmLauncher, SlurmOptions

    if args.launcher == "slurm":
        options = SlurmOptions(args.partition, args.gpus, args.cpus, args.hours, args.memory, args.account)
        return SlurmLauncher(options, args.output / "slurm", args.workers)
    import torch

    cores, gpus = len(os.sched_getaffinity(0)), torch.cuda.device_count()
    return LocalLauncher(args.workers or min(gpus or cores, cells), cores, gpus, (held,))


def run(args: argparse.Namespace, plan: "Plan", controls: "dict[str, Control]", question: str) -> None:
    """Run what is missing, then measure costs where they are not known yet."""
    from detection.ablation.launch.lock import locked
    from detection.ablation.launch.progress_table import ProgressTable
    from detection.ablation.launch.run import carry_out, inspect_all, prepare_data, unplanned_runs
    from detection.ablation.plan import describe
    from detection.ablation.size_matched import remember
    from detection.atomic_write import write_json

    require_ours(args.output)
    with locked(args.output) as held:
        launcher = build_launcher(args, len(plan.cells), held)
        write_json(args.output / "ablation.json", describe(plan))
        if controls:
            remember(args.output / "controls.json", controls, question)
        prepare_data(plan)
        if others := unplanned_runs(plan):
            what = f"{len(others)} other runs lie here" if len(others) > 1 else "another run lies here"
            shown = ", ".join(map(str, others[:3])) + (", …" if len(others) > 3 else "")
            print(f"note     {what}, left as they are and not counted: {shown}")
        board = ProgressTable(plan)
        try:
            with board:
                carry_out(plan, inspect_all(plan), launcher, args.resume, board)
        except KeyboardInterrupt:
            left = list(board.status.values()).count("left")
            print(f"{left} of {len(plan.cells)} runs are left; the same command goes on with them", flush=True)
            raise
        measure_costs(args, plan, launcher)


def measure_costs(args: argparse.Namespace, plan: "Plan", launcher: "Launcher") -> None:
    """Have costs measured by the launcher, where the runs are, with nothing beside it; unless they are known."""
    from detection.ablation.costs import is_complete, read_costs
    from detection.ablation.launch.launchers import Callbacks, Task, run_all

    path = args.output / "costs.json"
    if not args.cost_rounds or is_complete(read_costs(path), plan):
        return
    print("measuring costs of all architectures side by side", flush=True)
    more = [f"--match={args.match}"] if args.match else []
    for key in ("variants", "data", "seeds"):
        more += [f"--{key}={','.join(map(str, getattr(args, key)))}"] if getattr(args, key) else []
    own = [str(args.ablation), "--output", str(args.output), "--measure-costs", f"--cost-rounds={args.cost_rounds}"]
    task = Task(
        "costs", [sys.executable, "-m", "detection.cli.ablate", *own, *more, *args.overrides], args.output / "costs.log"
    )
    nothing = Callbacks(
        lambda name: None, lambda name, code: print(f"costs    exit code {code}") if code else None, print_no
    )
    run_all([task], launcher, nothing)


def print_no(names) -> None:
    """Say nothing while costs are measured."""


def measure_here(args: argparse.Namespace, plan: "Plan") -> None:
    """Measure costs in this process and write them."""
    import torch

    from detection.ablation.costs import measure, write_costs
    from detection.analysis.timing import peak_bytes, settle_on

    device = "cuda" if torch.cuda.is_available() else "cpu"
    costs = measure(plan, args.cost_rounds, settle_on(device), lambda function: peak_bytes(function, device))
    write_costs(args.output / "costs.json", costs)


def report(args: argparse.Namespace, plan: "Plan", controls: "dict[str, Control]", argv: list[str]) -> int:
    """Write the report and say where it is; the number of missing runs."""
    from detection.ablation.costs import read_costs
    from detection.ablation.launch.run import inspect_all
    from detection.ablation.report.csv_export import to_csv
    from detection.ablation.report.report import build_report, headline
    from detection.ablation.summary import summarize
    from detection.reports.files import write_files, write_report
    from detection.runs.logs import progress

    with progress("resampling images", len(plan.cells)) as bar:
        summary = summarize(plan, inspect_all(plan), told=lambda cell: bar.advance())
    costs: Costs | None = read_costs(args.output / "costs.json")
    what = equal_in(args.match)
    blocks = build_report(summary, costs, controls, what, ["detection", "ablate", *argv])
    write_files(args.output, {"report.csv": to_csv(summary).encode()})
    written = write_report(args.output, "report", blocks)
    print(headline(summary), end="")
    for name, reason in summary.missing.items():
        print(f"missing  {name}: {reason}")
    print(f"report   {written[-1]}")
    return len(summary.missing)


@command_line
def main(argv: list[str] | None = None) -> int:
    """Plan, then run, then report."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    plan, controls, question = open_plan(args)
    if args.dry_run:
        print(f"{len(plan.cells)} runs")
        print(*(plan.text(cell) for cell in plan.cells), sep="\n")
        return 0
    if args.measure_costs:
        measure_here(args, plan)
        return 0
    if args.report_only and not (args.output / "ablation.json").exists():
        raise UserError(f"{args.output}: there is no ablation yet; leave out --report-only to run it.")
    if not args.report_only:
        run(args, plan, controls, question)
    return 1 if report(args, plan, controls, argv) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that runs are ended with us
    sys.exit(main())
