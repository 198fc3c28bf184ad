"""Checks of `segmentation`, and its packing into flat arrays; done only where masks are asked for.

Like the other checks they run over columns: COCO has 860 thousand masks. Polygons are kept in int32 thousandths
of a pixel, in which COCO's two decimals are exact, and RLE as its bytes.
M annotations, P polygons, V points of all polygons.
"""

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np

from detection.data.checks import Problem, Section
from detection.data.coco_index import offsets_of
from detection.data.run_lengths import decode_runs, encode_runs
from detection.errors import UserError

POINT_UNIT = 1000
"""Units of `points` in a pixel."""

_REMEDY = "correct it, or set data.masks=boxes to take every box for its mask"


class BadMasks(UserError):
    """Masks that cannot be used, all of them for one reason; `problem` names them."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.sentence)
        self.problem = problem


def examine_masks(entries: list[dict], widths: np.ndarray, heights: np.ndarray, path: Path) -> list[Problem]:
    """List everything that is wrong with the masks of annotations; `pack_masks` raises the first of it."""
    problems, rows = [], np.arange(len(entries))
    while True:
        try:
            pack_masks([entries[row] for row in rows.tolist()], widths[rows], heights[rows], path)
        except BadMasks as error:
            problems.append(error.problem)
            rows = np.delete(rows, error.problem.rows)
        else:
            return problems


def pack_masks(entries: list[dict], widths: np.ndarray, heights: np.ndarray, path: Path) -> dict[str, np.ndarray]:
    """Check the masks of M annotations, with the (M,) sizes of their images in pixels, and pack them.

    Returns:
        `points` (V, 2) int32, xy; `point_offsets` (P + 1,) int64, where each polygon's points begin; `polygon_offsets`
        (M + 1,) int64, where each annotation's polygons begin. `runs` uint8, all compressed RLE behind one another, and
        `run_offsets` (M + 1,) int64, where each annotation's begins: it is empty for one with polygons.

    Raises:
        BadMasks: A mask is missing, malformed, or not one of its image; names the first annotation and the remedies.
    """
    section = Section(path, "annotations", entries)
    raw = [entry.get("segmentation") for entry in entries]
    absent = [row for row, value in enumerate(raw) if not value]
    remedy = (
        "give its polygons or RLE, or set data.masks=boxes to take every box for its mask, or "
        "detector.segmentation=none to train without masks"
    )
    _refuse(section, absent, lambda _: "has no 'segmentation'", remedy)
    unknown = [row for row, value in enumerate(raw) if not (type(value) is list or _is_rle(value))]
    _refuse_value(section, unknown, ", which is neither polygons nor an RLE of 'size' and 'counts'")
    return _pack_polygons(section, raw, widths, heights) | _pack_runs(section, raw, widths, heights)


def _refuse(section: Section, rows: list[int], what: Callable[[int], str], remedy: str = _REMEDY) -> None:
    if rows:
        section.report("bad segmentation", rows, what, remedy)
        raise BadMasks(section.problems[-1])


def _refuse_value(section: Section, rows: list[int], words: str) -> None:
    _refuse(section, rows, lambda row: f"has segmentation {section.entries[row]['segmentation']!r:.60}{words}")


def _is_rle(value: object) -> bool:
    return isinstance(value, dict) and {"size", "counts"} <= set(value)


def _pack_polygons(section: Section, raw: list, widths: np.ndarray, heights: np.ndarray) -> dict[str, np.ndarray]:
    rows = [row for row, value in enumerate(raw) if type(value) is list]
    plain = plain_polygons([raw[row] for row in rows])
    if plain is None:
        wrong = [row for row in rows if plain_polygons([raw[row]]) is None]
        _refuse_value(section, wrong, ", which is not a list of polygons [x1, y1, x2, y2, x3, y3, …]")
        raise AssertionError("no polygon is wrong by itself")
    polygons, numbers, coordinates = plain
    points, starts = coordinates.reshape(-1, 2), np.cumsum(numbers // 2) - numbers // 2  # (V, 2), (P,)
    owners = np.repeat(rows, polygons).astype(np.int64)
    if len(owners):
        sizes = np.stack([widths[owners], heights[owners]], axis=1).astype(np.float64)  # (P, 2)
        _refuse_places(section, points, starts, owners, sizes)
    coordinates *= POINT_UNIT
    per_annotation = np.zeros(len(raw), dtype=np.int64)
    per_annotation[rows] = polygons
    return {
        "points": np.rint(points, out=points).astype(np.int32),
        "point_offsets": offsets_of(numbers // 2),
        "polygon_offsets": offsets_of(per_annotation),
    }


def _refuse_places(
    section: Section, points: np.ndarray, starts: np.ndarray, owners: np.ndarray, sizes: np.ndarray
) -> None:
    """Refuse polygons far outside their image, and those of annotations that have none beyond the first pixel.

    Args:
        section: the annotations.
        points: (V, 2), xy in pixels.
        starts: (P,), the first point of each polygon.
        owners: (P,), the annotation of each polygon.
        sizes: (P, 2), width and height of its image in pixels.
    """
    # A point further outside is no rounding, and would cost pycocotools memory without limit.
    with np.errstate(invalid="ignore"):
        low, high = (reduce.reduceat(points, starts, axis=0) for reduce in (np.minimum, np.maximum))  # (P, 2)
        far = ~((low >= -sizes) & (high <= 2 * sizes)).all(axis=1)
    owned = np.unique(owners[far]).tolist()
    _refuse_value(section, owned, " with a point far outside its image, or not finite")
    # Shares of 1 look so. A small object in the corner may, too: its bbox, rounded outwards, ends at 2 at most.
    first_pixel = ((low >= 0) & (high <= 1)).all(axis=1)
    within = np.setdiff1d(owners[first_pixel], owners[~first_pixel]).tolist()
    shares = [row for row in within if _ends_beyond(section.entries[row].get("bbox"), 2)]
    _refuse_value(section, shares, " within the first pixel, unlike its bbox: polygons are in pixels")


def _ends_beyond(bbox: object, pixels: float) -> bool:
    """Whether a box, where it is one, ends to the right of these pixels or below them."""
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(type(side) in (int, float) for side in bbox)):
        return False
    x, y, width, height = bbox
    return max(x + width, y + height) > pixels


def plain_polygons(raw: list[list]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return polygons an annotation, numbers a polygon, and all numbers; None if one is no list of 3 or more points."""
    polygons = list(chain.from_iterable(raw))
    if not set(map(type, polygons)) <= {list}:
        return None
    numbers = np.fromiter(map(len, polygons), np.int64, len(polygons))
    if ((numbers < 6) | (numbers % 2 == 1)).any() or not set(map(type, chain.from_iterable(polygons))) <= {int, float}:
        return None
    try:
        coordinates = np.fromiter(chain.from_iterable(polygons), np.float64, int(numbers.sum()))
    except OverflowError:
        return None
    return np.fromiter(map(len, raw), np.int64, len(raw)), numbers, coordinates


def _pack_runs(section: Section, raw: list, widths: np.ndarray, heights: np.ndarray) -> dict[str, np.ndarray]:
    sizes = {row: [int(heights[row]), int(widths[row])] for row, value in enumerate(raw) if type(value) is dict}
    _refuse(
        section,
        [row for row, size in sizes.items() if raw[row]["size"] != size],
        lambda row: (
            f"has a segmentation of size {raw[row]['size']!r:.60}, but its image's height and width are {sizes[row]}"
        ),
    )
    texts = {row: _compressed(raw[row]["counts"], *size) for row, size in sizes.items()}
    _refuse(
        section,
        [row for row, text in texts.items() if text is None],
        lambda row: (
            f"has segmentation counts {raw[row]['counts']!r:.60}, which are not the run lengths of a mask of "
            f"{sizes[row][0]} x {sizes[row][1]} pixels"
        ),
    )
    lengths = np.zeros(len(raw), dtype=np.int64)
    lengths[list(texts)] = [len(text or b"") for text in texts.values()]
    return {
        "runs": np.frombuffer(b"".join(text or b"" for text in texts.values()), dtype=np.uint8),
        "run_offsets": offsets_of(lengths),
    }


def _compressed(counts: object, height: int, width: int) -> bytes | None:
    """Return counts as compressed RLE, None unless they are the run lengths of a mask of this size."""
    if isinstance(counts, str) and counts.isascii():
        text = counts.encode()
        lengths = decode_runs(text)
        return text if lengths is not None and lengths.sum() == height * width else None
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        return None
    fits = sum(counts) == height * width and min(counts) >= 0
    return encode_runs(counts, height, width) if fits else None
