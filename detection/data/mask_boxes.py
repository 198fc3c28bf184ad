"""Boxes of annotations that have a mask and no usable box, as segmentation tools write them."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from detection.data.conversion import outline_area
from detection.data.mask_checks import plain_polygons
from detection.data.reading_repair import is_area
from detection.data.run_lengths import box_and_area

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
    if isinstance(mask, list) and mask and (plain := plain_polygons([mask])) is not None:
        found = _of_polygons(*plain[1:])
    else:
        found = box_and_area(mask)
    return found if found is not None and _is_box(found[0]) else None


def _of_polygons(numbers: np.ndarray, coordinates: np.ndarray) -> tuple[list[float], float] | None:
    """Return the same of P polygons with (P,) numbers each, x y x y …; None where one is no place in an image."""
    if not (np.abs(coordinates) < 1e9).all():
        return None
    points = coordinates.reshape(-1, 2)  # (V, 2)
    low, high = points.min(0), points.max(0)
    area = sum(outline_area(outline.tolist()) for outline in np.split(points, np.cumsum(numbers // 2)[:-1]))
    return np.round([*low, *(high - low)], 6).tolist(), round(area, 6)
