"""Detect on images with a trained run.

detection predict RUN IMAGE|FOLDER|GLOB ... [--output DIR] [--score S] [--attention] [--device D] [--batch-size N]

IMAGE is a file, a folder (the images directly in it), or a quoted pattern such as 'a/**'.

Writes into DIR, all of it for detections with a score of at least S:
  images/NAME.png   each image with its detections drawn
  detections.csv    file, label, score, and the box x1, y1, x2, y2 in pixels of the image
  results.json      COCO results; image_id numbers the images from 1
  images.json       what those ids stand for: a COCO list of images (with `drawn`, the name above) and categories
  attention/NAME.png with --attention, each image and, next to it, where each attention step of the context is

An image that cannot be read is named at the end and the others are done all the same; the exit code is then 1.
Exit code 2: a mistake in the command, or not one image could be read; nothing is written.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detection.atomic_write import atomic_folder
from detection.cli import command_parser
from detection.errors import UserError, command_line

if TYPE_CHECKING:
    from detection.data.coco_index import Category
    from detection.runs.prediction import PredictionSummary


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser("predict", __doc__, trust=True)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a training run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image file, folder, or quoted pattern")
    output = Path("predictions")
    parser.add_argument("--output", type=Path, default=output, help="a new folder; predictions if left out")
    parser.add_argument(
        "--score",
        type=float,
        help="least score; if left out, that of the run's best F1 (in its metrics.json), else 0.5. The run's "
        "detector.head.score_threshold (0.05 unless set) is a lower limit",
    )
    parser.add_argument("--attention", action="store_true", help="draw the attention of the context, too")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="the best there is if left out")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at once; the run's eval_batch_size")
    args = parser.parse_args(argv)
    if args.score is not None and not 0 <= args.score <= 1:
        raise UserError(f"--score {args.score}: must be between 0 and 1.")
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: must be 1 or more.")
    if os.path.lexists(args.output) and (not args.output.is_dir() or any(args.output.iterdir())):
        raise UserError(f"{args.output}: exists already and is not an empty folder; choose another --output.")
    return args


def print_summary(summary: "PredictionSummary", categories: "Sequence[Category]", output: Path) -> None:
    """Print what was detected, and which images could not be read."""
    for problem in summary.problems:
        print(f"error: {problem}", file=sys.stderr)
    total = summary.images + len(summary.problems)
    unread = f"; {len(summary.problems)} of {total} could not be read" if summary.problems else ""
    print(f"images      {summary.images}{unread}")
    print(f"detections  {summary.detections.total()}")
    width = max(len(c.name) for c in categories)
    for category in categories:
        print(f"            {category.name:{width}}  {summary.detections[category.name]}")
    attention = "attention/, " * (output / "attention").is_dir()
    print(f"written to  {output}: images/, {attention}detections.csv, results.json and images.json")


@command_line
def main(argv: list[str] | None = None) -> int:
    """Open run and images, detect and write; the exit code is 1 if an image could not be read."""
    args = parse(argv)
    from detection.analysis.attention import require_attention
    from detection.predictor import Predictor, choose_score
    from detection.runs import prediction
    from detection.runs.logs import progress
    from detection.training.loaders import require_device

    paths = prediction.find_images(args.images)
    require_device(args.device)
    score, reason = choose_score(args.run, args.score)
    predictor = Predictor(args.run, args.device, args.score)
    detector, config, categories = predictor.detector, predictor.config, predictor.categories
    if args.attention:
        require_attention(detector)
    print(f"score       from {score:.3g}, {reason}", flush=True)
    files = prediction.ImageFiles(paths, config.detector.min_size, config.detector.max_size)
    batches = prediction.image_batches(files, args.batch_size or config.eval_batch_size)
    try:
        with atomic_folder(args.output.resolve()) as folder, progress("detecting", len(paths)) as bar:
            found = prediction.detect(predictor, batches)
            summary = prediction.write_predictions(folder, found, paths, categories, bar.advance)
            if not summary.images:
                rest = f" (and {len(paths) - 1} more that cannot be read either)" if len(paths) > 1 else ""
                raise UserError(f"{summary.problems[0].removesuffix('.')}{rest}.")
            if args.attention:
                prediction.write_attention(folder, detector, batches, paths)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{args.output}: cannot be written ({reason}); choose another --output.") from None
    print_summary(summary, categories, args.output)
    return 1 if summary.problems else 0


if __name__ == "__main__":
    sys.exit(main())
