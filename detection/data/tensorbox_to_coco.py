"""Convert TensorBox-style annotations (one JSON list) to one COCO JSON file, or back.

    detection convert --from tensorbox people.json images people_coco.json --categories person
    detection convert --from tensorbox --back people_coco.json images people.json

TensorBox, in which ReInspect's authors wrote its second version, keeps a list of
`{"image_path": "images/a.png", "rects": [{"x1": 3, "y1": 4, "x2": 9, "y2": 20}, …]}`: corners in pixels from the
image's edge, no size of the image, and no name of a class. Decisions:

- A rect may carry a `classID`, which becomes the category id; -1, TensorBox's default, is none. Without any, all rects
  are of one category, and on the way back one category needs no `classID`.
- A rect's `score` is kept as it is, both ways; training and evaluation do not read it from annotations.
- Corners in the wrong order are swapped, boxes that leave their image are clipped, both counted. A rect without width
  or height is named and left out.
- TensorBox has no regions to ignore: on the way back `iscrowd` 1 is left out, and counted; masks are lost.

Coordinates are rounded to a millionth of a pixel, so that a set that goes there and back stays as it was.
"""

import argparse
import json
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detection.data.voc_to_coco import image_size, read_categories, write_converted
from detection.errors import UserError, command_line

CORNERS = ("x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Rect:
    """One rect: corners (x1, y1, x2, y2) as written, its class or None, and its score or None."""

    corners: tuple[float, float, float, float]
    class_id: int | None
    score: float | None


@dataclass
class TensorBoxReport:
    """Boxes that the conversion left out or changed."""

    degenerate: list[str] = field(default_factory=list)
    swapped: int = 0
    clipped: int = 0
    crowds: int = 0


def read_tensorbox(path: Path) -> list[tuple[str, list[Rect]]]:
    """Return the image path and rects of every entry.

    Raises:
        UserError: the file is no such list; names the entry and rect, counted from 0.
    """
    try:
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a TensorBox JSON file as IN.json") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no valid JSON ({error}); write it again") from error
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
        raise UserError(f"{where}: classID is {class_id}, not a whole number; correct it")
    score = None if rect.get("score") is None else _number(rect, "score", where)
    return Rect((x1, y1, x2, y2), None if class_id is None else int(class_id), score)


def _number(rect: dict, key: str, where: str) -> float:
    value = rect.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: {key} is {json.dumps(value)[:40]}, not a number; correct or remove the rect")
    return value


def choose_categories(given: str | None, rects: list[Rect]) -> dict[int, str]:
    """Return the name of every category by id.

    Args:
        given: names with commas between or a COCO file, as for VOC; None makes names up.
        rects: all rects.

    Raises:
        UserError: the rects' classes do not fit, or some have one and others not.
    """
    used = sorted({rect.class_id for rect in rects if rect.class_id is not None})
    without = any(rect.class_id is None for rect in rects)
    if without and used:
        raise UserError("some rects have a classID and others not; give all of them one, or none")
    if given is None:
        return {id_: f"class {id_}" for id_ in used} or {1: "object"}
    categories = {id_: name for name, id_ in read_categories(given, {}).items()}
    if without and len(categories) > 1:
        raise UserError(f"--categories {given}: {len(categories)} classes, but no rect has a classID; name only one")
    if unknown := [id_ for id_ in used if id_ not in categories]:
        raise UserError(f"--categories {given}: no class has the id {unknown[0]}, a classID of the rects; add it")
    return categories


def find_image(folder: Path, path: str) -> str:
    """Return an image's name inside the folder: the path as written, or as much of its end as is there.

    Raises:
        UserError: nothing of that name is there.
    """
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        name = "/".join(parts[start:])
        if (folder / name).is_file():
            return name
    raise UserError(f"no image {path} in {folder}; give the right IMAGES folder or remove the entry")


def convert_rect(rect: Rect, size: tuple[int, int], report: TensorBoxReport) -> list[float] | None:
    """Return a rect's box xywh inside an image of (width, height), None where it has no size."""
    x1, y1, x2, y2 = rect.corners
    report.swapped += x1 > x2 or y1 > y2
    edges = [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]
    inside = [min(max(edge, 0), limit) for edge, limit in zip(edges, size * 2, strict=True)]
    width, height = round(inside[2] - inside[0], 6), round(inside[3] - inside[1], 6)
    if width <= 0 or height <= 0:
        return None
    report.clipped += inside != edges
    return [inside[0], inside[1], width, height]


def to_coco(
    entries: list[tuple[str, list[Rect]]], folder: Path, categories: dict[int, str]
) -> tuple[dict, TensorBoxReport]:
    """Return the COCO data of the entries, and what was left out or changed on the way."""
    report, images, annotations = TensorBoxReport(), [], []
    owner: dict[str, str] = {}
    for image_id, (path, rects) in enumerate(entries, 1):
        name = find_image(folder, path)
        if name in owner:
            raise UserError(f"{path} and {owner[name]} both name {name}; put their rects into one entry")
        owner[name] = path
        width, height = image_size(folder / name)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for number, rect in enumerate(rects):
            box = convert_rect(rect, (width, height), report)
            if box is None:
                corners = ", ".join(f"{corner:g}" for corner in rect.corners)
                report.degenerate.append(f"{path}, rect {number} ({corners})")
                continue
            category = next(iter(categories)) if rect.class_id is None else rect.class_id
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category, "bbox": box}
            annotation |= {"area": round(box[2] * box[3], 6), "iscrowd": 0}
            annotations.append(annotation | ({} if rect.score is None else {"score": rect.score}))
    coco = {
        "info": {"description": "converted from TensorBox"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for id_, name in sorted(categories.items())],
    }
    return coco, report


def read_coco(path: Path, folder: Path) -> dict:
    """Return a COCO file's data after the checks that training makes, and that all images are there."""
    from detection.data.checks import examine, read_annotations

    data = read_annotations(path)
    _, problems = examine(data, path)
    if fatal := [problem for problem in problems if problem.fatal]:
        raise UserError(fatal[0].sentence)
    for image in data["images"]:
        if not (folder / image["file_name"]).is_file():
            raise UserError(f"{path}: no image {image['file_name']} in {folder}; give the right IMAGES folder")
    return data


def from_coco(data: dict, folder: Path, out: Path) -> tuple[list[dict], TensorBoxReport]:
    """Return the TensorBox list of COCO data, image paths relative to the folder of `out`, and what was left out."""
    report = TensorBoxReport()
    prefix = os.path.relpath(folder.resolve(), out.resolve().parent).replace(os.sep, "/")
    rects: dict[int, list[dict]] = {image["id"]: [] for image in data["images"]}
    for item in data["annotations"]:
        if item.get("iscrowd", 0):
            report.crowds += 1
            continue
        x, y, width, height = item["bbox"]
        rect: dict[str, Any] = dict(zip(CORNERS, (x, y, round(x + width, 6), round(y + height, 6)), strict=True))
        if len(data["categories"]) > 1:
            rect["classID"] = item["category_id"]
        rects[item["image_id"]].append(rect | ({"score": item["score"]} if "score" in item else {}))
    paths = {image["id"]: f"{prefix}/{image['file_name']}".removeprefix("./") for image in data["images"]}
    return [{"image_path": path, "rects": rects[id_]} for id_, path in paths.items()], report


def print_tensorbox_report(out: Path, coco: dict, report: TensorBoxReport) -> None:
    """Print what was written, boxes by class, and everything that was left out or changed."""
    real = [item for item in coco["annotations"] if not item.get("iscrowd", 0)]
    counts = Counter(item["category_id"] for item in real)
    classes = ", ".join(f"{category['name']} {counts[category['id']]}" for category in coco["categories"])
    print(f"{out}: {len(coco['images'])} images, {len(real)} boxes ({classes})")
    for title, count in (
        ("images without any box", len(coco["images"]) - len({item["image_id"] for item in real})),
        ("boxes with a score, kept", sum("score" in item for item in real)),
        ("corners swapped", report.swapped),
        ("boxes clipped to their image", report.clipped),
        ("regions to ignore (iscrowd 1), left out", report.crowds),
    ):
        if count:
            print(f"  {title}: {count}")
    if report.degenerate:
        lines = (f"    {line}" for line in report.degenerate)
        print(f"  boxes without size, left out: {len(report.degenerate)}", *lines, sep="\n")


@command_line
def main(argv: list[str] | None = None) -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(
        prog="detection convert --from tensorbox",
        description="Convert TensorBox-style annotations to one COCO JSON file, or back.",
    )
    parser.add_argument("source", type=Path, metavar="IN.json", help="TensorBox list, or with --back a COCO file")
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of images")
    parser.add_argument("out", type=Path, metavar="OUT.json", help="file to write")
    parser.add_argument("--back", action="store_true", help="convert COCO to TensorBox")
    parser.add_argument(
        "--categories",
        metavar="A.json|NAMES",
        help="take the categories of a COCO file, or number comma-separated names from 1 as classID does "
        "(default: one category `object`, or `class 3` for a classID of 3)",
    )
    options = parser.parse_args(argv)
    if options.back and options.categories is not None:
        raise UserError("--categories is not for --back: COCO files name their categories themselves")
    if not options.images.is_dir():
        raise UserError(f"{options.images} is no folder; give the folder of images as IMAGES")

    if options.back:
        coco = read_coco(options.source, options.images)
        entries, report = from_coco(coco, options.images, options.out)
        write_converted(options.out, entries)
    else:
        entries = read_tensorbox(options.source)
        categories = choose_categories(options.categories, [rect for _, rects in entries for rect in rects])
        coco, report = to_coco(entries, options.images, categories)
        write_converted(options.out, coco)
    print_tensorbox_report(options.out, coco, report)
