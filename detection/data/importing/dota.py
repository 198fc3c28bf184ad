"""Convert DOTA's label files to one COCO JSON file, with upright boxes.

    detection convert --from dota train/labelTxt train/images train.json

A line is `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`, in pixels; lines `imagesource:` and `gsd:` at the top are not read,
and `difficult` may be left out. The upright box around the four corners is the box, the corners its polygon.

- A difficult object (1, or 2 in DOTA 1.5) is neither to be found nor to be missed: it becomes `iscrowd` 1, which
  training ignores too.
- Classes are the names in all files, sorted, numbered from 1; give the second split `--categories train.json`.
- An empty file is an image without objects. Images without a file are not converted.
- Files in folders below LABELS are read too; their images are in the same folders below IMAGES, or have unique names.
"""

import argparse
import math
from collections import Counter
from pathlib import Path

from detection.data.conversion import (
    CocoBuilder,
    Conversion,
    Point,
    add_common_arguments,
    conversion_report,
    named_categories,
)
from detection.data.importing.images import add_skip_missing
from detection.data.importing.label_files import LabeledImages, label_files
from detection.data.importing.text import finite_number, read_lines
from detection.errors import UserError

_HEADERS = ("imagesource:", "gsd:", "acquisition")
Label = tuple[list[Point], str, bool, str]
"""Corners, class, whether difficult, and file and line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this format."""
    parser.add_argument("source", type=Path, metavar="LABELS", help="folder of text files")
    add_common_arguments(parser)
    add_skip_missing(parser)


def convert(options: argparse.Namespace) -> list[Conversion]:
    """Return the COCO data, and the report on it."""
    if not options.source.is_dir():
        raise UserError(f"{options.source} is no folder; give the folder of text files as LABELS")
    paths = label_files(options.source, ".txt")
    if not paths:
        raise UserError(f"{options.source} holds no .txt file; give the folder of text files as LABELS")
    labels = [read_labels(path) for path in paths]
    uses: dict[str, str] = {}
    for _, class_, _, where in (label for of_file in labels for label in of_file):
        uses.setdefault(class_, where)
    categories = named_categories(options.categories, dict(sorted(uses.items())))
    builder = CocoBuilder({"description": "converted from DOTA"}, options.images, categories, decimals=6)
    remedy = "put the label file in a folder of the same name as the image's"
    finder, counts = LabeledImages(options.images, options.skip_missing, remedy=remedy), Counter[str]()
    places = [path.relative_to(options.source).parent / path.stem for path in paths]
    files = finder.find([finder.at(place) or place.as_posix() for place in places], [str(path) for path in paths])
    for path, file, of_file in zip(paths, files, labels, strict=True):
        if file is None:
            continue
        builder.add_image(file, str(path), "leave one of them out")
        for corners, class_, difficult, where in of_file:
            xs, ys = zip(*corners, strict=True)
            counts["rotated boxes, as the upright boxes around them"] += len(set(xs)) > 2 or len(set(ys)) > 2
            builder.add_outlines([corners], categories[class_], where, iscrowd=int(difficult))
    counts["difficult objects, written as iscrowd 1"] = sum(item["iscrowd"] for item in builder.coco["annotations"])
    shown = {**counts, "boxes clipped to their image": builder.clipped}
    lists = {
        "boxes without size, left out": builder.without_size,
        "label files without an image, left out": finder.left_out,
        "label files that several images fit, left out": finder.ambiguous,
    }
    return [Conversion(options.out, builder.coco, conversion_report(builder.coco, shown, lists), options.images)]


def read_labels(path: Path) -> list[Label]:
    """Return the objects of a label file.

    Raises:
        UserError: a line is no object, with its number.
    """
    labels = []
    for row, line in enumerate(read_lines(path, "a label file"), 1):
        words, where = line.split(), f"{path}, line {row}"
        if not words or line.strip().lower().startswith(_HEADERS):
            continue
        if len(words) not in (9, 10):
            raise UserError(
                f"{where}: {len(words)} words, but an object has 8 coordinates, a class and maybe difficult; correct "
                "or remove the line"
            )
        x1, y1, x2, y2, x3, y3, x4, y4 = (finite_number(word, where) for word in words[:8])
        if len(words) == 9 and "." in words[8] and _is_number(words[8]):
            raise UserError(
                f"{where}: class is {words[8][:40]!r}, a number; lines with the class first and shares of the image "
                "are YOLO's: convert them by --from yolo"
            )
        difficult = words[9] if len(words) == 10 else "0"
        if difficult not in ("0", "1", "2"):
            raise UserError(f"{where}: difficult is {difficult[:40]!r}, not 0, 1 or 2; correct the line")
        labels.append(([(x1, y1), (x2, y2), (x3, y3), (x4, y4)], words[8], difficult != "0", where))
    return labels


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
