"""Convert TensorBox-style annotations (one JSON list) to one COCO JSON file, or back.

    detection convert --from tensorbox people.json images people_coco.json --categories person
    detection convert --from tensorbox --back people_coco.json images people.json

TensorBox, in which ReInspect's authors wrote its second version, keeps a list of
`{"image_path": "images/a.png", "rects": [{"x1": 3, "y1": 4, "x2": 9, "y2": 20}, …]}`: corners in pixels from the
image's edge, no size of the image, and no name of a class. Decisions:

- A rect may carry a `classID`, which becomes the category id, named `class 3` without --categories; -1, TensorBox's
  default, is none. Without any, all rects are of one category, `object` or the one given; on the way back one category
  needs no `classID`.
- A rect's `score` is kept as it is, both ways; training and evaluation do not read it from annotations.
- Corners in the wrong order are swapped, boxes that leave their image are clipped, both counted. A rect without width
  or height is named and left out.
- TensorBox has no regions to ignore: on the way back `iscrowd` 1 is left out, and counted; masks are lost.

Coordinates are rounded to a millionth of a pixel, so that a set that goes there and back stays as it was.
"""

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.data.checks import examine, read_annotations
from detection.data.conversion import CocoBuilder, Conversion, add_common_arguments, conversion_report, given_categories
from detection.data.json_files import read_json
from detection.errors import UserError

CORNERS = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Rect:
    """One rect: corners (x1, y1, x2, y2) as written, its class or None, and its score or None."""

    corners: tuple[float, float, float, float]
    class_id: int | None
    score: float | None


def read_tensorbox(path: Path) -> list[tuple[str, list[Rect]]]:
    """Return the image path and rects of every entry.

    Raises:
        UserError: the file is no such list; names the entry and rect, counted from 0.
    """
    entries = read_json(path)
    if isinstance(entries, dict) and "annotations" in entries:
        raise UserError(f"{path} is a COCO file already; add --back to convert it to TensorBox's format")
    if not isinstance(entries, list):
        raise UserError(f"{path} holds no list at its top; TensorBox's format is a list of image_path and rects")
    read = []
    for number, entry in enumerate(entries):
        where = f"{path}, entry {number}"
        name = entry.get("image_path") if isinstance(entry, dict) else None
        rects = entry.get("rects", []) if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or not isinstance(rects, list):
            raise UserError(f"{where}: it needs an image_path and a list of rects; correct or remove the entry")
        read.append((name, [_rect(rect, f"{where}, rect {place}") for place, rect in enumerate(rects)]))
    return read


def _rect(rect: Any, where: str) -> Rect:
    if not isinstance(rect, dict):
        raise UserError(f"{where}: it is no object with {', '.join(CORNERS)}; correct or remove it")
    x1, y1, x2, y2 = (_number(rect, key, where) for key in CORNERS)
    class_id = None if rect.get("classID") in (None, -1) else _number(rect, "classID", where)
    if class_id is not None and class_id != int(class_id):
        raise UserError(f"{where}: classID is {class_id}, not an integer; correct it")
    score = None if rect.get("score") is None else _number(rect, "score", where)
    return Rect((x1, y1, x2, y2), None if class_id is None else int(class_id), score)


def _number(rect: dict, key: str, where: str) -> float:
    value = rect.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise UserError(f"{where}: {key} is {json.dumps(value)[:40]}, not a number; correct or remove the rect")
    return value


def choose_categories(given: str | None, rects: list[Rect]) -> dict[str, int]:
    """Return the id of every class name: those of `given_categories`, or made-up names for None.

    Raises:
        UserError: the rects' classes do not fit, or some have one and others not.
    """
    used = sorted({rect.class_id for rect in rects if rect.class_id is not None})
    without = any(rect.class_id is None for rect in rects)
    if without and used:
        raise UserError("some rects have a classID and others not; give all of them one, or none")
    if given is None:
        return {f"class {id_}": id_ for id_ in used} or {"object": 1}
    categories = given_categories(given)
    if without and len(categories) > 1:
        raise UserError(f"--categories {given}: {len(categories)} classes, but no rect has a classID; name only one")
    if unknown := [id_ for id_ in used if id_ not in categories.values()]:
        raise UserError(f"--categories {given}: no class has the id {unknown[0]}, a classID of the rects; add it")
    return categories


def find_image(folder: Path, path: str) -> str:
    """Return an image's name inside the folder: the path as written, or as much of its end as is there."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        name = "/".join(parts[start:])
        if os.path.isfile(folder / name):
            return name
    raise UserError(f"no image {path} in {folder}; give the right IMAGES folder or remove the entry")


def to_coco(source: Path, folder: Path, given: str | None) -> tuple[dict, str]:
    """Return the COCO data of a TensorBox file, and the report on it; `given` as for `choose_categories`."""
    entries = read_tensorbox(source)
    categories = choose_categories(given, [rect for _, rects in entries for rect in rects])
    builder, swapped = CocoBuilder({"description": "converted from TensorBox"}, folder, categories, decimals=6), 0
    for path, rects in entries:
        builder.add_image(find_image(folder, path), path, "put their rects into one entry")
        for number, rect in enumerate(rects):
            x1, y1, x2, y2 = rect.corners
            swapped += x1 > x2 or y1 > y2
            edges = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
            category = next(iter(categories.values())) if rect.class_id is None else rect.class_id
            score = {} if rect.score is None else {"score": rect.score}
            builder.add_box(edges, category, f"{path}, rect {number}", rect.corners, **score)
    counts = {
        "boxes with a score, kept": sum("score" in item for item in builder.coco["annotations"]),
        "corners swapped": swapped,
        "boxes clipped to their image": builder.clipped,
    }
    return builder.coco, conversion_report(builder.coco, counts, {"boxes without size, left out": builder.without_size})


def read_coco(path: Path, folder: Path) -> dict:
    """Return a COCO file's data after the checks that training makes, and that all images are there."""
    data = read_annotations(path)
    _, problems = examine(data, path)
    if problems:
        raise UserError(problems[0].sentence)
    for image in data["images"]:
        if not (folder / image["file_name"]).is_file():
            raise UserError(f"{path}: no image {image['file_name']} in {folder}; give the right IMAGES folder")
    return data


def from_coco(source: Path, folder: Path, out: Path) -> tuple[list[dict], str]:
    """Return the TensorBox list of a COCO file, image paths relative to the folder of `out`, and the report on it."""
    coco = read_coco(source, folder)
    objects = [item for item in coco["annotations"] if not item.get("iscrowd", 0)]
    prefix = os.path.relpath(folder.resolve(), out.resolve().parent).replace(os.sep, "/")
    rects: dict[int, list[dict]] = {image["id"]: [] for image in coco["images"]}
    for item in objects:
        x, y, width, height = item["bbox"]
        rect: dict[str, Any] = dict(zip(CORNERS, (x, y, round(x + width, 6), round(y + height, 6)), strict=True))
        if len(coco["categories"]) > 1:
            rect["classID"] = item["category_id"]
        rects[item["image_id"]].append(rect | ({"score": item["score"]} if "score" in item else {}))
    paths = {image["id"]: f"{prefix}/{image['file_name']}".removeprefix("./") for image in coco["images"]}
    counts = {
        "boxes with a score, kept": sum("score" in item for item in objects),
        "regions to ignore (iscrowd 1), left out": len(coco["annotations"]) - len(objects),
    }
    report = conversion_report({**coco, "annotations": objects}, counts, {})
    return [{"image_path": path, "rects": rects[id_]} for id_, path in paths.items()], report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this format."""
    parser.add_argument("source", type=Path, metavar="IN.json", help="TensorBox list, or with --back a COCO file")
    add_common_arguments(parser)
    parser.add_argument("--back", action="store_true", help="convert COCO to TensorBox")


def convert(options: argparse.Namespace) -> list[Conversion]:
    """Return what is to be written, and the report on it."""
    if not options.back:
        data, report = to_coco(options.source, options.images, options.categories)
        return [Conversion(options.out, data, report, options.images)]
    if options.categories is not None:
        raise UserError("--categories is not for --back: COCO files name their categories themselves")
    return [Conversion(options.out, *from_coco(options.source, options.images, options.out))]
