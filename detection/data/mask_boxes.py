"""Boxes of annotations that have a mask and no usable box, as segmentation tools write them."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from detection.data.readable_values import polygons
from detection.data.reading_repair import is_area
from detection.data.run_lengths import box_of_mask, sound_runs

if TYPE_CHECKING:
    from detection.data.repair import Notes


def with_boxes_of_masks(annotations: list[dict], notes: "Notes") -> list[dict]:
    """Return the annotations, those without a usable box with the one around their polygons or RLE.

    An area that is missing becomes the mask's, in square pixels.
    """
    found, ids = list(annotations), list[object]()
    for row, entry in enumerate(annotations):
        if _is_box(entry.get("bbox")) or (measured := _box_and_area(entry.get("segmentation"))) is None:
            continue
        box, area = measured
        found[row] = {**entry, "bbox": box, "area": entry["area"] if is_area(entry.get("area")) else area}
        ids.append(entry.get("id", f"number {row}"))
    notes.changed("took from their masks the boxes of", "annotation", "without a box of their own", ids)
    return found


def _is_box(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 4 or not all(type(side) in (int, float) for side in value):
        return False
    return all(map(math.isfinite, value)) and value[2] > 0 and value[3] > 0


def _box_and_area(mask: Any) -> tuple[list[float], float] | None:
    """Return the xywh box around a mask and its area; None where it is none, or of nothing."""
    box: Any
    if (runs := sound_runs(mask)) is not None:
        box, area = box_of_mask(mask), float(sum(runs[0][1::2]))
    elif (outlines := _outlines(mask)) is not None:
        points = np.concatenate(outlines)  # (P, 2)
        low, high = points.min(0), points.max(0)
        box, area = np.round([*low, *(high - low)], 6).tolist(), round(sum(map(_area, outlines)), 6)
    else:
        return None
    return (box, area) if _is_box(box) else None


def _outlines(mask: Any) -> list[np.ndarray] | None:
    """Return polygons as corners (P, 2) in pixels; None where it is no list of some, of three corners each."""
    parts = polygons(mask)
    if not isinstance(parts, list) or not parts or not all(isinstance(part, list) for part in parts):
        return None
    if not all(len(part) >= 6 and len(part) % 2 == 0 for part in parts):
        return None
    if not all(type(value) in (int, float) and abs(value) < 1e9 for part in parts for value in part):
        return None
    return [np.array(part, dtype=np.float64).reshape(-1, 2) for part in parts]


def _area(corners: np.ndarray) -> float:
    (x, y), (following_x, following_y) = corners.T, np.roll(corners, -1, axis=0).T
    return abs(float((x * following_y - y * following_x).sum())) / 2
