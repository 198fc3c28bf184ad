"""A repaired copy of a COCO annotation file: what is readable is read, and every kind of change listed with its count.

No object becomes background: an annotation that cannot be kept takes its image with it, unless `drop_boxes` is given.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.data.box_readings import AS_GIVEN, Reading
from detection.data.category_repair import repaired_categories, shifted_ids
from detection.data.checks import Problem, Tables, clip_boxes, examine, partly_outside, shortened
from detection.data.image_checks import SIZE_KIND, ImageFacts
from detection.data.reading_repair import converted, is_area
from detection.data.remarks import divided_files, objects_of_tables
from detection.errors import UserError

_SIZE_KINDS = {SIZE_KIND} | {f"{what} {key}" for what in ("bad", "missing") for key in ("width", "height")}
_NUMBER_KINDS = {"missing id", "bad id", "duplicate id"}
_NO_IMAGE_KINDS = {"missing image_id", "bad image_id"}


@dataclass(frozen=True)
class RepairOptions:
    """Decisions of a person about a repair.

    Attributes:
        reading: what the boxes mean; None: as given.
        drop_boxes: leave out annotations that cannot be kept, and keep their images.
        merge_categories: make one category of those that share a name.
        categories: id of each category name that the copy is to have; None: as they are.
    """

    reading: Reading | None = None
    drop_boxes: bool = False
    merge_categories: bool = False
    categories: dict[str, int] | None = None


class Notes(list[str]):
    """A line for each kind of change."""

    def changed(self, done: str, noun: str, kind: str, ids: Collection[object]) -> None:
        """Note that entries changed, if there are any."""
        if ids:
            self.append(f"{done} {len(ids)} {noun}{'s' * (len(ids) > 1)} ({kind}): id {shortened(list(ids))}")


def repair(
    data: dict,
    path: Path,
    image_problems: list[Problem],
    facts: ImageFacts,
    of_masks: Sequence[int],
    options: RepairOptions,
    notes: Notes,
) -> dict:
    """Repair an annotation file, whose values and file names are read already.

    Args:
        data: The file; not changed.
        path: The file, for the sentences.
        image_problems: From `examine_images`.
        facts: From `examine_images`.
        of_masks: Positions of the annotations whose boxes were taken from their masks.
        options: A person's decisions.
        notes: Gets a line for each kind of change.

    Raises:
        UserError: Only a person knows what was meant, or nothing would be left.
    """
    data = repaired_categories(data, path, options, notes)
    if not options.drop_boxes and (shifted := shifted_ids(data)):
        raise UserError(
            f"{path}: {shifted}: correct either, or add --drop-boxes to leave out those that are not in the list."
        )
    tables, problems = examine(data, path)
    data = converted(data, tables, facts, options.reading or AS_GIVEN, of_masks, notes)
    found = [problem for problem in problems if problem.section == "images"] + image_problems
    gone = _unusable_images(data["images"], found, facts, notes)
    images = _sized(data["images"], facts, gone, notes)
    # Boxes are examined in their images' real sizes, and each annotation is followed to its image by position.
    tables, problems = examine({**data, "images": images}, path)
    lost, taken = _unusable_annotations(data["annotations"], tables, problems, gone, path, options, notes)
    kept = [row for row in range(len(images)) if row not in gone | taken]
    if not kept:
        raise UserError(f"{path}: no image would be left after repair ({'; '.join(notes)}).")
    left = np.isin(tables.image_rows, kept)
    rows = [row for row in range(len(data["annotations"])) if left[row] and row not in lost]
    entries = {row: dict(data["annotations"][row]) for row in rows}
    _set_areas(entries, tables, notes)
    _clip(entries, tables, notes)
    _renumber(entries, problems, notes)
    if not any(not entry.get("iscrowd") for entry in entries.values()):
        raise UserError(f"{path}: no box would be left after repair ({'; '.join(notes) or 'the file has none'}).")
    fixed = {**data, "images": [images[row] for row in kept], "annotations": list(entries.values())}
    return _with_joined_images(fixed, path, notes)


def _with_joined_images(data: dict, path: Path, notes: Notes) -> dict:
    """Return the data with one image of each file that was listed as several with different objects."""
    tables, _ = examine(data, path)
    target: dict[object, object] = {}
    for rows in divided_files(tables.file_names, objects_of_tables(tables)).values():
        first, *others = (data["images"][row]["id"] for row in rows)
        target |= dict.fromkeys(others, first)
    notes.changed("joined", "image", "with another of the same file, which had others of its objects", list(target))
    images = [image for image in data["images"] if image["id"] not in target]
    annotations = [
        {**entry, "image_id": target[entry["image_id"]]} if entry["image_id"] in target else entry
        for entry in data["annotations"]
    ]
    return {**data, "images": images, "annotations": annotations}


def _ids(entries: Sequence[dict] | dict[int, dict], rows: Iterable[int]) -> list[object]:
    return [entries[row].get("id", f"number {row}") for row in sorted(rows)]


def _unusable_images(images: list[dict], problems: list[Problem], facts: ImageFacts, notes: Notes) -> set[int]:
    gone: set[int] = set()
    for problem in problems:
        rows = set(problem.rows)
        if problem.kind in _SIZE_KINDS:
            rows -= set(facts.sizes)
        if problem.kind == "duplicate id":
            rows -= _first_of_equals(images, problem.rows)
        kind = problem.kind
        if kind == "duplicate id":
            kind += "; nobody knows whose the annotations are: if two files were joined, join them with new ids"
        notes.changed("left out", "image", kind, _ids(images, rows - gone))
        gone |= rows
    return gone


def _first_of_equals(images: list[dict], rows: Collection[int]) -> set[int]:
    """Return, of images that share an id, the first of those that are equal in everything; of others, none."""
    by_id: dict[object, list[int]] = {}
    for row in rows:
        by_id.setdefault(images[row]["id"], []).append(row)
    return {group[0] for group in by_id.values() if all(images[row] == images[group[0]] for row in group)}


def _sized(images: list[dict], facts: ImageFacts, gone: set[int], notes: Notes) -> list[dict]:
    """Give every readable image its file's size."""
    listed = [(image.get("width"), image.get("height")) for image in images]
    differing = {row for row, size in facts.sizes.items() if size != listed[row]}
    notes.changed("corrected the size of", "image", SIZE_KIND, _ids(images, differing - gone))
    return [
        {**image, "width": facts.sizes[row][0], "height": facts.sizes[row][1]} if row in differing else image
        for row, image in enumerate(images)
    ]


def _unusable_annotations(
    annotations: list[dict],
    tables: Tables,
    problems: list[Problem],
    gone: set[int],
    path: Path,
    options: RepairOptions,
    notes: Notes,
) -> tuple[set[int], set[int]]:
    """Return annotations that cannot be kept, and images that go with them."""
    lost: set[int] = set()
    taken: set[int] = set()
    for problem in problems:
        if problem.section != "annotations" or problem.kind in _NUMBER_KINDS | {"bad area"}:
            continue
        rows = {row for row in problem.rows if int(tables.image_rows[row]) not in gone} - lost
        if rows and problem.kind in _NO_IMAGE_KINDS and not options.drop_boxes:
            raise UserError(
                f"{problem.sentence.split(': correct it')[0].split(': add it')[0]}: nobody knows in which image its "
                "object is, which would become background; add --drop-boxes to leave such annotations out."
            )
        owners = {int(tables.image_rows[row]) for row in rows} - {-1}
        lost |= rows
        notes.changed("left out", "annotation", problem.kind, _ids(annotations, rows))
        if problem.kind == "unknown image" and rows and not options.drop_boxes:
            # Where an image's own id is wrong, its objects are these.
            empty = set(range(len(tables.image_ids))) - set(tables.image_rows.tolist()) - gone - taken
            what = "without any box, any of which may be theirs; --drop-boxes keeps them"
            notes.changed("left out with them", "image", what, tables.image_ids[sorted(empty)].tolist())
            taken |= empty
        if not options.drop_boxes:
            notes.changed(
                "left out with them", "image", "--drop-boxes keeps them", tables.image_ids[sorted(owners)].tolist()
            )
            taken |= owners
    return lost, taken


def _set_areas(entries: dict[int, dict], tables: Tables, notes: Notes) -> None:
    """Give width times height as the area where there is none or a bad one."""
    rows = [row for row, entry in entries.items() if not is_area(entry.get("area"))]
    for row in rows:
        entries[row]["area"] = float(tables.areas[row])
    notes.changed("set to width × height the area of", "annotation", "missing or bad area", _ids(entries, rows))


def _clip(entries: dict[int, dict], tables: Tables, notes: Notes) -> None:
    rows = np.array(list(entries), dtype=np.int64)
    images = tables.image_rows[rows]
    widths, heights = tables.widths[images], tables.heights[images]
    outside = np.flatnonzero(partly_outside(tables.boxes[rows], widths, heights))
    corners = clip_boxes(tables.boxes[rows], widths, heights).astype(np.float64)
    cut = []
    for k in outside.tolist():
        x1, y1, x2, y2 = corners[k].tolist()
        _, _, width, height = tables.boxes[rows[k]].tolist()
        entry, area = entries[int(rows[k])], (x2 - x1) * (y2 - y1)
        cut.append(1 - area / (width * height))
        entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        # An area that was the box's stays the box's; one that counts mask pixels can only be too large.
        was_box = abs(entry["area"] - width * height) <= 1e-3 * width * height
        entry["area"] = area if was_box else min(entry["area"], area)
    if cut:
        worst = entries[int(rows[outside[int(np.argmax(cut))]])].get("id")
        kind = f"cut by {np.mean(cut):.0%} of their area on average, at most {max(cut):.0%} of annotation {worst}"
        notes.changed("clipped to their image", "annotation", kind, _ids(entries, rows[outside].tolist()))


def _renumber(entries: dict[int, dict], problems: list[Problem], notes: Notes) -> None:
    if any(problem.kind in _NUMBER_KINDS for problem in problems if problem.section == "annotations"):
        notes.append(f"renumbered all {len(entries)} annotations from 1: some shared an id or had none")
        for number, entry in enumerate(entries.values(), start=1):
            entry["id"] = number
