"""Compare finished runs: differences with intervals, by class and size, and the images on which they differ most.

detection compare RUN RUN [RUN ...] [--split test] [--output DIR] [--images N]

Every run is compared with the first; all must have been evaluated on the same data: the validation split by the
checkpoint that was the best on it or, with --split test, the test split, which chose nothing. Needs results.json (or
test/results.json) and config.json of each run, and the annotations and images that it names. With --output,
DIR/comparison.html is the report.
"""

import argparse
import sys
from pathlib import Path

from detection.cli import command_parser
from detection.errors import UserError, command_line
from detection.names import visible


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line and refuse values out of range."""
    parser = command_parser("compare", __doc__, trust=True)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="of the runs' data (default val)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the report and its images")
    about = "most to draw where a run is better, and worse (default 4)"
    parser.add_argument("--images", type=int, default=4, metavar="N", help=about)
    args = parser.parse_args(argv)
    if len(args.runs) < 2:
        raise UserError("Name two runs or more.")
    if args.images < 0:
        raise UserError(f"--images {args.images}: must be 0 or more.")
    if args.output is not None and args.output.exists() and not args.output.is_dir():
        raise UserError(f"{args.output}: --output must be a folder, and this is a file.")
    return args


def run_names(runs: list[Path]) -> list[str]:
    """Name each run by the last parts of its path, as many as make the names unique."""
    parts = [run.resolve().parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    twice = next(str(run) for run in runs if parts.count(run.resolve().parts) > 1)
    raise UserError(f"{twice}: named twice; name every run once.")


@command_line
def main(argv: list[str] | None = None) -> None:
    """Read all runs, print tables and draw."""
    args = parse(argv)
    names = run_names(args.runs)
    from detection.comparison.comparison import open_finished, require_same_images
    from detection.comparison.report import build_comparison, summary_blocks
    from detection.reports.document import to_markdown
    from detection.reports.files import write_report

    runs = [open_finished(folder, name, args.split) for folder, name in zip(args.runs, names, strict=True)]
    require_same_images(runs)
    print(to_markdown(summary_blocks(runs)), end="")
    if args.output is not None:
        written = write_report(args.output, "comparison", build_comparison(runs, args.images))
        print(f"written to {visible(str(written[-1]))}")


if __name__ == "__main__":
    sys.exit(main())
