"""A COCO annotation file as flat arrays, cached by the file's hash and shared between processes.

Python objects would be copied into every DataLoader worker as their reference counts are touched; flat arrays are not.
N images, M boxes, K categories; boxes of image i are rows `box_offsets[i]:box_offsets[i + 1]`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detection.data.array_cache import Content, cached_arrays, reopen_arrays
from detection.data.checks import (
    BOX_KINDS,
    Problem,
    Tables,
    examine,
    file_digest,
    partly_outside,
    read_annotations,
    rows_of,
)
from detection.errors import UserError

LARGE_BYTES = 1 << 26
"""Annotation files from this size on are read in pieces."""

# Part of an entry's name in the cache, so that a version with other arrays does not open those of this one.
_FORMAT = 2
_BLOCK = 1 << 20  # boxes that are compared at once

BadBoxes = Literal["error", "drop"]


@dataclass(frozen=True)
class Category:
    """A category under its original id."""

    id: int
    name: str


@dataclass(frozen=True, eq=False)
class CocoIndex:
    """All of an annotation file that training and evaluation need; made by `load_index`.

    Attributes:
        path: The JSON file.
        digest: Its sha256.
        categories: Sorted by id; a category's label is its position + 1 (0 is the background and never appears).
        image_ids: (N,) int64, in file order.
        widths: (N,) int32 pixels.
        heights: (N,) int32 pixels.
        box_offsets: (N + 1,) int64.
        boxes: (M, 4) float64 xywh in pixels, exactly as in the file (not clipped).
        labels: (M,) int32 from 1 to K.
        areas: (M,) float64 square pixels (the file's, which counts mask pixels; else width times height).
        iscrowd: (M,) bool.
        annotation_ids: (M,) int64.
        counts: `images`; `boxes` (crowd regions included); `crowd`; `images_without_boxes` (none but crowd regions);
            `clipped` (boxes partly outside their image); `dropped` (bad boxes left out).
        left_out: Categories that nothing has and that are no classes: see `detection.data.placeholders`.
    """

    path: Path
    digest: str
    categories: tuple[Category, ...]
    image_ids: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    box_offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    iscrowd: np.ndarray
    annotation_ids: np.ndarray
    counts: dict[str, int]
    _names: np.ndarray = field(repr=False)
    _name_offsets: np.ndarray = field(repr=False)
    _folder: Path | None = field(default=None, repr=False)
    left_out: tuple[Category, ...] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    def file_name(self, i: int) -> str:
        """Return the file name of image `i`, relative to the image folder."""
        return self._names[self._name_offsets[i] : self._name_offsets[i + 1]].tobytes().decode("utf-8", "surrogatepass")

    def to_coco(self) -> dict:
        """Return the ground truth as a COCO data set: original ids, raw boxes, areas and crowd flags."""
        category_ids = np.array([category.id for category in self.categories], dtype=np.int64)
        images = [
            {"id": id_, "file_name": self.file_name(i), "width": width, "height": height}
            for i, (id_, width, height) in enumerate(
                zip(self.image_ids.tolist(), self.widths.tolist(), self.heights.tolist(), strict=True)
            )
        ]
        columns = (
            self.annotation_ids,
            np.repeat(self.image_ids, np.diff(self.box_offsets)),
            category_ids[self.labels - 1],
            self.boxes,
            self.areas,
            self.iscrowd.astype(np.int64),
        )
        keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return {
            "images": images,
            "annotations": [dict(zip(keys, row, strict=True)) for row in rows],
            "categories": [{"id": category.id, "name": category.name} for category in self.categories],
        }

    def __reduce__(self) -> tuple[Callable, tuple]:
        # A loading process that is not forked opens the cached arrays again, in place of a copy for each process.
        if self._folder is None:
            return _from_content, (self.path, self.digest, _packed(self), None)
        return _reopen, (self.path, self.digest, self._folder)


_COUNTS = ("images", "boxes", "crowd", "images_without_boxes", "clipped", "dropped")
_ARRAYS = (
    "image_ids", "widths", "heights", "box_offsets", "boxes", "labels", "areas", "iscrowd", "annotation_ids",
    "_names", "_name_offsets",
)  # fmt: skip


def load_index(annotations: str | Path, *, bad_boxes: BadBoxes = "error", cache_dir: Path | None = None) -> CocoIndex:
    """Index an annotation file, or open the index that an earlier call made of the same content.

    Args:
        annotations: COCO JSON file.
        bad_boxes: `error` raises on a box that cannot be trained on (not four finite numbers, no area, entirely outside
            its image); `drop` leaves such boxes out and counts them.
        cache_dir: Where indexes are kept; `$DETECTION_CACHE`, else `~/.cache/detection`. Where that is not writable,
            the index stays in memory.

    Raises:
        UserError: Anything else wrong with the file; one sentence naming file, id, key and remedy.
    """
    path = Path(annotations)
    if bad_boxes not in ("error", "drop"):
        raise UserError(f'bad_boxes is {bad_boxes!r}, but must be "error" or "drop".')
    digest = file_digest(path)
    name = f"index-{digest[:32]}-{bad_boxes}-v{_FORMAT}"
    cached = cached_arrays(name, lambda: _packed(_build(path, digest, bad_boxes)), cache_dir, _is_sound)
    return _from_content(path, digest, *cached)


def _build(path: Path, digest: str, bad_boxes: BadBoxes) -> CocoIndex:
    drop = bad_boxes == "drop"
    if path.stat().st_size >= LARGE_BYTES and find_spec("msgspec"):
        from detection.data.large_file import examine_large

        tables, problems, dropped = examine_large(path, drop)
    else:
        tables, problems, dropped = examine_completely(path, drop)
    _raise_first(problems)
    columns = dict(vars(tables))
    del tables  # so that each column can go when it is sorted
    return _arrange(columns, path, digest, dropped)


def examine_completely(path: Path, drop: bool) -> tuple[Tables, list[Problem], np.ndarray]:
    """Run every check on a file; see `detection.data.large_file.examine_large`."""
    tables, problems = examine(read_annotations(path), path)
    bad = rows_of(problems, "annotations", *BOX_KINDS)
    left = [problem for problem in problems if not (drop and problem.kind in BOX_KINDS)]
    return tables, left, np.array(sorted(bad), dtype=np.int64)


def _raise_first(problems: list[Problem]) -> None:
    if not problems:
        return
    others = len(problems) - 1
    more = f" ({others} other kind{'s' * (others > 1)} of problem in this file: the doctor lists all)" if others else ""
    raise UserError(problems[0].sentence.removesuffix(".") + more + ".")


def _arrange(columns: dict[str, Any], path: Path, digest: str, dropped: np.ndarray) -> CocoIndex:
    """Sort annotations by image (in file order within one) and categories by id, and count.

    Columns of annotations are taken out of `columns` one by one, for Objects365 would not fit twice.
    """
    kept = np.ones(len(columns["annotation_ids"]), dtype=bool)
    kept[dropped] = False
    order = np.flatnonzero(kept)
    order = order[np.argsort(columns["image_rows"][order], kind="stable")]
    category_ids, category_names = columns["category_ids"], columns["category_names"]
    unused = np.setdiff1d(columns["placeholders"], columns["category_rows"][order]).astype(np.int64)
    by_id = np.argsort(category_ids)
    by_id = by_id[~np.isin(by_id, unused)]
    _require_own_names([category_names[row] for row in by_id], path)
    # COCO's ids have gaps (80 classes up to 90): labels count without them, in the order of ids.
    label_of_row = np.zeros(len(category_ids), dtype=np.int32)
    label_of_row[by_id] = np.arange(1, len(by_id) + 1)
    image_rows, boxes, areas, annotation_ids = (
        columns.pop(name)[order] for name in ("image_rows", "boxes", "areas", "annotation_ids")
    )
    iscrowd, labels = columns.pop("iscrowd")[order], label_of_row[columns.pop("category_rows")[order]]
    n, widths, heights = len(columns["image_ids"]), columns["widths"], columns["heights"]
    # JSON can hold half of a surrogate pair, which plain UTF-8 refuses.
    names = [name.encode("utf-8", "surrogatepass") for name in columns["file_names"]]
    crowd = np.bincount(image_rows[iscrowd], minlength=n)
    per_image = np.bincount(image_rows, minlength=n)
    clipped = 0
    for start in range(0, len(order), _BLOCK):
        rows, some = image_rows[start : start + _BLOCK], boxes[start : start + _BLOCK]
        clipped += int(partly_outside(some, widths[rows], heights[rows]).sum())
    return CocoIndex(
        path=path,
        digest=digest,
        categories=tuple(Category(int(category_ids[row]), category_names[row]) for row in by_id),
        image_ids=columns["image_ids"],
        widths=widths.astype(np.int32),
        heights=heights.astype(np.int32),
        box_offsets=offsets_of(per_image),
        boxes=boxes,
        labels=labels,
        areas=areas,
        iscrowd=iscrowd,
        annotation_ids=annotation_ids,
        counts={
            "images": n,
            "boxes": len(order),
            "crowd": int(iscrowd.sum()),
            "images_without_boxes": int((per_image == crowd).sum()),
            "clipped": clipped,
            "dropped": len(dropped),
        },
        left_out=tuple(Category(int(category_ids[row]), category_names[row]) for row in unused),
        _names=np.frombuffer(b"".join(names), dtype=np.uint8),
        _name_offsets=offsets_of(np.array([len(name) for name in names], dtype=np.int64)),
    )


def _require_own_names(names: list[str], path: Path) -> None:
    """Refuse a placeholder that has boxes and another category's name."""
    if len(set(names)) < len(names):
        raise UserError(
            f"{path}: category 0 has boxes and the name of another category: give it another name, or run `detection "
            f"doctor {path} IMAGES --fix OUT.json --merge-categories`."
        )


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return (n + 1,) int64: where each of n pieces of these lengths begins, and where the last ends."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _packed(index: CocoIndex) -> Content:
    lists = {"categories": index.categories, "left_out": index.left_out}
    meta: dict[str, Any] = {key: [[c.id, c.name] for c in listed] for key, listed in lists.items()}
    meta["counts"] = index.counts
    return {name: getattr(index, name) for name in _ARRAYS}, meta


def _is_sound(arrays: dict[str, np.ndarray], meta: dict) -> bool:
    """Whether cached arrays are an index's: their names, types and shapes, and what they point to."""
    n, m, k = len(arrays["image_ids"]), len(arrays["boxes"]), len(meta["categories"])
    expected = {
        "image_ids": ("int64", (n,)), "widths": ("int32", (n,)), "heights": ("int32", (n,)),
        "box_offsets": ("int64", (n + 1,)), "boxes": ("float64", (m, 4)), "labels": ("int32", (m,)),
        "areas": ("float64", (m,)), "iscrowd": ("bool", (m,)), "annotation_ids": ("int64", (m,)),
        "_names": ("uint8", (len(arrays["_names"]),)), "_name_offsets": ("int64", (n + 1,)),
    }  # fmt: skip
    if {name: (array.dtype.name, array.shape) for name, array in arrays.items()} != expected:
        return False
    for offsets, end in ((arrays["box_offsets"], m), (arrays["_name_offsets"], len(arrays["_names"]))):
        if offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < 0).any():
            return False
    labels = arrays["labels"]
    plain = all(meta[key] == [[int(id_), str(name)] for id_, name in meta[key]] for key in ("categories", "left_out"))
    plain = plain and {key: int(value) for key, value in meta["counts"].items()} == meta["counts"]
    return plain and set(meta["counts"]) == set(_COUNTS) and (m == 0 or (labels.min() >= 1 and labels.max() <= k))


def _from_content(path: Path, digest: str, content: Content, folder: Path | None) -> CocoIndex:
    arrays, meta = content
    categories, left_out = (tuple(Category(*pair) for pair in meta[key]) for key in ("categories", "left_out"))
    counts = meta["counts"]
    return CocoIndex(path, digest, categories=categories, counts=counts, left_out=left_out, _folder=folder, **arrays)


def _reopen(path: Path, digest: str, folder: Path) -> CocoIndex:
    return _from_content(path, digest, reopen_arrays(folder, f"the index of {path}"), folder)
