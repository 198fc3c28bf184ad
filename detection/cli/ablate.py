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
import math
import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from detection.cli import CHANGES, command_parser
from detection.errors import UserError, command_line

if TYPE_CHECKING:
    from detection.ablation.launch.slurm import SlurmOptions
    from detection.ablation.plan import Plan
    from detection.ablation.request import Request
    from detection.ablation.size_matched import Size

MATCHED: "dict[str | None, Size | None]" = {None: None, "params": "parameters", "flops": "flops"}
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
    launcher = "on this machine (default), or as jobs of a Slurm cluster"
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local", help=launcher)
    parser.add_argument("--workers", type=int, metavar="N", help="runs at a time; local: one for each GPU, or core")
    parser.add_argument("--match", choices=("params", "flops"), help="add the reference as large as each variant")
    for key in ("variants", "data", "seeds"):
        only = f"only these {key} of the file, with commas between them"
        only += "; the reference is always run" if key == "variants" else ""
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
    for name in ("hours", "memory"):
        if getattr(args, name) == math.inf:
            raise UserError(f"--{name} inf: must be a finite number above 0.")
    for seed in args.seeds:
        if not seed.isdecimal():
            raise UserError(f"--seeds: {seed!r} is not an integer; such as --seeds 0,1.")
    return args


def read_request(argv: list[str]) -> "Request":
    """Read what is asked for from the command line."""
    began, args = time.monotonic(), parse(argv)
    from detection.ablation.request import Request

    return Request(
        file=args.ablation,
        output=args.output or Path("runs", "ablations", args.ablation.stem),
        overrides=args.overrides,
        variants=args.variants,
        data=args.data,
        seeds=[int(seed) for seed in args.seeds],
        match=MATCHED[args.match],
        slurm=slurm_options(args) if args.launcher == "slurm" else None,
        workers=args.workers,
        resume=args.resume,
        dry_run=args.dry_run,
        report_only=args.report_only,
        budget_hours=args.budget_hours,
        cost_rounds=args.cost_rounds,
        measure_costs=args.measure_costs,
        argv=argv,
        began=began,
    )


def slurm_options(args: argparse.Namespace) -> "SlurmOptions":
    """Resources of each job, as far as they were given."""
    from detection.ablation.launch.slurm import SlurmOptions

    given = {name: value for name in SLURM if (value := getattr(args, name)) is not None}
    if "memory" in given:
        given["memory_gb"] = given.pop("memory")
    return SlurmOptions(**given)


def environment_of(file: Path) -> list[str]:
    """The variables of the environment that the ablation's file names and that are set, as before a command."""
    text = file.read_bytes().decode(errors="replace")
    named = [name for name in VARIABLES if re.search(rf"\b{name}\b", text) and os.environ.get(name)]
    return [f"{name}={shlex.quote(os.environ[name])}" for name in named]


@command_line
def main(argv: list[str] | None = None) -> int:
    """Plan, then run, then report."""
    request = read_request(sys.argv[1:] if argv is None else argv)
    from detection.ablation.launch import session
    from detection.ablation.planning import open_ablation, open_choice, open_plan, open_scoped_plan, read_choice
    from detection.config.files import find_config

    opened = open_ablation(request)
    request.environment = environment_of(find_config(request.file))
    chosen = {}
    if opened.part.choice is not None:
        open_plan(request, opened, {})  # refuses what does not fit before the choice takes hours
        own, tried = open_choice(request, opened)
        if request.dry_run:
            print_runs(tried.plan)
            print("the runs of the ablation itself follow from what is chosen")
            return 0
        if not (request.report_only or request.measure_costs):
            session.require_ours(request.output)
            session.run_planned(own, tried)
            if session.report_planned(own, tried):
                return 1
        chosen = read_choice(opened.part, tried.plan)
    planned = open_plan(request, opened, chosen)
    if request.measure_costs:
        session.measure_costs_here(request, planned.plan)
        return 0
    if opened.part.question is not None and (scope := session.open_scope(request, opened, planned.plan)) is not None:
        planned = open_scoped_plan(request, opened, scope)
    elif request.dry_run and request.budget_hours is not None:
        print("note     what --budget-hours leaves out follows from times that are measured first: these are all runs")
    if request.dry_run:
        print_runs(planned.plan)
        return 0
    if request.report_only and not (request.output / session.RECORD).exists():
        raise UserError(f"{request.output}: there is no ablation yet; leave out --report-only to run it.")
    if not request.report_only:
        session.run_planned(request, planned)
    return 1 if session.report_planned(request, planned) else 0


def print_runs(plan: "Plan") -> None:
    """Print the number and the commands of all runs."""
    from detection.ablation.evaluations import with_evaluations

    count, plan = len(plan.runs), with_evaluations(plan)
    print(f"{count} runs" + (f", {len(plan.runs) - count} evaluations" if len(plan.runs) > count else ""))
    print(*map(plan.printed_command, plan.runs), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
