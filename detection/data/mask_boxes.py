"""Boxes of annotations that have a mask and no usable box, as segmentation tools write them."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.data.checks import shortened
from detection.data.conversion import outline_area
from detection.data.mask_checks import plain_polygons
from detection.data.reading_repair import is_area
from detection.data.run_lengths import box_and_area


@dataclass(frozen=True)
class MaskBoxes:
    """A file whose annotations have the boxes of their masks where they have none of their own.

    Attributes:
        data: the file.
        rows: positions of the annotations whose box is their mask's.
        fault: what is wrong with run lengths that no box can be taken from; None if nothing is.
    """

    data: dict
    rows: tuple[int, ...]
    fault: str | None


def with_boxes_of_masks(data: dict) -> MaskBoxes:
    """Return the file, annotations without a usable box with the one around their polygons or RLE.

    An area that is missing becomes the mask's, in the units of its box. Run lengths count the pixels of an image of
    their own size: where that is not the one that is listed for their image, their box is in no known place.
    """
    sizes = {
        image["id"]: [image.get("height"), image.get("width")]
        for image in data["images"]
        if type(image.get("id")) is int
    }
    annotations, rows, strange = list(data["annotations"]), list[int](), list[tuple[dict, list]]()
    for row, entry in enumerate(annotations):
        if _is_box(entry.get("bbox")) or (measured := _box_and_area(entry.get("segmentation"))) is None:
            continue
        mask, image = entry["segmentation"], entry.get("image_id")
        if isinstance(mask, dict) and type(image) is int and sizes.get(image, mask["size"]) != mask["size"]:
            strange.append((entry, sizes[image]))
            continue
        box, area = measured
        annotations[row] = {**entry, "bbox": box, "area": entry["area"] if is_area(entry.get("area")) else area}
        rows.append(row)
    return MaskBoxes({**data, "annotations": annotations}, tuple(rows), _fault(strange))


def _fault(strange: list[tuple[dict, list]]) -> str | None:
    """Return what is wrong with annotations whose run lengths are not of the listed height and width."""
    if not strange:
        return None
    (entry, listed), more = strange[0], f" ({len(strange) - 1} more like it)" if len(strange) > 1 else ""
    of_image = "no size is listed for its image" if None in listed else f"those of its image are {listed}"
    return (
        f"annotation {shortened([entry.get('id')])} has no box, and run lengths of height and width "
        f"{entry['segmentation']['size']}, but {of_image}{more}: write masks of the size of their images, or boxes."
    )


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
