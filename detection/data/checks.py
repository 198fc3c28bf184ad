"""Every check of a COCO annotation file, written once: the index raises the first problem, the doctor prints all.

Checks run over columns (`[entry["id"] for entry in entries]`, then numpy); single entries are examined only where a
column is found wrong, so that 860 thousand boxes take seconds. M annotations, N images.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.image_paths import leaves_folder
from detection.data.json_files import SECTIONS, read_json, require_file, unreadable
from detection.data.placeholders import placeholder_rows
from detection.errors import UserError

BOX_KINDS = frozenset({"malformed box", "non-finite box", "box without area", "box outside its image"})
"""The kinds of problem that `bad_boxes="drop"` leaves out instead of stopping."""

_MISSING = object()


@dataclass(frozen=True)
class Problem:
    """Something wrong with an annotation file, with which training would break or quietly learn something wrong.

    Attributes:
        kind: A few words that name the check, the same for every finding of one check.
        sentence: What a person reads: file, first offender, how many more, remedy.
        section: Which list of the file: `categories`, `images` or `annotations`.
        rows: Positions of the offenders in that list.
        ids: The offenders' ids as the file has them; None where there is none.
    """

    kind: str
    sentence: str
    section: str
    rows: tuple[int, ...]
    ids: tuple[object, ...]


@dataclass(frozen=True)
class Tables:
    """The three lists of an annotation file as columns; cells with a problem hold a placeholder (0, "" or NaN).

    Attributes:
        category_ids: Ids in file order.
        category_names: Names in file order.
        image_ids: (N,) int64.
        widths: (N,) int64 pixels.
        heights: (N,) int64 pixels.
        file_names: N names, relative to the image folder.
        annotation_ids: (M,) int64.
        image_rows: (M,) position of each annotation's image in the file; -1 unknown.
        category_rows: (M,) position of its category; -1 unknown.
        boxes: (M, 4) float64 xywh as in the file.
        areas: (M,) float64 square pixels; width times height where the file has none.
        iscrowd: (M,) bool.
        placeholders: Positions of the categories of `placeholder_rows`.
    """

    category_ids: np.ndarray
    category_names: list[str]
    image_ids: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    file_names: list[str]
    annotation_ids: np.ndarray
    image_rows: np.ndarray
    category_rows: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    iscrowd: np.ndarray
    placeholders: tuple[int, ...] = ()


def shortened(items: Sequence[object], most: int = 10) -> str:
    """Return the first items with commas between, and an ellipsis where there are more."""
    return ", ".join(map(str, items[:most])) + (", …" if len(items) > most else "")


def file_digest(path: Path) -> str:
    """Return the sha256 of a file as hex; a `UserError` if it cannot be read."""
    try:
        require_file(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from None


def read_annotations(path: Path) -> dict:
    """Parse a COCO annotation file and check its outer shape.

    Returns:
        The file's dictionary, with lists of dictionaries under `images`, `annotations` and `categories`.

    Raises:
        UserError: as `read_json`, or it is not a COCO annotation file.
    """
    return require_coco(read_json(path), path)


def require_coco(data: Any, path: Path) -> dict:
    """Return what was parsed from a file; a `UserError` unless it has the outer shape of COCO annotations."""
    expected = "a COCO annotation file is an object with images, annotations and categories"
    if isinstance(data, list) and data and isinstance(data[0], dict) and "score" in data[0]:
        raise UserError(f"{path} is a results file (a list of detections with scores), but {expected}.")
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__} at its top, but {expected}.")
    for key in SECTIONS:
        if key not in data:
            raise UserError(f"{path} has no key '{key}': {expected}.")
        if not isinstance(data[key], list):
            raise UserError(f"{path}: '{key}' is a {type(data[key]).__name__}, but must be a list of objects.")
        if set(map(type, data[key])) - {dict}:
            row = next(row for row, entry in enumerate(data[key]) if type(entry) is not dict)
            raise UserError(f"{path}: entry {row} of '{key}' is {data[key][row]!r:.40}, but must be an object.")
    return data


def repeated(ids: np.ndarray) -> np.ndarray:
    """Return (n,) bool: which ids occur more than once."""
    # Ascending, as in most files: none can repeat, and nothing need be sorted.
    if (ids[1:] > ids[:-1]).all():
        return np.zeros(len(ids), dtype=bool)
    ordered = np.sort(ids)
    return np.isin(ids, ordered[1:][ordered[1:] == ordered[:-1]])


def nameable(ids: np.ndarray, problems: Sequence[Problem], section: str) -> np.ndarray:
    """Return a section's ids with numbers that no reference has in place of the placeholders of bad ones."""
    bad = list(rows_of(problems, section, "missing id", "bad id"))
    ids = ids.copy()
    ids[bad] = np.iinfo(np.int64).min + np.array(bad, dtype=np.int64)
    return ids


def rows_of(problems: Sequence[Problem], section: str, *kinds: str) -> set[int]:
    """Return the rows of a section that have a problem of these kinds."""
    return {row for p in problems if p.section == section and p.kind in kinds for row in p.rows}


def clip_boxes(boxes: np.ndarray, widths: np.ndarray | int, heights: np.ndarray | int) -> np.ndarray:
    """Clip (M, 4) xywh boxes to images of these (M,) sizes in pixels, in the precision that training uses.

    Returns:
        (M, 4) float32 xyxy within the image; a box that is outside, or too thin for float32, has no area.
    """
    x, y, w, h = boxes.astype(np.float64, copy=False).T
    with np.errstate(over="ignore", invalid="ignore"):
        corners = (np.clip(x, 0, widths), np.clip(y, 0, heights), np.clip(x + w, 0, widths), np.clip(y + h, 0, heights))
    return np.stack(corners, axis=1).astype(np.float32)


def partly_outside(boxes: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Return (M,) bool: which xywh boxes reach over their image's border by more than rounding of decimals."""
    x, y, w, h = boxes.T
    slack = 1e-6
    return (x < -slack) | (y < -slack) | (x + w > widths + slack) | (y + h > heights + slack)


def examine(data: dict, path: Path) -> tuple[Tables, list[Problem]]:
    """Run every check on the data that `read_annotations` returned for a file.

    Returns:
        The file's columns, and all problems: categories first, then images, then annotations.
    """
    categories = Section(path, "categories", data["categories"])
    category_ids = categories.ids()
    category_names = categories.column("name", {str}, "a text", "")
    placeholders = placeholder_rows(categories.entries)
    categories.unique(category_names, "name", besides=placeholders)

    images = Section(path, "images", data["images"])
    image_ids = images.ids()
    file_names = images.column("file_name", {str}, "a text", "")
    escaping = [row for row, name in enumerate(file_names) if leaves_folder(name)]
    escaping = [row for row in escaping if isinstance(images.entries[row].get("file_name"), str)]
    images.report(
        "file name leaves the folder",
        escaping,
        lambda row: f"has file_name {file_names[row]!r}, which is no path inside the image folder",
        "make it relative to the folder",
    )
    widths, heights = (images.sizes(key) for key in ("width", "height"))

    annotations = Section(path, "annotations", data["annotations"])
    annotation_ids = annotations.ids()
    image_rows = annotations.references("image_id", nameable(image_ids, images.problems, "images"), "image")
    known_categories = nameable(category_ids, categories.problems, "categories")
    category_rows = annotations.references("category_id", known_categories, "category")
    known = image_rows >= 0
    safe_rows = np.where(known, image_rows, 0)
    # A box of an image of unknown size, which is reported already, is not measured against one.
    no_limit = np.iinfo(np.int64).max
    limits = [np.where(known, size[safe_rows], 0) if len(size) else np.zeros(len(known)) for size in (widths, heights)]
    boxes = annotations.boxes(*(np.where(limit > 0, limit, no_limit) for limit in limits))
    areas = annotations.areas(boxes)
    iscrowd = annotations.flags("iscrowd")

    tables = Tables(
        category_ids, category_names, image_ids, widths, heights, file_names,
        annotation_ids, image_rows, category_rows, boxes, areas, iscrowd, placeholders,
    )  # fmt: skip
    return tables, categories.problems + images.problems + annotations.problems


class Section:
    """One of the three lists: pulls out columns, and keeps what is wrong with them."""

    def __init__(self, path: Path, name: str, entries: list[dict]) -> None:
        self.path = path
        self.name = name
        self.noun = {"categories": "category"}.get(name, name.removesuffix("s"))
        self.entries = entries
        self.problems: list[Problem] = []
        self.fix = f"run `detection doctor {path} IMAGES --fix OUT.json`"

    def report(self, kind: str, rows: Sequence[int], what: Callable[[int], str], remedy: str | None = None) -> None:
        """Note a problem of these rows, if any; `what` completes the sentence "annotation 7 …" for the first.

        Without a remedy, the user is asked to correct it or to let the doctor do so.
        """
        if len(rows) == 0:
            return
        remedy = remedy or f"correct it, or {self.fix}"
        first, more = int(rows[0]), len(rows) - 1
        ids = tuple(self.entries[row].get("id") for row in rows)
        who = f"{self.noun} {ids[0]!r}" if ids[0] is not None else f"{self.noun} number {first} of the list"
        count = f" (and {more} more)" if more else ""
        sentence = f"{self.path}: {who} {what(first)}{count}: {remedy}."
        self.problems.append(Problem(kind, sentence, self.name, tuple(map(int, rows)), ids))

    def column(self, key: str, types: set[type], wanted: str, placeholder: object, default: object = _MISSING) -> list:
        """Return a key's values; `default` stands for a missing one, `placeholder` for one of a wrong type."""
        values = [entry.get(key, default) for entry in self.entries]
        if set(map(type, values)) <= types:
            return values
        missing = [row for row, value in enumerate(values) if value is _MISSING]
        self.report(f"missing {key}", missing, lambda _: f"has no key '{key}'", f"add it, or {self.fix}")
        wrong = [row for row, value in enumerate(values) if value is not _MISSING and type(value) not in types]
        self.report(f"bad {key}", wrong, lambda row: f"has {key} {values[row]!r:.60}, which is not {wanted}")
        for row in missing + wrong:
            values[row] = placeholder
        return values

    def integers(self, key: str) -> np.ndarray:
        """Return a key's values, which must be integers of at most 64 bits, as int64; 0 stands for a bad one."""
        values = self.column(key, {int}, "an integer", 0)
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            large = [row for row, value in enumerate(values) if not -(2**63) <= value < 2**63]
            self.report(f"bad {key}", large, lambda row: f"has {key} {values[row]}, over 64 bits")
            return np.array([value if -(2**63) <= value < 2**63 else 0 for value in values], dtype=np.int64)

    def ids(self) -> np.ndarray:
        """Return the section's ids, checked to be present, integer and unique."""
        if not self.entries and self.name != "annotations":
            sentence = f"{self.path} lists no {self.name}: check the converter."
            self.problems.append(Problem(f"no {self.name}", sentence, self.name, (), ()))
        ids = self.integers("id")
        self.unique(ids, "id")
        return ids

    def unique(self, values: Sequence | np.ndarray, key: str, besides: Sequence[int] = ()) -> None:
        """Report rows whose value another row has too (all of them: nobody knows which one is meant), but `besides`."""
        # Placeholders are reported already as missing or of a wrong type, and may be another's value.
        rows = np.delete(np.arange(len(values)), [*self._reported(key), *besides])
        merge = self.fix.removesuffix("`") + " --merge-categories`"
        self.report(
            f"duplicate {key}",
            rows[repeated(np.asarray(values)[rows])].tolist(),
            lambda row: f"has {key} {values[row]!s}, which another {self.noun} has too",
            f"give every {self.noun} its own, or {merge if key == 'name' else self.fix}",
        )

    def _reported(self, key: str) -> set[int]:
        """Return the rows whose value of a key is reported as missing or bad already."""
        return rows_of(self.problems, self.name, f"missing {key}", f"bad {key}")

    def sizes(self, key: str) -> np.ndarray:
        """Return image widths or heights, which must be positive integers; 0 stands for a bad one."""
        values = self.integers(key)
        rows = np.flatnonzero((values <= 0) | (values > 2**31 - 1)).tolist()
        wrong = sorted(set(rows) - self._reported(key))
        self.report(
            f"bad {key}", wrong, lambda row: f"has {key} {values[row]}, which is not a positive number of pixels"
        )
        values[wrong] = 0
        return values

    def references(self, key: str, ids: np.ndarray, noun: str) -> np.ndarray:
        """Return the positions in `ids` of the ids that a key names; -1, and a problem, for unknown ones."""
        values = self.integers(key)
        reported = self._reported(key)
        if len(ids) == 0:
            rows = np.full(len(values), -1)
        else:
            order = np.argsort(ids, kind="stable")
            rows = order[np.minimum(np.searchsorted(ids, values, sorter=order), len(ids) - 1)]
            rows[ids[rows] != values] = -1
        if reported:
            rows[list(reported)] = -1
        unknown = sorted({*np.flatnonzero(rows < 0).tolist()} - reported)
        self.report(
            f"unknown {noun}",
            unknown,
            lambda row: f"names {key} {values[row]}, but the file lists no such {noun}",
            f"add the {noun}, or {self.fix}",
        )
        return rows

    def boxes(self, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """Return (M, 4) boxes, reporting those with which nothing can be trained.

        The (M,) widths and heights are those of the boxes' images, very large where unknown.
        """
        remedy = f'{self.fix} to read it or to leave its image out, or set bad_boxes="drop"'
        raw = [entry.get("bbox", _MISSING) for entry in self.entries]
        boxes = _plain_boxes(raw)
        malformed = np.zeros(len(raw), dtype=bool)
        if boxes is None:
            missing = [row for row, box in enumerate(raw) if box is _MISSING]
            self.report("missing bbox", missing, lambda _: "has no key 'bbox'", f"add it, or {self.fix}")
            fitting = [_plain_boxes([box]) for box in raw]
            malformed = np.array([box is None for box in fitting], dtype=bool)
            boxes = np.concatenate([np.full((1, 4), np.nan) if box is None else box for box in fitting])
            wrong = np.setdiff1d(np.flatnonzero(malformed), missing)
            self.report(
                "malformed box", wrong.tolist(),
                lambda row: f"has bbox {raw[row]!r:.60}, which is not four numbers [x, y, width, height]", remedy,
            )  # fmt: skip
        finite = np.isfinite(boxes).all(axis=1)
        solid = (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
        clipped = clip_boxes(boxes, widths, heights)
        inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        findings = [
            ("non-finite box", ~malformed & ~finite, "with a number that is NaN or infinite"),
            ("box without area", finite & ~solid, "whose width or height is not positive"),
            ("box outside its image", finite & solid & ~inside, "which has no area inside the image"),
        ]
        for kind, bad, words in findings:
            rows = np.flatnonzero(bad).tolist()
            self.report(kind, rows, lambda row, words=words: f"has bbox {raw[row]}, {words}", remedy)
        return boxes

    def areas(self, boxes: np.ndarray) -> np.ndarray:
        """Return (M,) areas; width times height where the file gives none or a bad one."""
        values = self.column("area", {int, float, type(None)}, "a number", None, default=None)
        present = [row for row, entry in enumerate(self.entries) if values[row] is None and "area" in entry]
        try:
            areas = np.array(values, dtype=np.float64)
        except OverflowError:
            areas = np.array([np.inf if isinstance(v, int) and v > 1e300 else v for v in values], dtype=np.float64)
        given = np.array([value is not None for value in values], dtype=bool)
        wrong = np.flatnonzero(given & ~(np.isfinite(areas) & (areas >= 0)))
        wrong = sorted({*wrong.tolist(), *present} - self._reported("area"))
        self.report(
            "bad area",
            wrong,
            lambda row: f"has area {self.entries[row]['area']!r}, which is not a number of square pixels",
        )
        given[wrong] = False
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(given, areas, boxes[:, 2] * boxes[:, 3])

    def flags(self, key: str) -> np.ndarray:
        """Return (M,) bool of a key that is 0 or 1, and 0 where it is not given."""
        values = self.column(key, {int, bool}, "0 or 1", 0, default=0)
        wrong = [row for row, value in enumerate(values) if value not in (0, 1)]
        self.report(f"bad {key}", wrong, lambda row: f"has {key} {values[row]}, not 0 or 1")
        return np.array(values, dtype=bool)


def _plain_boxes(raw: list) -> np.ndarray | None:
    """Return the boxes as (M, 4) float64, or None unless every one is a list of four numbers."""
    if not set(map(type, raw)) <= {list} or not set(map(len, raw)) <= {4}:
        return None
    numbers = list(chain.from_iterable(raw))
    if not set(map(type, numbers)) <= {int, float}:
        return None
    try:
        return np.array(numbers, dtype=np.float64).reshape(-1, 4)  # (M, 4)
    except OverflowError:
        return None
