"""A repaired copy of a COCO annotation file: what cannot be trained on is left out, the rest corrected and listed."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from detection.data.checks import Problem, Tables, clip_boxes, examine, partly_outside, shortened
from detection.data.image_checks import SIZE_KIND
from detection.errors import UserError

_SIZE_KINDS = {SIZE_KIND} | {f"{what} {key}" for what in ("bad", "missing") for key in ("width", "height")}
_NUMBER_KINDS = {"missing id", "bad id", "duplicate id"}


def repair(
    data: dict, path: Path, image_problems: list[Problem], sizes: dict[int, tuple[int, int]]
) -> tuple[dict, list[str]]:
    """Repair a parsed annotation file.

    Sizes are taken from the images; unreadable images, and annotations of unknown or left-out images, are left out, as
    are bad boxes; boxes are clipped to their images; annotation ids that are missing or not unique are given again.

    Args:
        data: The parsed file; not changed.
        path: The file, for the sentences.
        image_problems: From `examine_images`.
        sizes: From `examine_images`.

    Returns:
        The repaired data, and a line for each kind of change.

    Raises:
        UserError: Categories are wrong (only a person knows what was meant), or no image would be left.
    """
    _, problems = examine(data, path)
    notes: list[str] = []
    if wrong := [problem for problem in problems if problem.section == "categories"]:
        raise UserError(f"{wrong[0].sentence.removesuffix('.')} (categories cannot be repaired automatically).")
    found = [problem for problem in problems if problem.section == "images"] + image_problems
    fixed = {**data, "images": _repaired_images(data["images"], found, sizes, notes)}
    if not fixed["images"]:
        raise UserError(f"{path}: no image would be left after repair: check the image folder.")
    tables, problems = examine(fixed, path)
    fixed["annotations"] = _repaired_annotations(fixed["annotations"], tables, problems, notes)
    return fixed, notes


def _repaired_images(
    images: list[dict], problems: list[Problem], sizes: dict[int, tuple[int, int]], notes: list[str]
) -> list[dict]:
    gone: set[int] = set()
    for problem in problems:
        rows = set(problem.rows)
        if problem.kind in _SIZE_KINDS:
            rows -= set(sizes)
        if problem.kind == "duplicate id":
            rows -= _first_of_equals(images, problem.rows)
        _note(notes, "left out", "images", problem.kind, images, rows - gone)
        gone |= rows
    listed = [(image.get("width"), image.get("height")) for image in images]
    corrected = {row for row, size in sizes.items() if row not in gone and size != listed[row]}
    _note(notes, "corrected the size of", "images", SIZE_KIND, images, corrected)
    return [
        {**image, "width": sizes[row][0], "height": sizes[row][1]} if row in corrected else image
        for row, image in enumerate(images)
        if row not in gone
    ]


def _first_of_equals(images: list[dict], rows: Collection[int]) -> set[int]:
    """Return, of images that share an id, the first of those that are equal in everything; of others, none."""
    by_id: dict[object, list[int]] = {}
    for row in rows:
        by_id.setdefault(images[row]["id"], []).append(row)
    return {group[0] for group in by_id.values() if all(images[row] == images[group[0]] for row in group)}


def _repaired_annotations(
    annotations: list[dict], tables: Tables, problems: list[Problem], notes: list[str]
) -> list[dict]:
    gone: set[int] = set()
    area_rows: set[int] = set()
    of_annotations = [problem for problem in problems if problem.section == "annotations"]
    for problem in of_annotations:
        if problem.kind == "bad area":
            area_rows |= set(problem.rows)
        elif problem.kind not in _NUMBER_KINDS:
            _note(notes, "left out", "annotations", problem.kind, annotations, set(problem.rows) - gone)
            gone |= set(problem.rows)
    kept = [row for row in range(len(annotations)) if row not in gone]
    entries = {row: dict(annotations[row]) for row in kept}
    for row in area_rows - gone:
        entries[row]["area"] = float(tables.areas[row])
    _note(notes, "set to width × height the area of", "annotations", "bad area", annotations, area_rows - gone)
    _clip(entries, tables, notes)
    if any(problem.kind in _NUMBER_KINDS for problem in of_annotations):
        notes.append(f"renumbered all {len(kept)} annotations from 1: some shared an id or had none")
        for number, row in enumerate(kept, start=1):
            entries[row]["id"] = number
    return list(entries.values())


def _clip(entries: dict[int, dict], tables: Tables, notes: list[str]) -> None:
    rows = np.array(list(entries), dtype=np.int64)
    images = tables.image_rows[rows]
    widths, heights = tables.widths[images], tables.heights[images]
    outside = np.flatnonzero(partly_outside(tables.boxes[rows], widths, heights))
    corners = clip_boxes(tables.boxes[rows], widths, heights).astype(np.float64)
    for k in outside.tolist():
        x1, y1, x2, y2 = corners[k].tolist()
        _, _, width, height = tables.boxes[rows[k]].tolist()
        entry, area = entries[int(rows[k])], (x2 - x1) * (y2 - y1)
        entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        if "area" in entry:
            # An area that was the box's stays the box's; one that counts mask pixels can only be too large.
            was_box = abs(entry["area"] - width * height) <= 1e-3 * width * height
            entry["area"] = area if was_box else min(entry["area"], area)
    _note(notes, "clipped to their image", "annotations", "box partly outside", entries, rows[outside].tolist())


def _note(
    notes: list[str], done: str, noun: str, kind: str, entries: list[dict] | dict[int, dict], rows: Collection[int]
) -> None:
    if rows:
        ids = [entries[row].get("id", f"number {row}") for row in sorted(rows)]
        notes.append(f"{done} {len(rows)} {noun} ({kind}): id {shortened(ids)}")
