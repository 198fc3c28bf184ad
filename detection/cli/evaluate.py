"""Evaluate a trained run, or any detector's COCO results file.

detection evaluate RUN [--split test | --annotations A.json --images DIR] [--output DIR] [--device D] [key=value ...]
detection evaluate --results R.json --annotations A.json [--output DIR]
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from detection.cli import command_parser
from detection.errors import UserError, command_line
from detection.names import visible


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line and refuse what does not go together."""
    parser = command_parser("evaluate", __doc__, trust=True)
    parser.add_argument("run", nargs="?", metavar="RUN", help="folder of a training run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the run's config")
    parser.add_argument("--results", type=Path, help="COCO results of any detector, instead of a run")
    about = "of a run's own data: its validation set, or the test set that its data.test names (default val)"
    parser.add_argument("--split", choices=("val", "test"), help=about)
    parser.add_argument("--annotations", help="COCO annotations; for a run its validation set if left out")
    parser.add_argument("--images", help="folder of the images, for a run")
    parser.add_argument("--output", type=Path, help="folder for metrics.json, results.json and plots/")
    parser.add_argument("--device", help="cpu or cuda for a run; the best available if left out")
    args = parser.parse_intermixed_args(argv)
    if args.results is None and args.run is None:
        raise UserError("Name a run folder, or a results file by --results R.json --annotations A.json.")
    if args.results is None:
        return args
    if args.run is not None:
        raise UserError(f"--results takes no run folder or config keys, but '{args.run}' was given; leave one out.")
    if args.images is not None or args.device is not None or args.split is not None:
        raise UserError("--split, --images and --device are for a run; --results needs only --annotations.")
    if args.annotations is None:
        raise UserError("--results needs the ground truth too: add --annotations A.json.")
    return args


def evaluate_results(results_file: Path, annotations: str, output: Path | None) -> dict[str, Any]:
    """Evaluate COCO results by COCO annotations of the same images; without an `output` folder nothing is written."""
    from detection.evaluation import evaluate_detections, read_ground_truth, read_results, write_evaluation

    if output is not None and output.exists() and not output.is_dir():
        raise UserError(f"{output}: --output must be a folder, and this is a file.")
    ground_truth = read_ground_truth(annotations)
    results = read_results(results_file, ground_truth)
    metrics = evaluate_detections(ground_truth, results)
    if output is not None:
        write_evaluation(output, ground_truth, results, metrics)
    return metrics


@command_line
def main(argv: list[str] | None = None) -> None:
    """Evaluate and print a table, then notes on what is odd."""
    args = parse(argv)
    if args.results is not None:
        metrics = evaluate_results(args.results, args.annotations, args.output)
    else:
        from detection.training.evaluate import evaluate_run, evaluation_folder

        args.split = args.split or "val"
        args.output = args.output or evaluation_folder(Path(args.run), args.annotations, args.split)
        named = {key: getattr(args, key) for key in ("split", "annotations", "images", "output", "device", "overrides")}
        metrics = evaluate_run(args.run, **named)
        if metrics is None:  # of several processes only the first has the metrics
            return
    from detection.evaluation import metrics_table

    print(metrics_table(metrics))
    for note in metrics["notes"]:
        print(f"\nnote: {visible(note)}")
    if args.output is not None:
        print(f"\nwritten to {visible(str(args.output))}")


if __name__ == "__main__":
    sys.exit(main())
