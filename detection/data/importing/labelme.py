"""Convert LabelMe's JSON files (one an image) to one COCO JSON file.

    detection convert --from labelme FOLDER IMAGES train.json        FOLDER and IMAGES are often the same

- Rectangles are boxes; a polygon, a rotated rectangle and a circle become the upright box around them, polygons are
  kept as such. Of a mask the box is kept, not its pixels. Points and lines have no box: they are left out, counted by
  kind.
- A shape with `difficult` (X-AnyLabeling's) becomes `iscrowd` 1, which training ignores too.
- Polygons of one label that share a `group_id` are parts of one object, as in LabelMe's own export.
- Classes are the labels in all files, sorted, numbered from 1; `--categories labels.txt` takes another order, without
  LabelMe's `__ignore__` and `_background_`.
- `imageData` is not read: IMAGES has the images. Images without a JSON file are not converted.
- Files in folders below FOLDER are read too. `imagePath` is relative to its file, or has folders in front that are not
  there.
"""

import argparse
import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from detection.data.json_files import read_json
from detection.errors import UserError

_OUTLINES = ("polygon", "rotation", "oriented_rectangle")
_CORNERS = ("rectangle", "mask")
_BOXLESS = ("point", "points", "line", "linestrip", "lines")


@dataclass(frozen=True)
class LabelMeShape:
    """One shape: its kind, label, points in pixels, group or None, place for messages, difficult or not."""

    kind: str
    label: str
    points: list[Point]
    group: object
    where: str
    difficult: bool = False


@dataclass(frozen=True)
class LabelMeFile:
    """One JSON file: its path, the image's path ("" for none) and (width, height) as written, and shapes."""

    path: Path
    image: str
    size: tuple[Any, Any]
    shapes: list[LabelMeShape]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this format."""
    parser.add_argument("source", type=Path, metavar="FOLDER", help="folder of JSON files")
    add_common_arguments(parser)
    add_skip_missing(parser)


def convert(options: argparse.Namespace) -> list[Conversion]:
    """Return the COCO data, and the report on it."""
    others: list[str] = []
    files = read_labelme(options.source, others)
    uses: dict[str, str] = {}
    for shape in (shape for file in files for shape in file.shapes if shape.kind not in _BOXLESS):
        uses.setdefault(shape.label, shape.where)
    categories = named_categories(options.categories, dict(sorted(uses.items())))
    builder = CocoBuilder({"description": "converted from LabelMe"}, options.images, categories, decimals=6)
    remedy = "write the image's folder in imagePath"
    finder = LabeledImages(options.images, options.skip_missing, remedy=remedy)
    counts = Counter[str]()
    written = [_image(file, options.source, finder) for file in files]
    found = finder.find(written, [str(file.path) for file in files])
    for file, name in zip(files, found, strict=True):
        if name is None:
            continue
        builder.add_image(name, str(file.path), "leave one of them out", file.size)
        for shapes in _objects(file.shapes, counts):
            _add(builder, shapes, categories, counts)
    counts["difficult shapes, written as iscrowd 1"] = sum(item["iscrowd"] for item in builder.coco["annotations"])
    shown: dict[str, object] = {**counts, "boxes clipped to their image": builder.clipped}
    lists = {
        "boxes without size, left out": builder.without_size,
        "images of another size than in their annotation, boxes as written": builder.other_sizes,
        "JSON files without shapes, not read": others,
        "images that are not there, left out with their annotations": finder.left_out,
        "JSON files that several images fit, left out": finder.ambiguous,
    }
    return [Conversion(options.out, builder.coco, conversion_report(builder.coco, shown, lists), options.images)]


def read_labelme(folder: Path, others: list[str]) -> list[LabelMeFile]:
    """Return the files of a folder and below it, sorted; names of those that are no annotations go to `others`.

    Raises:
        UserError: a file is damaged, or there is none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the folder of JSON files as FOLDER")
    files = []
    for path in label_files(folder, ".json"):
        data = read_json(path)
        if isinstance(data, dict) and isinstance(data.get("shapes"), list):
            files.append(_file(data, path))
        else:
            others.append(str(path.relative_to(folder)))
    if not files:
        raise UserError(f"{folder} holds no JSON file with shapes; give the folder that LabelMe wrote as FOLDER")
    return files


def _file(data: dict, path: Path) -> LabelMeFile:
    image = given if isinstance(given := data.get("imagePath"), str) else ""
    shapes = [_shape(shape, f"{path}, shape {row}") for row, shape in enumerate(data["shapes"], 1)]
    return LabelMeFile(path, image, (data.get("imageWidth"), data.get("imageHeight")), shapes)


def _image(file: LabelMeFile, folder: Path, finder: LabeledImages) -> str:
    """Return the image's name in IMAGES, where the path leads there from the file's folder or its like; or the path."""
    below, images = file.path.parent.relative_to(folder), finder.folder.resolve()
    written = file.image.replace("\\", "/")
    for base in (folder.resolve() / below, images / below):
        path = Path(os.path.normpath(base / written))
        if written and path.is_relative_to(images) and os.path.isfile(path):
            return path.relative_to(images).as_posix()
    if "/" in written:
        return file.image
    place = below / (Path(written).stem or file.path.stem)
    return finder.at(place) or file.image or place.as_posix()


def _shape(shape: Any, where: str) -> LabelMeShape:
    if not isinstance(shape, dict):
        raise UserError(f"{where} is no object with label and points; correct or remove it")
    label, points = shape.get("label"), shape.get("points")
    if not isinstance(label, str | int | float) or not str(label).strip():
        raise UserError(f"{where} has label {label!r:.40}, not a name; correct or remove it")
    if not isinstance(points, list) or not points or not all(_is_point(point) for point in points):
        raise UserError(f"{where} has points {points!r:.60}, not a list of [x, y]; correct or remove it")
    kind = shape.get("shape_type") or "polygon"  # files of LabelMe 3 have only polygons
    known = (*_OUTLINES, *_CORNERS, *_BOXLESS, "circle")
    if kind not in known:
        raise UserError(f"{where} is a {kind!r:.40}, but known are {', '.join(known)}; change or remove it")
    if kind == "circle" and len(points) != 2:
        raise UserError(f"{where} is a circle of {len(points)} points, not center and edge; correct or remove it")
    plain = [(float(x), float(y)) for x, y in points]
    return LabelMeShape(kind, str(label).strip(), plain, shape.get("group_id"), where, shape.get("difficult") is True)


def _is_point(point: Any) -> bool:
    numbers = isinstance(point, list) and len(point) == 2 and all(type(value) in (int, float) for value in point)
    return numbers and all(math.isfinite(value) for value in point)


def _objects(shapes: list[LabelMeShape], counts: Counter[str]) -> list[list[LabelMeShape]]:
    """Group the shapes of one object; count and leave out those without a box."""
    groups: dict[object, list[LabelMeShape]] = {}
    for row, shape in enumerate(shapes):
        if shape.kind in _BOXLESS:
            counts[f"{shape.kind} shapes, which have no box, left out"] += 1
            continue
        is_part = shape.group is not None and shape.kind in _OUTLINES
        groups.setdefault((shape.label, str(shape.group)) if is_part else row, []).append(shape)
    counts["objects of several polygons with one group_id"] += sum(len(group) > 1 for group in groups.values())
    return list(groups.values())


def _add(builder: CocoBuilder, shapes: list[LabelMeShape], categories: dict[str, int], counts: Counter[str]) -> None:
    first = shapes[0]
    category, iscrowd = categories[first.label], int(first.difficult)
    if first.kind in _OUTLINES:
        counts["polygons, as the upright boxes around them"] += 1
        builder.add_outlines([shape.points for shape in shapes], category, first.where, iscrowd=iscrowd)
        return
    if first.kind == "circle":
        counts["circles, as the upright boxes around them"] += 1
        (x, y), edge = first.points
        radius = math.dist((x, y), edge)
        edges = (x - radius, y - radius, x + radius, y + radius)
    else:
        counts["masks, of which the box is kept"] += first.kind == "mask"
        xs, ys = zip(*first.points, strict=True)
        last = int(first.kind == "mask")  # its corners are pixels, the last included
        edges = (min(xs), min(ys), max(xs) + last, max(ys) + last)
    builder.add_box(edges, category, first.where, edges, iscrowd=iscrowd)
