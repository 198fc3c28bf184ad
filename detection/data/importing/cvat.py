"""Convert CVAT's XML ("CVAT for images 1.1") to one COCO JSON file.

    detection convert --from cvat annotations.xml images train.json

- Boxes are as written. A rotated box, an ellipse, a polygon and a mask become the upright box around them; outlines are
  kept as polygons, masks as run lengths. Points, lines, cuboids and skeletons have no box: they are left out, counted
  by kind; so are tags.
- Attributes are kept as `attributes` of an annotation.
- Classes are the labels of the task, in its order, numbered from 1; one that only a shape has comes after them.
- A file "for video" has tracks in place of images: export the task as "CVAT for images 1.1".
"""

import argparse
import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.conversion import (
    CocoBuilder,
    Conversion,
    Point,
    add_common_arguments,
    conversion_report,
    named_categories,
)
from detection.data.importing.images import ImageFinder, add_skip_missing
from detection.data.importing.text import finite_number
from detection.data.xml_files import parse_xml
from detection.errors import UserError

_SHAPES = ("box", "polygon", "ellipse", "mask")
_BOXLESS = ("polyline", "points", "cuboid", "skeleton", "tag")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this format."""
    parser.add_argument("source", type=Path, metavar="ANNOTATIONS.xml", help="the file that CVAT exported")
    add_common_arguments(parser)
    add_skip_missing(parser)


def convert(options: argparse.Namespace) -> list[Conversion]:
    """Return the COCO data, and the report on it."""
    source: Path = options.source
    root = parse_xml(source)
    if root.find("track") is not None:
        raise UserError(f'{source} is for video (it has tracks); export the task as "CVAT for images 1.1"')
    entries = root.findall("image")
    if not entries:
        raise UserError(f'{source} has no <image>; export the task as "CVAT for images 1.1"')
    categories = named_categories(options.categories, _labels(root, entries, source))
    builder = CocoBuilder({"description": "converted from CVAT"}, options.images, categories, decimals=6)
    finder = ImageFinder(options.images, options.skip_missing)
    written = [_attribute(entry, "name", f"{source}, an <image>") for entry in entries]
    reader = _Reader(builder)
    for entry, name, file in zip(entries, written, finder.find(written, [str(source)] * len(written)), strict=True):
        if file is not None:
            reader.add_image(entry, file, f"{source}, image {name}")
    counts: dict[str, object] = {**reader.counts, "boxes clipped to their image": builder.clipped}
    lists = {
        "boxes without size, left out": builder.without_size,
        "images of another size than in the XML, boxes as written": builder.other_sizes,
        "images that are not there, left out with their annotations": finder.left_out,
    }
    return [Conversion(options.out, builder.coco, conversion_report(builder.coco, counts, lists), options.images)]


def _labels(root: ElementTree.Element, entries: list[ElementTree.Element], source: Path) -> dict[str, str]:
    """Return the labels of the task, then those that only shapes have, with where they are."""
    # A label with a parent is a point of a skeleton.
    labels = [label for label in root.iter("label") if label.find("name") is not None and label.find("parent") is None]
    names = dict.fromkeys(((label.findtext("name") or "").strip() for label in labels), str(source))
    for entry in entries:
        for shape in entry:
            if shape.tag in _SHAPES:
                where = f"{source}, image {entry.get('name')}"
                names.setdefault(_attribute(shape, "label", f"{where}, a <{shape.tag}>"), where)
    names.pop("", None)
    return names


def _attribute(element: ElementTree.Element, key: str, where: str) -> str:
    if not (text := (element.get(key) or "").strip()):
        raise UserError(f"{where} has no {key}; add it or remove the <{element.tag}>")
    return text


class _Reader:
    """Reads images with their shapes."""

    def __init__(self, builder: CocoBuilder) -> None:
        self.builder = builder
        self.ids = {entry["name"]: entry["id"] for entry in builder.coco["categories"]}
        self.counts: Counter[str] = Counter()

    def add_image(self, entry: ElementTree.Element, file: str, where: str) -> None:
        """Add an image and all of its shapes."""
        listed = [entry.get(side, "") for side in ("width", "height")]
        written = [int(side) for side in listed if side.isdecimal()]
        self.builder.add_image(file, where, "leave one of them out", written)
        for row, shape in enumerate(entry, 1):
            place = f"{where}, <{shape.tag}> {row}"
            if shape.tag in _SHAPES:
                self._add_shape(shape, place)
            elif shape.tag in _BOXLESS:
                self.counts[f"{shape.tag} shapes, which have no box, left out"] += 1
            else:
                raise UserError(f"{place}: no shape of CVAT for images 1.1; remove it")

    def _add_shape(self, shape: ElementTree.Element, where: str) -> None:
        category = self.ids[_attribute(shape, "label", where)]
        more = _attributes(shape)
        if shape.get("outside") == "1":
            self.counts["shapes outside of their image, left out"] += 1
        elif shape.tag == "polygon":
            self.builder.add_outlines([_points(shape, where)], category, where, **more)
        elif shape.tag == "mask":
            self._add_mask(shape, category, where, more)
        else:
            self._add_box(shape, category, where, more)

    def _add_box(self, shape: ElementTree.Element, category: int, where: str, more: dict[str, Any]) -> None:
        if shape.tag == "ellipse":
            cx, cy, rx, ry = (_number(shape, key, where) for key in ("cx", "cy", "rx", "ry"))
            outline = [(rx * math.cos(t), ry * math.sin(t)) for t in (k * math.tau / 36 for k in range(36))]
            edges = (cx - rx, cy - ry, cx + rx, cy + ry)
        else:
            x0, y0, x1, y1 = edges = tuple(_number(shape, key, where) for key in ("xtl", "ytl", "xbr", "ybr"))
            cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
            outline = [(x - cx, y - cy) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        angle = math.radians(_number(shape, "rotation", where) if shape.get("rotation") else 0)
        if shape.tag == "box" and angle == 0:
            self.builder.add_box(edges, category, where, edges, **more)
            return
        self.counts["ellipses" if shape.tag == "ellipse" else "rotated boxes, as the upright boxes around them"] += 1
        c, s = math.cos(angle), math.sin(angle)  # clockwise, as y points down
        turned = [(round(cx + x * c - y * s, 6), round(cy + x * s + y * c, 6)) for x, y in outline]
        self.builder.add_outlines([turned], category, where, **more)

    def _add_mask(self, shape: ElementTree.Element, category: int, where: str, more: dict[str, Any]) -> None:
        left, top, width, height = (int(_number(shape, key, where)) for key in ("left", "top", "width", "height"))
        try:
            runs = [int(word) for word in _attribute(shape, "rle", where).split(",")]
        except ValueError:
            runs = []
        if not runs or min(runs) < 0 or sum(runs) != width * height or min(left, top) < 0:
            raise UserError(f"{where}: its rle is not that of {width} × {height} pixels; correct or remove it")
        mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)  # row by row, background first
        image = self.builder.coco["images"][-1]
        full = np.zeros((image["height"], image["width"]), dtype=bool)
        part = full[top : top + height, left : left + width]
        part |= mask[: part.shape[0], : part.shape[1]]
        if not full.any():
            self.builder.without_size.append(f"{where}, an empty mask")
            return
        ys, xs = np.nonzero(full)
        edges = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        columns = full.T.ravel()  # COCO's run lengths go column by column
        changes = np.flatnonzero(np.diff(columns, prepend=False, append=not columns[-1]))
        counts = np.diff(changes, prepend=0).tolist()
        segmentation = {"size": list(full.shape), "counts": counts}
        self.builder.add_box(edges, category, where, edges, segmentation=segmentation, area=int(full.sum()), **more)


def _attributes(shape: ElementTree.Element) -> dict[str, Any]:
    values = {item.get("name", ""): (item.text or "").strip() for item in shape.findall("attribute")}
    return {"attributes": values} if values else {}


def _points(shape: ElementTree.Element, where: str) -> list[Point]:
    written = _attribute(shape, "points", where)
    try:
        points = [(float(x), float(y)) for x, y in (pair.split(",") for pair in written.split(";"))]
    except ValueError:
        points = []
    if not points or not all(math.isfinite(value) for point in points for value in point):
        raise UserError(f"{where}: points are {written[:40]!r}, not x,y;x,y;…; correct or remove it")
    return points


def _number(shape: ElementTree.Element, key: str, where: str) -> float:
    return finite_number(_attribute(shape, key, where), where, key, f"correct it or remove the <{shape.tag}>")
