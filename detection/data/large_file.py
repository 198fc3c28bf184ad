"""Checks of a COCO annotation file of hundreds of megabytes, in the memory of its columns.

Objects365 has 25 million boxes, which take 20 GB as Python objects. Here columns are judged; only rows that may be
wrong are read again, for `examine`, whose sentences these are. M annotations, N images.
"""

import dataclasses
import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from detection.data.checks import BOX_KINDS, Problem, Tables, clip_boxes, examine, nameable, repeated
from detection.data.coco_index import examine_completely
from detection.data.entry_columns import Sections, read_sections
from detection.data.image_paths import leaves_folder
from detection.data.json_pieces import PIECE_BYTES

_BLOCK = 1 << 20  # rows that are judged at once
_BATCH = 200_000  # rows that are examined as Python objects at once

Judgement = tuple[Tables, list[Problem], np.ndarray]


def examine_large(path: Path, drop: bool, piece_bytes: int = PIECE_BYTES) -> Judgement:
    """Run every check on a file, as `examine(read_annotations(path), path)` does, in a fraction of its memory.

    Args:
        path: COCO JSON file.
        drop: whether boxes that nothing can be trained on are left out and no problem.
        piece_bytes: length of the pieces that are read at once.

    Returns:
        The columns; the problems, those of the first 200 thousand rows that may have any; and the positions of the
        annotations to leave out.

    Raises:
        UserError: it cannot be read, or is not a COCO annotation file.
    """
    with path.open("rb") as file:
        is_object = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
    found = None
    if is_object:
        with _without_collection():
            found = _judge(read_sections(path, piece_bytes), drop)
    return found or examine_completely(path, drop)


def _split(problems: Iterable[Problem]) -> tuple[list[Problem], list[Problem]]:
    """Split problems into those of boxes that can be left out, and others."""
    bad = [problem for problem in problems if problem.kind in BOX_KINDS]
    return bad, [problem for problem in problems if problem.kind not in BOX_KINDS]


@contextmanager
def _without_collection() -> Iterator[None]:
    """Switch the collector of cycles off: it would look at millions of entries that have none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _judge(sections: Sections, drop: bool) -> Judgement | None:
    """Return what `examine_large` does; None where `examine` accepts something odd, and its columns are needed."""
    images, annotations, odd = sections.images, sections.annotations, sections.odd
    image_ids, widths, heights, names = images.ids.take(), images.widths.take(), images.heights.take(), images.names
    sizes_wrong = [(size <= 0) | (size > 2**31 - 1) for size in (widths, heights)]
    is_odd = _mask(odd["images"], len(names))
    doubtful = is_odd | repeated(image_ids) | sizes_wrong[0] | sizes_wrong[1]
    doubtful |= np.fromiter(map(leaves_folder, names), bool, len(names))
    doubtful[:1] = True  # a file without images is a problem, and this one has some
    widths[sizes_wrong[0]] = heights[sizes_wrong[1]] = 0
    batch, is_last = _first_batch(np.flatnonzero(doubtful), image_ids)
    examined, problems = _examine_rows(sections, "images", batch, is_last)
    if not _explained(batch[is_odd[batch]], problems, "images"):
        return None

    ids, boxes, crowd = annotations.ids.take(), annotations.boxes.take(), annotations.iscrowd.take()
    known_ids = nameable(image_ids, problems, "images")
    image_rows = _rows_of(known_ids, annotations.image_ids.take())
    known_categories = nameable(examined.category_ids, problems, "categories")
    category_rows = _rows_of(known_categories, annotations.category_ids.take())
    areas, bad_areas = _filled_areas(annotations.areas.take(), boxes)
    is_odd, bad = _mask(odd["annotations"], len(ids)), _bad_boxes(boxes, image_rows, widths, heights)
    doubtful = is_odd | repeated(ids) | (image_rows < 0) | (category_rows < 0) | bad_areas | (crowd > 1)
    dropped, rows = [], np.flatnonzero(doubtful if drop else doubtful | bad)
    if drop:
        dropped.append(np.flatnonzero(bad & ~is_odd))
    for start in range(0, len(rows), _BATCH):
        batch, is_last = _first_batch(rows[start:], ids)
        needed = np.unique(image_rows[batch])
        shown = [
            {"id": int(known_ids[row]), "file_name": names[row], "width": int(widths[row]), "height": int(heights[row])}
            for row in needed[needed >= 0].tolist()
        ]
        found = _examine_rows(sections, "annotations", batch, is_last, shown)[1]
        if not _explained(batch[is_odd[batch]], found, "annotations"):
            return None
        bad_found, others = _split(found) if drop else ([], found)
        dropped += [np.array(problem.rows) for problem in bad_found]
        problems = problems + others
        if others:
            break
    tables = Tables(
        examined.category_ids, examined.category_names, image_ids, widths, heights, names,
        ids, image_rows, category_rows, boxes, areas, crowd == 1, examined.placeholders,
    )  # fmt: skip
    return tables, problems, np.unique(np.concatenate([np.zeros(0, np.int64), *dropped]))


def _first_batch(rows: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the first of ascending rows, each with one more of its id if there is one; and whether these are all."""
    batch, later = np.split(rows, [_BATCH])
    # Without it, `examine` would not find that an id repeats.
    partners = later[np.isin(ids[later], ids[batch])]
    partners = partners[np.unique(ids[partners], return_index=True)[1]]
    return np.union1d(batch, partners), len(later) == 0


def _mask(rows: list[int], length: int) -> np.ndarray:
    mask = np.zeros(length, dtype=bool)
    mask[rows] = True
    return mask


def _explained(odd: np.ndarray, problems: list[Problem], section: str) -> bool:
    """Whether every odd row has a problem."""
    return set(odd.tolist()) <= {row for problem in problems if problem.section == section for row in problem.rows}


def _examine_rows(
    sections: Sections, section: str, rows: np.ndarray, are_all: bool, images: Sequence[dict] = ()
) -> tuple[Tables, list[Problem]]:
    """Examine some rows of `images` and all categories, or some of `annotations` with their images.

    Unless they are all rows that may be wrong, sentences count "at least".

    Returns:
        The columns of what was examined, and the problems by the rows of the file.
    """
    data = {"images": list(images), "annotations": [], "categories": sections.categories}
    data[section] = sections.entries(section, rows)
    tables, problems = examine(data, sections.path)
    return tables, [
        _of_file(problem, rows, are_all) if problem.section == section else problem
        for problem in problems
        if problem.section == section or section == "images"
    ]


def _of_file(problem: Problem, rows: np.ndarray, are_all: bool) -> Problem:
    """Return a problem of examined rows as one of the file."""
    theirs = tuple(rows[list(problem.rows)].tolist())
    if not theirs:
        return problem
    number = " number {} of the list "
    sentence = problem.sentence.replace(number.format(problem.rows[0]), number.format(theirs[0]), 1)
    if not are_all and len(theirs) > 1:
        before, _, after = sentence.rpartition(f" (and {len(theirs) - 1} more)")
        sentence = f"{before} (and at least {len(theirs) - 1} more){after}"
    return dataclasses.replace(problem, rows=theirs, sentence=sentence)


def _blocks(length: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, length, _BLOCK))


def _rows_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return (m,) int32 positions of wanted ids among ids; -1 where they are not there."""
    rows = np.full(len(wanted), -1, dtype=np.int32)
    if len(ids) == 0:
        return rows
    order = np.argsort(ids, kind="stable").astype(np.int32)
    ordered = ids[order]
    low, high = int(ordered[0]), int(ordered[-1])
    table = None
    if high - low < 4 * len(ids) + 1000:  # ids that are nearly consecutive: by a table
        table = np.full(high - low + 1, -1, dtype=np.int32)
        table[ids - low] = np.arange(len(ids), dtype=np.int32)
    for block in _blocks(len(wanted)):
        values = wanted[block]
        if table is not None:
            places = table[np.clip(values, low, high) - low]
        else:
            places = order[np.minimum(np.searchsorted(ordered, values), len(ids) - 1)]
        rows[block] = np.where((places >= 0) & (ids[places] == values), places, -1)
    return rows


def _filled_areas(areas: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put width times height where an area is missing (NaN), in place; and return which are bad."""
    bad = np.zeros(len(areas), dtype=bool)
    for block in _blocks(len(areas)):
        values = areas[block]
        missing = np.isnan(values)
        bad[block] = ~missing & ~(np.isfinite(values) & (values >= 0))
        with np.errstate(over="ignore", invalid="ignore"):
            areas[block] = np.where(missing, boxes[block, 2] * boxes[block, 3], values)
    return areas, bad


def _bad_boxes(boxes: np.ndarray, image_rows: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Return (M,) bool: which boxes nothing can be trained on; see `Section.boxes`."""
    bad = np.zeros(len(boxes), dtype=bool)
    no_limit = np.iinfo(np.int64).max
    for block in _blocks(len(boxes)):
        own, rows = boxes[block], image_rows[block]
        sizes = []
        for size in (widths, heights):
            known = size[np.maximum(rows, 0)] if len(size) else np.zeros(len(rows), dtype=np.int64)
            sizes.append(np.where((rows >= 0) & (known > 0), known, no_limit))
        clipped = clip_boxes(own, *sizes)
        solid = np.isfinite(own).all(axis=1) & (own[:, 2:] > 0).all(axis=1)
        bad[block] = ~(solid & (clipped[:, 2:] > clipped[:, :2]).all(axis=1))
    return bad
