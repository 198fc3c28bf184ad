"""Compare detectors on crowds: AP50, EER, COUNT, log-average miss rate, Jaccard index, recall of overlapping boxes.

detection crowd RUN [RUN ...] [--annotations A.json] [--count-threshold X] [--output DIR]
detection crowd [RUN ...] --results R.json [R.json ...] --annotations A.json [...]

A run is evaluated by the results.json in its folder, on its validation data unless --annotations names another ground
truth. Metrics are means over the classes that have ground truth. With --output, crowd.json holds them and more, also by
class; precision_recall.png and miss_rate.png draw all detectors in one figure, all classes under one score.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from detection.cli import command_parser
from detection.errors import UserError, command_line
from detection.names import visible

_COLUMNS = {
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
    parser = command_parser("crowd", __doc__, trust=True)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder of a training run")
    parser.add_argument("--results", nargs="+", type=Path, default=[], metavar="R.json", help="COCO results")
    parser.add_argument("--annotations", metavar="A.json", help="COCO annotations; needed for --results")
    about = "smallest score that COUNT counts, chosen on other data; if left out, on half of the images for the rest"
    parser.add_argument("--count-threshold", type=float, metavar="X", help=about)
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for crowd.json and two figures")
    args = parser.parse_args(argv)
    if not args.runs and not args.results:
        raise UserError("Name a run folder, or a results file by --results R.json --annotations A.json.")
    if args.results and args.annotations is None:
        raise UserError("--results needs the ground truth too: add --annotations A.json.")
    if args.count_threshold is not None and not math.isfinite(args.count_threshold):
        raise UserError(f"--count-threshold {args.count_threshold}: must be a finite number, a score.")
    if args.output is not None and args.output.exists() and not args.output.is_dir():
        raise UserError(f"{args.output}: --output must be a folder, and this is a file.")
    return args


def find_sources(args: argparse.Namespace) -> dict[str, tuple[Path, str]]:
    """Find results file and annotations file of every detector, by the shortest name that is unique."""
    named = [*args.runs, *args.results]
    places = [path.resolve() for path in named]
    for position, path in enumerate(named):
        if places[position] in places[:position]:
            raise UserError(f"{path}: named twice; name every detector once.")
    sources = [(run / "results.json", args.annotations or run_annotations(run)) for run in args.runs]
    sources += [(path, args.annotations) for path in args.results]
    return dict(zip(_unique_names(args.runs, args.results), sources, strict=True))


def _unique_names(runs: list[Path], files: list[Path]) -> list[str]:
    """Names of runs and results files, of which no two are the same path: with folders or suffix where names clash."""
    paths = [*runs, *(path.with_suffix("") for path in files)]
    names = [path.resolve().name for path in paths]
    for longer in (paths, [*runs, *files]):
        names = [name if names.count(name) == 1 else str(path) for name, path in zip(names, longer, strict=True)]
    return names if len(set(names)) == len(names) else [str(path) for path in (*runs, *files)]


def run_annotations(run: Path) -> str:
    """Read the validation annotations that a run's config.json names, without a slow import of the config."""
    path = run / "config.json"
    try:
        annotations = str(json.loads(path.read_text(encoding="utf-8"))["data"]["val"]["annotations"])
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{run}: not a run folder, there is no config.json in it; give a run's folder, or --results R.json."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no readable config of a run ({error!r}); give --annotations A.json.") from None
    require_unchanged(run, annotations)
    return annotations


def require_unchanged(run: Path, annotations: str) -> None:
    """Refuse a run whose annotations or images have changed since it wrote its results."""
    from detection.data.checks import file_digest
    from detection.data.image_identity import images_changed
    from detection.runs.records import read_record

    try:
        record = read_record(run)["data"]["val"]
        changed = "" if file_digest(Path(annotations)) == record["sha256"] else annotations
        if not changed and images_changed(record):
            changed = f"an image in {record['image_folder']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if changed:
        raise UserError(
            f"{run}: {changed} has changed since this run; evaluate the run again by detection evaluate and "
            f"give its results by --results, or give --annotations {annotations} if the change does not matter."
        )


def crowd_table(metrics: dict[str, dict[str, Any]]) -> str:
    """Format a Markdown table, a line per detector."""
    from detection.reports.document import markdown_table

    texts = {n: ["n/a" if run[key] == -1 else f"{run[key]:.3f}" for key in _COLUMNS] for n, run in metrics.items()}
    return markdown_table(["detector", *_COLUMNS.values()], [[name, *row] for name, row in texts.items()])


def notes(metrics: dict[str, dict[str, Any]], threshold: float | None) -> list[str]:
    """Explain the table's columns."""
    count = (
        "each half of the images (every second by id) at the score that is best on the other half"
        if threshold is None
        else f"at score {threshold:g}"
    )
    sizes = {(run["images"], run["ground_truth"], run["overlapping_ground_truth"]) for run in metrics.values()}
    lines = [
        f"COUNT   mean absolute error of the number of objects per image, {count}",
        "MR⁻²    log-average miss rate at 0.01 to 1 false positives per image, lower is better",
        "overlapping   recall of boxes at IoU 0.3 or more with another; at EER: down to the score of the EER",
    ]
    lines += [f"{i} images, {n} ground-truth boxes, {o} of them overlapping" for i, n, o in sorted(sizes)]
    return lines if len(sizes) == 1 else [*lines, "The detectors were evaluated on different data: do not compare."]


@command_line
def main(argv: list[str] | None = None) -> None:
    """Evaluate every detector, print a table and draw."""
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
        from detection.reports.files import to_png, write_files

        files = {"precision_recall.png": to_png(plot_runs_precision_recall(points))}
        files["miss_rate.png"] = to_png(plot_runs_miss_rate(points))
        files["crowd.json"] = f"{json.dumps(metrics, indent=2, allow_nan=False)}\n".encode()
        write_files(args.output, files)
        print(f"written to {visible(str(args.output))}")


if __name__ == "__main__":
    sys.exit(main())
