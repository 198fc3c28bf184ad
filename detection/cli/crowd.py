"""Compare detectors on crowds: AP50, EER, COUNT, log-average miss rate, Jaccard index, recall of overlapping
ground-truth boxes.

detection crowd RUN [RUN ...] [--annotations A.json] [--count-threshold X] [--output DIR]
detection crowd [RUN ...] --results R.json [R.json ...] --annotations A.json [...]

A run is measured by the results.json in its folder, on its own validation data unless --annotations names another
ground truth. Numbers are means over the classes that have a ground truth. With --output, crowd.json holds them and
more, also by class; precision_recall.png and miss_rate.png draw all detectors in one figure, all classes under one
score.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from detection.cli import command_parser
from detection.errors import UserError, command_line

COLUMNS = {
    "AP50": "AP50",
    "EER": "EER",
    "COUNT": "COUNT",
    "MR": "MR⁻²",
    "JI": "JI",
    "overlapping_recall": "overlapping",
    "overlapping_recall_at_EER": "at EER",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line and refuse what does not go together."""
    parser = command_parser("crowd", __doc__)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder of a training run")
    parser.add_argument("--results", nargs="+", type=Path, default=[], metavar="R.json", help="COCO results")
    parser.add_argument("--annotations", metavar="A.json", help="COCO annotations; needed for --results")
    parser.add_argument(
        "--count-threshold",
        type=float,
        metavar="X",
        help="smallest score that COUNT counts, chosen on other data; if left out, on half of the images for the rest",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for crowd.json and two figures")
    args = parser.parse_args(argv)
    if not args.runs and not args.results:
        raise UserError("Name a run folder, or a results file by --results R.json --annotations A.json.")
    if args.results and args.annotations is None:
        raise UserError("--results needs the ground truth too: add --annotations A.json.")
    if args.output is not None and args.output.exists() and not args.output.is_dir():
        raise UserError(f"{args.output}: --output must be a folder, and this is a file.")
    return args


def find_sources(args: argparse.Namespace) -> dict[str, tuple[Path, str]]:
    """Results file and annotations file of every detector by its name, which is as short as tells them apart."""
    sources = [(run, run / "results.json", args.annotations or run_annotations(run)) for run in args.runs]
    sources += [(path.with_suffix(""), path, args.annotations) for path in args.results]
    short = [path.resolve().name for path, _, _ in sources]
    names = [name if short.count(name) == 1 else str(path) for name, (path, _, _) in zip(short, sources, strict=True)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name}: named twice; name every detector once.")
    return {name: (results, ground_truth) for name, (_, results, ground_truth) in zip(names, sources, strict=True)}


def run_annotations(run: Path) -> str:
    """The validation annotations that a run's config.json names; read without the package's config, so fast."""
    path = run / "config.json"
    try:
        annotations = str(json.loads(path.read_text())["data"]["val"]["annotations"])
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{run}: not a run folder, there is no config.json in it; give a run's folder, or --results R.json."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no readable config of a run ({error!r}); give --annotations A.json.") from None
    require_unchanged(run, annotations)
    return annotations


def require_unchanged(run: Path, annotations: str) -> None:
    """Refuse a run whose annotations have other bytes than when it wrote its results: they are not about this ground truth."""
    from detection.data.checks import file_digest

    try:
        then = json.loads((run / "environment.json").read_text())["data"]["val"]["sha256"]
        now = file_digest(Path(annotations))
    except (OSError, ValueError, KeyError, TypeError):
        return
    if now != then:
        raise UserError(
            f"{run}: {annotations} has changed since this run; measure the run again by detection evaluate and give "
            f"its results by --results, or say --annotations {annotations} if the change does no harm."
        )


def crowd_table(metrics: dict[str, dict[str, Any]]) -> str:
    """A markdown table, a line a detector."""
    head = ["detector", *COLUMNS.values()]
    rows = [
        [name.replace("|", "\\|"), *("n/a" if run[key] == -1 else f"{run[key]:.3f}" for key in COLUMNS)]
        for name, run in metrics.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def notes(metrics: dict[str, dict[str, Any]], threshold: float | None) -> list[str]:
    """What the table's columns mean where a name does not tell it."""
    count = (
        "each half of the images (every second by id) at the score that is best on the other half"
        if threshold is None
        else f"at score {threshold:g}"
    )
    sizes = {(run["images"], run["ground_truth"], run["overlapping_ground_truth"]) for run in metrics.values()}
    lines = [
        f"COUNT   mean absolute error of the number of objects an image, {count}",
        "MR⁻²    log-average miss rate at 0.01 to 1 false positives an image, lower is better",
        "overlapping   recall of ground-truth boxes at IoU 0.3 or more with another; at EER: down to the score of the EER",
    ]
    lines += [f"{i} images, {t} ground-truth boxes, {o} of them overlapping" for i, t, o in sorted(sizes)]
    return lines if len(sizes) == 1 else [*lines, "The detectors were measured on different data: do not compare them."]


def write(output: Path, metrics: dict[str, Any], figures: dict[str, Any]) -> None:
    """Write the numbers and figures, each file whole or not at all."""
    from detection.atomic_write import atomic_write

    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            atomic_write(output / name, lambda path, figure=figure: figure.savefig(path, format="png"))
        text = json.dumps(metrics, indent=2, allow_nan=False) + "\n"
        atomic_write(output / "crowd.json", lambda path: path.write_text(text))
    except OSError as error:
        raise UserError(f"{output}: the comparison cannot be written there ({error.strerror}).") from None


@command_line
def main(argv: list[str] | None = None) -> None:
    """Measure every detector, print a table and draw."""
    args = parse(argv)
    sources = find_sources(args)
    from detection.evaluation import read_ground_truth, read_results
    from detection.evaluation.crowd import crowd_metrics
    from detection.evaluation.operating_points import match_all, operating_points

    metrics, points = {}, {}
    for name, (results_file, annotations) in sources.items():
        ground_truth = read_ground_truth(annotations)
        results = read_results(results_file, ground_truth)
        metrics[name] = crowd_metrics(ground_truth, results, args.count_threshold)
        if args.output is not None:
            points[name] = operating_points(match_all(ground_truth, results), len(ground_truth["images"]))
    print(crowd_table(metrics), *notes(metrics, args.count_threshold), sep="\n")
    if args.output is not None:
        from detection.evaluation.crowd_plots import plot_runs_miss_rate, plot_runs_precision_recall

        figures = {"precision_recall.png": plot_runs_precision_recall(points)}
        figures["miss_rate.png"] = plot_runs_miss_rate(points)
        write(args.output, metrics, figures)
        print(f"written to {args.output}")


if __name__ == "__main__":
    sys.exit(main())
