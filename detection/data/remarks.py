"""Remarks on a data set that do not break training, but matter to a person: cheap, without opening an image.

M objects (crowd regions left out), N images, K categories.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.data.box_readings import Placement
from detection.data.checks import Tables, shortened
from detection.data.coco_index import CocoIndex
from detection.data.format_evidence import Finding, find_reading
from detection.data.placeholders import placeholder_remark

MAX_DETECTIONS = 100
"""Of an image, which COCO's AP counts."""

_SAMPLED_BOXES = 200_000
_COMPARED_BOXES = 2_000  # of one file, each with each


@dataclass(frozen=True)
class Objects:
    """The objects of a data set.

    Attributes:
        ids: (M,) annotation ids.
        image_rows: (M,) positions of their images.
        category_rows: (M,) positions of their categories.
        boxes: (M, 4) xywh as in the file.
        areas: (M,) square pixels as in the file.
        image_ids: (N,).
        sizes: (N, 2) listed width and height.
        category_names: K names.
    """

    ids: np.ndarray
    image_rows: np.ndarray
    category_rows: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    image_ids: np.ndarray
    sizes: np.ndarray
    category_names: Sequence[str]


def objects_of_tables(tables: Tables) -> Objects:
    """Return the objects of a file's columns whose image and category are known."""
    rows = np.flatnonzero((tables.image_rows >= 0) & (tables.category_rows >= 0) & ~tables.iscrowd)
    return Objects(
        tables.annotation_ids[rows], tables.image_rows[rows], tables.category_rows[rows], tables.boxes[rows],
        tables.areas[rows], tables.image_ids, np.stack([tables.widths, tables.heights], axis=1), tables.category_names,
    )  # fmt: skip


def objects_of_index(index: CocoIndex, most: int = _SAMPLED_BOXES) -> Objects:
    """Return the objects of an index; of more than `most`, evenly spaced ones."""
    rows = np.flatnonzero(~index.iscrowd)
    rows = rows[:: -(-len(rows) // most) or 1]
    images = np.searchsorted(index.box_offsets, rows, side="right") - 1
    sizes = np.stack([index.widths, index.heights], axis=1)
    return Objects(
        index.annotation_ids[rows], images, index.labels[rows] - 1, index.boxes[rows], index.areas[rows],
        index.image_ids, sizes, [category.name for category in index.categories],
    )  # fmt: skip


def counted(items: Sequence[object], what: str, label: str = "id") -> list[str]:
    """Return a line that counts and names items; none if there are none."""
    return [f"{len(items)} {what}: {label} {shortened(list(items), 5)}"] if len(items) else []


def object_remarks(objects: Objects) -> list[str]:
    """Return remarks on the objects' number, labels and areas."""
    per_image = np.bincount(objects.image_rows, minlength=len(objects.image_ids))
    many = np.flatnonzero(per_image > MAX_DETECTIONS)
    most = per_image.max(initial=0)
    what = f"images have more than {MAX_DETECTIONS} objects (up to {most}), the detections that COCO's AP counts"
    remarks = counted(objects.image_ids[many].tolist(), what)
    same_box = np.column_stack([objects.image_rows, objects.boxes])
    same = np.column_stack([same_box, objects.category_rows])
    repeated, relabeled = _repeats(same), _repeats(same_box)
    remarks += counted(objects.ids[repeated].tolist(), "boxes repeat another of the same category and image")
    both = np.setdiff1d(relabeled, repeated)
    remarks += counted(objects.ids[both].tolist(), "boxes repeat another of their image with another category")
    thin = np.flatnonzero((objects.boxes[:, 2:] < 1).any(axis=1))
    remarks += counted(objects.ids[thin].tolist(), "boxes are less than a pixel wide or high")
    with np.errstate(over="ignore", invalid="ignore"):
        products = objects.boxes[:, 2] * objects.boxes[:, 3]
        larger = np.flatnonzero(objects.areas > 1.02 * products + 1)
    return remarks + counted(
        objects.ids[larger].tolist(), "areas are larger than their box (COCO's size classes go by area)"
    )


def name_remarks(names: Sequence[str]) -> list[str]:
    """Return a remark on category names that are the same but for case, spaces, hyphens and underscores."""
    alike = defaultdict(list)
    for name in dict.fromkeys(names):
        alike[re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold())].append(name)
    several = [repr(name) for group in alike.values() if len(group) > 1 for name in group]
    what = "categories have nearly another's name, and are learned as classes of their own"
    return counted(several, what, "name")


def divided_files(names: Sequence[str], objects: Objects) -> dict[str, list[int]]:
    """Return the images of each file that is listed as several, with different objects in at least two of them.

    Exporters that write an image for each box do so. Files of which two images have nearly the same box of a category
    are not among them: somebody annotated those twice. Nor are files of thousands of boxes, such as a placeholder that
    all images have.

    Args:
        names: of the N images' files.
        objects: of the images.
    """
    images: dict[str, list[int]] = defaultdict(list)
    if len(set(names)) < len(names):
        for row, name in enumerate(names):
            images[name].append(row)
    several = {name: rows for name, rows in images.items() if name and len(rows) > 1}
    order = np.argsort(objects.image_rows, kind="stable")
    owners = objects.image_rows[order]

    def is_divided(rows: list[int]) -> bool:
        parts = [order[slice(*np.searchsorted(owners, [row, row + 1]))] for row in rows]
        number = np.repeat(range(len(parts)), list(map(len, parts)))  # which image each object is of
        every = np.concatenate(parts)
        if len(every) > _COMPARED_BOXES:
            return False
        boxes, labels = objects.boxes[every], objects.category_rows[every]
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        sides = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)  # (m, m, 2)
        shared, areas = sides.clip(min=0).prod(axis=2), boxes[:, 2:].prod(axis=1)
        alike = shared > 0.7 * (areas[:, None] + areas - shared)
        alike &= (labels[:, None] == labels) & (number[:, None] != number)
        return len(np.unique(number)) > 1 and not alike.any()

    return {name: rows for name, rows in several.items() if is_divided(rows)}


def divided_remark(names: Sequence[str], remedy: str) -> list[str]:
    """Return the remark on the names of `divided_files`."""
    what = (
        f"files are listed as several images with different objects, which are background in one another; {remedy} "
        "joins them"
    )
    return counted(list(names), what, "file")


def _repeats(rows: np.ndarray) -> np.ndarray:
    """Return the positions of rows that an earlier row equals."""
    if len(rows) == 0:
        return np.zeros(0, dtype=np.int64)
    order = np.lexsort(rows.T)
    equal = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
    return np.sort(order[1:][equal])


def reading_of(objects: Objects) -> Finding | None:
    """Return another reading of the boxes that their images' sizes speak for, such as corners."""
    sizes = objects.sizes[objects.image_rows]
    return find_reading(objects.boxes, objects.image_rows, Placement(sizes, sizes, np.ones(len(sizes), dtype=int)))


def training_remarks(train: CocoIndex, val: CocoIndex, train_images: Path, val_images: Path) -> list[str]:
    """Return what a person who starts a training would want to know of its data, each a sentence with its file."""
    remarks = []
    for index, folder in dict.fromkeys([(train, train_images), (val, val_images)]):
        doctor = f"`detection doctor {index.path} {folder}`"
        objects = objects_of_index(index)
        if finding := reading_of(objects):
            remarks.append(f"{index.path}: {finding.sentence}; {doctor} examines it with the images, and converts")
        remarks += [f"{index.path}: {remark}" for remark in object_remarks(objects)]
        files = [index.file_name(row) for row in range(len(index))]
        if len(set(files)) < len(files):
            # Of all objects: among some of them those that repeat another's would seem to differ.
            divided = divided_files(files, objects_of_index(index, len(index.iscrowd) or 1))
            words = divided_remark([*divided], f"{doctor} with --fix OUT.json")
            remarks += [f"{index.path}: {remark}" for remark in words]
        names = [category.name for category in index.categories]
        remarks += [f"{index.path}: {remark}" for remark in name_remarks(names)]
        remarks += [f"{index.path}: {placeholder_remark(category.name)}" for category in index.left_out]
        if val.digest == train.digest:
            break
    return remarks + _shared_names(train, val, train_images, val_images) + _lacking(train, val)


def _shared_names(train: CocoIndex, val: CocoIndex, train_images: Path, val_images: Path) -> list[str]:
    if Path(train_images).resolve() != Path(val_images).resolve():
        return []
    known = {train.file_name(row) for row in range(len(train))}
    shared = sum(val.file_name(row) in known for row in range(len(val)))
    sentence = (
        f"{shared} of {len(val)} images of {val.path} are in {train.path} too: what is measured on them was trained on"
    )
    return [sentence] if shared else []


def _lacking(train: CocoIndex, val: CocoIndex) -> list[str]:
    remarks = []
    for index, other in ((train, val), (val, train)):
        names = {category.name for category in other.categories}
        used = np.bincount(index.labels[~index.iscrowd], minlength=len(index.categories) + 1)[1:]
        empty = [c.name for c, n in zip(index.categories, used, strict=True) if n == 0 and c.name in names]
        if empty:
            remarks.append(lacking_remark(index.path, empty))
    return remarks


def lacking_remark(path: object, names: Sequence[str]) -> str:
    """Return the sentence on categories of another split that a file has no box of."""
    number = "1 category" if len(names) == 1 else f"{len(names)} categories"
    return f"{path} has no box of {number}: {shortened(names, 5)}"
