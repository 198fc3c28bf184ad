"""Remarks of the doctor on what is worth checking in a data set whose images it has opened."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from detection.data.checks import Tables, partly_outside, repeated, shortened
from detection.data.format_evidence import RAW, Finding, find_reading
from detection.data.image_checks import ImageFacts
from detection.data.image_paths import IMAGE_SUFFIXES
from detection.data.placeholders import placeholder_remark, placeholder_rows
from detection.data.readable_values import flag
from detection.data.remarks import (
    counted,
    divided_files,
    divided_remark,
    name_remarks,
    object_remarks,
    objects_of_tables,
)

DARK = 20
"""An image whose brightest pixel, of 255, is below this is nearly black."""


def format_finding(tables: Tables, facts: ImageFacts) -> Finding | None:
    """Return the reading of a data set's boxes for which there is evidence, if it is not the one given."""
    rows = np.flatnonzero(tables.image_rows >= 0)
    placement = facts.placement(tables, rows)
    return find_reading(tables.boxes[rows], tables.image_rows[rows], placement, facts.edges)


def data_set_remarks(data: dict, tables: Tables, facts: ImageFacts, folder: Path, finding: Finding | None) -> list[str]:
    """Return what does not break training, but a person would want to know."""
    objects = objects_of_tables(tables)
    ids = tables.image_ids
    # Of images that share an id nobody knows which one has the boxes.
    without = np.setdiff1d(np.flatnonzero(~repeated(ids)), objects.image_rows)
    remarks = counted(ids[without].tolist(), "images have no box")
    remarks += name_remarks([name for row, name in enumerate(tables.category_names) if row not in tables.placeholders])
    remarks += _empty_categories(data["categories"], tables, objects.category_rows)
    remarks += _ignored(data["annotations"])
    remarks += _rotated(data["annotations"])
    remarks += _brushed(data["annotations"])
    remarks += object_remarks(objects)
    if finding is None:  # else the format is what is wrong
        every = np.arange(len(tables.image_rows))
        sizes = facts.placement(tables, every).sizes if len(ids) else np.zeros((len(every), 2))
        outside = partly_outside(tables.boxes, *np.where(sizes > 0, sizes, np.inf).T)
        outside &= (tables.image_rows >= 0) & (tables.category_rows >= 0) & ~tables.iscrowd
        remarks += counted(tables.annotation_ids[outside].tolist(), "boxes reach outside their image and are clipped")
    divided = divided_files(tables.file_names, objects)
    remarks += divided_remark([*divided], "--fix OUT.json")
    names = Counter(name for name in tables.file_names if name)
    several = [name for name, times in names.items() if times > 1 and name not in divided]
    remarks += counted(several, "files are listed as several images", "file")
    remarks += _image_remarks(tables, facts, finding)
    return remarks + counted(_unlisted(tables.file_names, folder), "image files in the folder are not listed", "file")


def _empty_categories(entries: list[dict], tables: Tables, category_rows: np.ndarray) -> list[str]:
    used = np.bincount(category_rows, minlength=len(entries))
    empty = np.flatnonzero(used == 0).tolist()
    placeholders = [row for row in empty if row in placeholder_rows(entries)]
    named = [tables.category_names[row] for row in empty if row not in placeholders]
    remarks = counted(named, "categories have no box", "name")
    return remarks + [placeholder_remark(tables.category_names[row]) for row in placeholders]


def _ignored(annotations: list[dict]) -> list[str]:
    """Return the remark on objects that other tools leave out; here, as in pycocotools, `iscrowd` alone does so."""
    marked = [
        entry.get("id")
        for entry in annotations
        if not entry.get("iscrowd") and any(flag(entry.get(key)) for key in ("ignore", "difficult"))
    ]
    return counted(marked, "annotations have ignore or difficult 1, which is not read; iscrowd 1 leaves them out")


def _rotated(annotations: list[dict]) -> list[str]:
    """Return the remark on rotated boxes of CVAT, whose COCO export gives them as they were before the rotation."""
    rotated = []
    for entry in annotations:
        attributes = entry.get("attributes")
        angle = attributes.get("rotation") if isinstance(attributes, dict) else None
        # Upside down a box is itself.
        if isinstance(angle, int | float) and angle % 180 > 0:
            rotated.append(entry.get("id"))
    what = (
        "annotations have attributes.rotation, but bbox is the box before that in CVAT's COCO export: export CVAT for "
        "images 1.1, and `detection convert --from cvat`"
    )
    return counted(rotated, what)


def _brushed(annotations: list[dict]) -> list[str]:
    """Return the remark on objects that CVAT's COCO export makes crowd regions, as it does of every mask."""
    brushed = [
        entry.get("id")
        for entry in annotations
        if flag(entry.get("iscrowd"))
        and isinstance(entry.get("segmentation"), dict)
        and isinstance(entry.get("attributes"), dict)
    ]
    what = (
        "crowd regions have run lengths and attributes, as CVAT exports each object that was drawn with a brush; they "
        "are not learned: if each is one object, set its iscrowd to 0"
    )
    return counted(brushed, what)


def _image_remarks(tables: Tables, facts: ImageFacts, finding: Finding | None) -> list[str]:
    ids, remarks = tables.image_ids, []
    turned = [row for row, orientation in facts.orientations.items() if orientation != 1]
    if turned and finding is None and not upright_by_content(facts):
        remarks += counted(
            ids[turned].tolist(),
            "images are turned by their EXIF orientation; if the labeling tool showed them as stored, boxes are "
            "elsewhere: check with `detection browse`, and convert by --fix OUT.json --boxes raw",
        )
    depths = Counter(depth for depth in facts.depths.values() if depth != 8)
    for depth in sorted(depths):
        rows = [row for row, own in facts.depths.items() if own == depth]
        white = 2**depth - 1
        remarks += counted(ids[rows].tolist(), f"images have {depth} bits a color: {white} is read as white")
    dark = [row for row, brightest in facts.brightest.items() if brightest < DARK]
    remarks += counted(ids[dark].tolist(), f"images are nearly black (no pixel above {DARK - 1} of 255)")
    plain = [row for row in sorted(facts.plain) if facts.brightest[row] >= DARK]
    remarks += counted(ids[plain].tolist(), "images have one color alone (what is transparent is read as white)")
    digests = Counter(facts.digests.values())
    same = [row for row, digest in facts.digests.items() if digests[digest] > 1]
    if same:
        names = shortened([tables.file_names[row] for row in same], 5)
        remarks.append(f"{len(same)} images are equal to another, pixel by pixel: file {names}")
    return remarks


def upright_by_content(facts: ImageFacts) -> bool:
    """Return whether the images' content shows that the boxes belong to the upright images."""
    images, _, t, _ = facts.edges.of(RAW)
    return images >= 6 and t < -4


def _unlisted(file_names: list[str], folder: Path) -> list[str]:
    listed = {os.path.normpath(name) for name in file_names}
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    images = (os.path.relpath(path, folder) for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(image for image in images if image not in listed)
