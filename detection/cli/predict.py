"""Detect on images or videos with a trained run.

detection predict RUN IMAGE|FOLDER|GLOB|VIDEO ... [--output DIR] [--score S] [--tiles N] [--attention] [--device D]

RUN is the folder of a training run, for its best checkpoint, or a checkpoint such as RUN/checkpoints/last. IMAGE is a
file, a folder (the images directly in it), or a quoted pattern such as 'a/**'; what is not taken is counted. Videos are
given by name or pattern, in a command without images.

Writes into DIR (predictions, or the next free of predictions-2, -3, ...), for detections with a score of at least S:
  images/NAME.png   each image with its detections drawn, at most 8192 pixels wide and high
  detections.csv    file, label, score, and the box x1, y1, x2, y2 in pixels of the image; names are escaped, and after
                    an apostrophe where a spreadsheet would read them as a formula
  results.json      COCO results; image_id numbers the images from 1
  images.json       what those ids stand for: a COCO list of images (with `drawn`, the name above) and categories
  attention/NAME.png with --attention, each image and, next to it, where each attention step of the context is
and of videos:
  videos/NAME.mp4   each video with its detections drawn, upright, at a constant rate and without sound (.avi where
                    there is no codec for .mp4)
  detections.csv    the same columns with frame (from 0) and time (in seconds) after the file

In an image much larger than the detector's input, small objects are lost. --tiles 640 cuts it into overlapping tiles
of 640x640 pixels, detects in each and in the full image, unless that is too thin for it, and merges what they find.

An image or video that cannot be read, or not to its end, is named and the others are done all the same; the exit code
is then 1. Exit code 2: a mistake in the command, or nothing could be read; nothing is written.
"""

import argparse
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detection.atomic_write import atomic_folder, make_free
from detection.cli import DEVICE, DEVICES, command_parser, require_free
from detection.errors import UserError, command_line
from detection.names import short_line, short_name, visible

if TYPE_CHECKING:
    from detection.data.coco_index import Category
    from detection.predictor import Predictor
    from detection.runs.prediction import PredictionSummary
    from detection.tiles import Tiles
    from detection.video.prediction import FilmSummary


LISTED = 50
"""Most classes that are listed by name."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_parser("predict", __doc__, trust=True)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a training run, or a checkpoint")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image or video file, folder, or quoted pattern")
    parser.add_argument("--output", type=Path, help="a new folder; predictions, predictions-2, ... if left out")
    parser.add_argument(
        "--score",
        type=float,
        help="least score; if left out, that of the best F1 (in the run's metrics.json, of its last checkpoint in "
        "last/metrics.json), else 0.5. The run's "
        "detector.head.score_threshold (0.05 unless set) is a lower limit",
    )
    parser.add_argument("--attention", action="store_true", help="draw the attention of the context, too")
    parser.add_argument("--device", choices=DEVICES, help=DEVICE)
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at once; the run's eval_batch_size")
    parser.add_argument("--tiles", type=int, metavar="N", help="detect in tiles of NxN pixels, too")
    parser.add_argument("--overlap", type=float, metavar="S", help="share of a tile in its neighbor; 0.2 if left out")
    parser.add_argument("--tiles-only", action="store_true", help="not in the full image, which has the large objects")
    args = parser.parse_args(argv)
    if args.score is not None and not 0 <= args.score <= 1:
        raise UserError(f"--score {args.score}: must be between 0 and 1.")
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch-size {args.batch_size}: must be 1 or more.")
    if args.tiles is None and (args.overlap is not None or args.tiles_only):
        raise UserError("--overlap and --tiles-only: are about tiles; give their size, too: --tiles 640.")
    if args.tiles is not None and args.attention:
        raise UserError("--attention: is drawn over one image at its full size; leave out --tiles.")
    require_free(args.output)
    return args


@contextlib.contextmanager
def output_folder(output: Path | None, name: str = "predictions") -> Iterator[Path]:
    """Yield the folder to write: `output`, or the first free of `NAME`, `NAME-2` and so on.

    A name that is chosen here is taken at once, so that two commands never choose the same; after an error it is free.
    """
    if output is not None:
        yield output
        return
    try:
        folder = make_free(Path(name))
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be written ({error.strerror}); choose another --output.") from None
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def print_summary(summary: "PredictionSummary", categories: "Sequence[Category]", output: Path, tiles: bool) -> None:
    """Print what was detected, and which images, or their `tiles`, could not be read or have shrunk a lot."""
    for problem in summary.problems:
        print(f"error: {short_line(problem)}", file=sys.stderr)
    total = summary.images + len(summary.problems)
    unread = f"; {len(summary.problems)} of {total} could not be read" if summary.problems else ""
    print(f"images      {summary.images}{unread}")
    if summary.shrunk:
        path, factor = max(summary.shrunk.items(), key=lambda item: item[1])
        what, remedy = ("its tiles to", "smaller tiles") if tiles else ("to", "tiles (--tiles 640)")
        print(
            f"shrunk      {len(summary.shrunk)} of them a lot for the detector, {short_name(str(path), 80)} {what} 1/"
            f"{factor:.0f} of the width: small objects are lost; detect in {remedy}, or train with a larger "
            "detector.max_size"
        )
    _print_classes(summary.detections, categories)
    attention = "attention/, " * (output / "attention").is_dir()
    print(f"written to  {visible(str(output))}: images/, {attention}detections.csv, results.json and images.json")


def print_films(films: "Sequence[FilmSummary]", categories: "Sequence[Category]", output: Path) -> None:
    """Print what was detected in videos, and which could not be read to their end."""
    for film in films:
        if film.problem:
            print(f"error: {short_line(film.problem)}", file=sys.stderr)
    drawn = [film for film in films if film.drawn]
    unread = f"; {len(films) - len(drawn)} of {len(films)} could not be read" if len(drawn) < len(films) else ""
    print(f"videos      {len(drawn)}{unread}")
    for film in drawn:
        announced = f" of {film.expected} announced" if film.expected else ""
        print(f"frames      {film.frames}{announced}, all drawn in videos/{visible(film.drawn)}")
        for note in film.notes:
            print(f"note        {visible(film.drawn)}: {note}")
    _print_classes(sum((film.detections for film in films), Counter()), categories)
    print(f"written to  {visible(str(output))}: videos/ and detections.csv")


def _print_classes(detections: Counter[str], categories: "Sequence[Category]") -> None:
    print(f"detections  {detections.total()}")
    names = [c.name for c in categories]
    if len(names) > LISTED:
        names = [name for name, _ in detections.most_common(LISTED)]
    shown = {name: short_name(name) for name in names}
    width = max(map(len, shown.values()), default=0)
    for name in names:
        print(f"            {shown[name]:{width}}  {detections[name]}")
    if len(names) < len(categories):
        print(f"            {len(names)} of {len(categories)} classes are listed; all are in detections.csv")


@command_line
def main(argv: list[str] | None = None) -> int:
    """Open run and images, detect and write; the exit code is 1 if an image could not be read."""
    args = parse(argv)
    from detection.runs.image_files import FoundImages, find_images, find_videos
    from detection.training.preemption import watch

    videos = find_videos(args.images)
    found = FoundImages([], Counter()) if videos else find_images(args.images)
    if videos and args.attention:
        raise UserError("--attention: is drawn in images alone; leave it out, or give frames of the video.")
    from detection.analysis.attention import require_attention
    from detection.predictor import Predictor
    from detection.tiles import Tiles
    from detection.training.loaders import require_device

    require_device(args.device)
    overlap = {} if args.overlap is None else {"overlap": args.overlap}
    tiles = None if args.tiles is None else Tiles(args.tiles, full_image=not args.tiles_only, **overlap)
    predictor = Predictor(args.run, args.device, args.score)
    if args.attention:
        require_attention(predictor.detector)
    print(f"score       from {predictor.score:.3g}, {visible(predictor.score_reason)}", flush=True)
    for number, note in enumerate(found.notes):
        print(f"{'' if number else 'not taken':11} {visible(note)}", flush=True)
    # A signal ends the command by an exception, so that no half-written folder stays.
    with watch(until_exit=True), output_folder(args.output) as output:
        if videos:
            films = predict_films(predictor, videos, output, args.batch_size, tiles)
            print_films(films, predictor.categories, output)
            return 1 if any(film.problem for film in films) else 0
        summary = predict(predictor, found.paths, output, args.batch_size, args.attention, tiles)
        print_summary(summary, predictor.categories, output, tiles is not None)
    return 1 if summary.problems else 0


def predict(
    predictor: "Predictor",
    paths: Sequence[Path],
    output: Path,
    batch_size: int | None,
    attention: bool,
    tiles: "Tiles | None" = None,
) -> "PredictionSummary":
    """Detect on image files and write a folder, or nothing where not one image can be read.

    Raises:
        UserError: no image can be read, or the folder cannot be written.
    """
    from detection.runs import prediction
    from detection.runs.logs import progress

    config = predictor.config
    files = prediction.ImageFiles(paths, config.detector.min_size, config.detector.max_size, tiles)
    batch_size = batch_size or config.eval_batch_size
    batches = prediction.image_batches(files, batch_size)
    with _written(output) as folder, progress("detecting", len(paths)) as bar:
        found = prediction.detect(predictor, batches, tiles, batch_size)
        summary = prediction.write_predictions(folder, found, paths, predictor.categories, bar.advance)
        _require_some(summary.images, summary.problems)
        if attention:
            prediction.write_attention(folder, predictor.detector, batches, paths)
    return summary


def predict_films(
    predictor: "Predictor", paths: Sequence[Path], output: Path, batch_size: int | None, tiles: "Tiles | None" = None
) -> "list[FilmSummary]":
    """Detect on videos and write a folder, or nothing where no frame of any can be read.

    Raises:
        UserError: no frame can be read, or the folder cannot be written.
    """
    from detection.video.prediction import predict_videos

    with _written(output) as folder:
        films = predict_videos(predictor, paths, folder, batch_size or predictor.config.eval_batch_size, tiles)
        _require_some(sum(film.frames for film in films), [film.problem for film in films if film.problem])
    return films


@contextlib.contextmanager
def _written(output: Path) -> Iterator[Path]:
    """Yield a folder that becomes `output`; a `UserError` where it cannot be written."""
    try:
        with atomic_folder(output.resolve()) as folder:
            yield folder
    except BrokenPipeError:  # of what is printed
        raise
    except OSError as error:
        # Of other paths are files that cannot be read.
        if error.filename is None or not _is_of(output.resolve(), Path(os.fsdecode(error.filename)).absolute()):
            raise
        raise UserError(f"{output}: cannot be written ({error.strerror or error}); choose another --output.") from None


def _is_of(output: Path, path: Path) -> bool:
    """Whether a path is that of an output, in which it lies, or in the hidden folder that becomes the output."""
    if path in (output, *output.parents):
        return True
    above = output.parent
    name = path.relative_to(above).parts[0] if path.is_relative_to(above) else ""
    return name == output.name or name.startswith(f".{output.name}.")


def _require_some(number: int, problems: Sequence[str]) -> None:
    if not number:
        rest = f" (and {len(problems) - 1} more that cannot be read either)" if len(problems) > 1 else ""
        raise UserError(f"{problems[0].removesuffix('.')}{rest}.")


if __name__ == "__main__":
    sys.exit(main())
