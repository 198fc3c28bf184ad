"""Boxes, areas and polygons of a file converted from another reading to COCO's."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from detection.data.box_readings import AS_GIVEN, Placement, Reading, map_points, to_xywh
from detection.data.checks import Tables
from detection.data.image_checks import ImageFacts

if TYPE_CHECKING:
    from detection.data.repair import Notes


def converted(
    data: dict, tables: Tables, facts: ImageFacts, reading: Reading, of_masks: Sequence[int], notes: "Notes"
) -> dict:
    """Return the data with all boxes converted that can be: finite ones of images of known size.

    Boxes `of_masks` (positions) have COCO's order already, and those of run lengths are in pixels of the listed size.
    """
    if reading == AS_GIVEN:
        return data
    by_mask = {row: _of_mask(reading, data["annotations"][row]["segmentation"]) for row in of_masks}
    rows = np.flatnonzero((tables.image_rows >= 0) & np.isfinite(tables.boxes).all(axis=1))
    rows = np.array([row for row in rows.tolist() if by_mask.get(row) != AS_GIVEN], dtype=np.int64)
    placement = facts.placement(tables, rows)
    known = np.flatnonzero((placement.sizes > 0).all(axis=1))
    rows, placement = rows[known], placement.of(known)
    own = [by_mask.get(row, reading) for row in rows.tolist()]
    boxes, plain = np.empty((len(rows), 4)), np.empty((len(rows), 4))
    for one in set(own):
        which = np.flatnonzero([other == one for other in own])
        boxes[which] = to_xywh(one, tables.boxes[rows[which]], placement.of(which))
        plain[which] = to_xywh(Reading(one.order), tables.boxes[rows[which]], placement.of(which))
    annotations, without_masks = list(data["annotations"]), []
    for k, row in enumerate(rows.tolist()):
        entry = dict(annotations[row])
        entry["bbox"] = np.round(boxes[k], 6).tolist()
        entry["area"] = _area(reading, entry.get("area"), tables.boxes[row], plain[k], boxes[k])
        if reading != Reading(reading.order) and "segmentation" in entry:
            polygons = _polygons(reading, entry["segmentation"], placement.of(np.array([k])))
            if polygons is None:
                del entry["segmentation"]
                without_masks.append(entry.get("id"))
            else:
                entry["segmentation"] = polygons
        annotations[row] = entry
    notes.changed(
        f"converted from {reading.name}", "annotation", reading.words, [annotations[r].get("id") for r in rows]
    )
    notes.changed("left out the mask of", "annotation", "RLE does not convert", without_masks)
    return {**data, "annotations": annotations}


def _of_mask(reading: Reading, mask: object) -> Reading:
    """Return how the box around a mask is read, if others are read so."""
    own = replace(reading, order="xywh")
    return own if isinstance(mask, list) else replace(own, canvas=None, factor=1.0)


def is_area(value: object) -> bool:
    """Return whether a value is a number that an area can be."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e300


def _area(reading: Reading, area: Any, given: np.ndarray, plain: np.ndarray, new: np.ndarray) -> float:
    """Return an area in the pixels of the new box: the box's own if it was the product of the `given` numbers.

    `plain` is the box in COCO's order, still in the units it was drawn in, which are those of any other area.
    """
    product, old, own = float(given[2] * given[3]), float(plain[2] * plain[3]), float(new[2] * new[3])
    if not is_area(area) or abs(area - product) <= 1e-3 * abs(product):
        return own
    if reading.canvas is None and reading.factor == 1 and reading.frame != "scaled":
        return float(area)
    return float(area) * own / old if old > 0 else own


def _polygons(reading: Reading, value: object, placement: Placement) -> list | None:
    if not isinstance(value, list):
        return None
    converted_polygons = []
    for polygon in value:
        try:
            points = np.array(polygon, dtype=np.float64).reshape(1, -1, 2)  # (1, P, 2)
        except (ValueError, TypeError, OverflowError):
            return None
        converted_polygons.append(np.round(map_points(reading, points, placement), 6).ravel().tolist())
    return converted_polygons
