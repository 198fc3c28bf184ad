"""Evaluate a trained run, or any detector's COCO results file.

detection evaluate RUN [--split test | --annotations A.json --images DIR] [--output DIR] [--device D] [key=value ...]
detection evaluate RUN --context-from other|mean|none    what the detector takes from its context
detection evaluate --results R.json --annotations A.json [--output DIR]

Metrics equal pycocotools' to the last digit, but where an annotation has the id 0: a match with that is none for
pycocotools, and one here.

--ignore-classes measures the finding alone: all classes are one, and of detections of an image that overlap with an
IoU over 0.5, whatever their classes, the one with the best score is kept.

Where hotcoco is installed (`pip install 'context-detection[fast-eval]'`), what keeps AP50 from 1 is listed by kind of
error (TIDE), with the calibration of the scores, AP by how many objects an image has, and label_errors.csv, annotations
that may be wrong or missing, the most confident first. --slice-by KEY gives AP by the values of a key of the images in
the annotations, such as weather.

--context-from evaluates twice, as it is and with the context's feature map replaced: by that of another
image (other: the one before it in a random order that is always the same; resized where sizes differ), by its own mean
over the image (mean), or by zeros (none). The drop is what the detector takes from the context. Both have the same
batches; where images have several sizes, their padding is another than in the order of the file (eval_batch_size=1:
none).
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from detection.cli import CHANGES, DEVICE, DEVICES, command_parser
from detection.errors import UserError, command_line
from detection.names import visible

CONTEXT_SOURCES = ("other", "mean", "none")  # of `analysis.context_use`, whose import is slow


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line and refuse what does not go together."""
    parser = command_parser("evaluate", __doc__, trust=True)
    parser.add_argument("run", nargs="?", metavar="RUN", help="folder of a training run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"of the run's config: {CHANGES}")
    parser.add_argument("--results", type=Path, help="COCO results of any detector, instead of a run")
    about = "of a run's own data: its validation set, or the test set that its data.test names (default val)"
    parser.add_argument("--split", choices=("val", "test"), help=about)
    parser.add_argument("--annotations", help="COCO annotations; for a run its validation set if left out")
    parser.add_argument("--images", help="folder of the images, for a run")
    parser.add_argument("--output", type=Path, help="folder for metrics.json, results.json and plots/")
    parser.add_argument("--device", help=f"{', '.join(DEVICES)}, for a run: {DEVICE}")
    about = "of a run; the best if left out"
    parser.add_argument("--checkpoint", choices=("best", "last"), help=about)
    about = "all classes as one, with class-agnostic NMS at an IoU of 0.5: the finding alone"
    parser.add_argument("--ignore-classes", action="store_true", help=about)
    about = "replace a run's context by another image's, by its own mean, or by zeros, and print the drop by class"
    parser.add_argument("--context-from", choices=CONTEXT_SOURCES, help=about)
    about = "AP by the values of this key of the images in the annotations"
    parser.add_argument("--slice-by", metavar="KEY", help=about)
    args = parser.parse_args(argv)
    if args.results is None and args.run is None:
        raise UserError("Name a run folder, or a results file by --results R.json --annotations A.json.")
    if args.results is None:
        return args
    if args.run is not None:
        raise UserError(f"--results takes no run folder or config keys, but '{args.run}' was given; leave one out.")
    of_run = ("split", "images", "device", "checkpoint", "context_from")
    if given := [f"--{name.replace('_', '-')}" for name in of_run if getattr(args, name) is not None]:
        raise UserError(f"{given[0]} is for a run; --results needs only --annotations.")
    if args.annotations is None:
        raise UserError("--results needs the ground truth too: add --annotations A.json.")
    return args


def evaluate_results(
    results_file: Path,
    annotations: str,
    output: Path | None,
    classes_ignored: bool = False,
    slice_by: str | None = None,
) -> dict[str, Any]:
    """Evaluate COCO results by COCO annotations of the same images; without an `output` folder nothing is written."""
    from detection.evaluation import read_ground_truth, read_results, write_evaluation
    from detection.evaluation.class_agnostic import measure
    from detection.evaluation.results import add_attribute
    from detection.runs.output import require_no_run

    if output is not None and output.exists() and not output.is_dir():
        raise UserError(f"{output}: --output must be a folder, and this is a file.")
    if output is not None:
        require_no_run(output)
        _require_kept(output, results_file, Path(annotations))
    ground_truth = read_ground_truth(annotations)
    if slice_by is not None:
        add_attribute(ground_truth, annotations, slice_by)
    results = read_results(results_file, ground_truth)
    ground_truth, results, metrics = measure(ground_truth, results, classes_ignored, slice_by)
    if output is not None:
        write_evaluation(output, ground_truth, results, metrics)
    return metrics


def _require_kept(output: Path, *read: Path) -> None:
    """Refuse a folder in which a file that is read would be replaced."""
    written = {(output / name).resolve() for name in ("metrics.json", "results.json")}
    for path in read:
        if path.resolve() in written:
            raise UserError(f"{output}: {path} is read, and would be replaced; choose another --output.")


@command_line
def main(argv: list[str] | None = None) -> None:
    """Evaluate and print a table, then notes on what is odd."""
    args = parse(argv)
    if args.results is not None:
        metrics = evaluate_results(args.results, args.annotations, args.output, args.ignore_classes, args.slice_by)
    else:
        from detection.training.evaluate import evaluate_run

        args.split = args.split or "val"
        keys = (
            "split",
            "annotations",
            "images",
            "output",
            "device",
            "checkpoint",
            "overrides",
            "context_from",
            "slice_by",
        )
        options = {k: getattr(args, k) for k in keys} | {"classes_ignored": args.ignore_classes}
        metrics = evaluate_run(args.run, **options, on_written=lambda folder: setattr(args, "output", folder))
        if metrics is None:  # of several processes only the first has the metrics
            return
    from detection.evaluation import metrics_table

    if args.context_from is not None:
        from detection.analysis.context_use import context_use_table

        print(
            context_use_table(metrics["context_use"], args.context_from), "\nThe metrics with it replaced:\n", sep="\n"
        )
    print(metrics_table(metrics))
    for note in metrics["notes"]:
        print(f"\nnote: {visible(note)}")
    if args.output is not None:
        print(f"\nwritten to {visible(str(args.output))}")


if __name__ == "__main__":
    sys.exit(main())
