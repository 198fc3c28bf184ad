"""Fit of anchors to the shapes of the objects, and the factor by which more would fit: without a training or image.

A region proposal network learns from the anchors that overlap an object, and an object that none overlaps well is found
late and placed badly, without any error. M boxes (crowd regions left out), A anchor shapes.
"""

from typing import Any

import numpy as np

from detection.config import Config, to_plain
from detection.data.checks import clip_boxes
from detection.data.coco_index import CocoIndex
from detection.data.remarks import objects_of_index, reading_of
from detection.data.transforms import resized_shape

FIT = 0.5
"""IoU of an object and an anchor of one center from which the anchor fits."""

GAIN = 0.1
"""Share of the objects that other sizes have to gain to be worth a sentence."""

MOST_BOXES = 20_000
"""Of more, evenly spaced ones are taken."""

_FACTORS = 2.0 ** (np.arange(-24, 25) / 6)  # from 1/16 to 16, six to an octave
_EQUAL = 0.02  # mean IoU by which sizes may be worse than the best and still count as equal
_CHUNK = 1 << 22  # pairs of a box and an anchor that are compared at once


def input_boxes(index: CocoIndex, config: Config, most: int | None = None) -> np.ndarray:
    """Compute widths and heights (M, 2) of all boxes but crowd regions, in pixels at the detector's input.

    Args:
        index: the annotations.
        config: whose detector resizes the images.
        most: of more boxes than this, evenly spaced ones are taken; None: all.
    """
    rows = np.flatnonzero(~index.iscrowd)
    rows = rows[:: 1 if most is None else -(-len(rows) // most) or 1]
    images = np.searchsorted(index.box_offsets, rows, side="right") - 1
    sizes = np.stack([index.widths[images], index.heights[images]], axis=1).astype(np.float64)
    boxes = clip_boxes(index.boxes[rows], *sizes.T)
    distinct, inverse = np.unique(sizes, axis=0, return_inverse=True)
    shapes = (resized_shape(int(h), int(w), config.detector.min_size, config.detector.max_size) for w, h in distinct)
    scales = np.array([shape[::-1] for shape in shapes]).reshape(-1, 2) / distinct
    return (boxes[:, 2:] - boxes[:, :2]) * scales[inverse.reshape(-1)]


def anchor_shapes(sizes: np.ndarray, aspect_ratios: np.ndarray) -> np.ndarray:
    """Compute widths and heights (A, 2) of anchors of some sizes (square roots of their areas) and heights / widths."""
    roots = np.sqrt(aspect_ratios)
    return np.stack([np.outer(sizes, 1 / roots), np.outer(sizes, roots)], axis=-1).reshape(-1, 2)


def best_shape_iou(boxes: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Compute the highest IoU (M,) of boxes (M, 2) and shapes (A, 2) that are laid on one center."""
    best = np.empty(len(boxes))
    step = max(1, _CHUNK // max(1, len(shapes)))
    for start in range(0, len(boxes), step):
        part = boxes[start : start + step, None]
        shared = np.minimum(part, shapes).prod(axis=-1)
        union = part.prod(axis=-1) + shapes.prod(axis=-1) - shared
        best[start : start + step] = (shared / union.clip(1e-12)).max(axis=1, initial=0)
    return best


def describe_anchor_fit(boxes: np.ndarray, config: Config) -> tuple[float, str] | None:
    """Return the share of objects (M, 2) whose shape an anchor has, and sizes that more of them would fit.

    The sizes are the config's times one factor of 1/16 to 16, so that each feature map keeps its share of the work:
    the largest one whose mean IoU is as good as the best, so that the smallest objects are on the finest map. They are
    an empty string where they would not gain `GAIN` of the objects. None where the detector has no `anchor_sizes`, or
    there is no object.
    """
    regions: Any = to_plain(config.detector.regions)
    if "anchor_sizes" not in regions or "aspect_ratios" not in regions or not len(boxes):
        return None
    boxes = boxes[:: -(-len(boxes) // MOST_BOXES)]  # a search over factors
    levels, ratios = regions["anchor_sizes"], np.array(regions["aspect_ratios"], dtype=float)
    sizes = np.array([size for level in levels for size in level], dtype=float)
    now = (best_shape_iou(boxes, anchor_shapes(sizes, ratios)) >= FIT).mean()
    if now > 1 - GAIN:  # nothing can gain as much, and the search takes most of the time
        return float(now), ""
    means = np.array([best_shape_iou(boxes, anchor_shapes(factor * sizes, ratios)).mean() for factor in _FACTORS])
    factor = _FACTORS[np.flatnonzero(means >= means.max() - _EQUAL)[-1]]
    other = tuple(tuple(max(1, round(float(factor) * size)) for size in level) for level in levels)
    flat = np.array([size for level in other for size in level], dtype=float)
    then = (best_shape_iou(boxes, anchor_shapes(flat, ratios)) >= FIT).mean()
    if then < now + GAIN:
        return float(now), ""
    return float(now), f"{then:.0%} with detector.regions.anchor_sizes={str(other).replace(' ', '')}"


def anchor_remarks(index: CocoIndex, config: Config) -> list[str]:
    """Return a sentence where other anchor sizes would have the shapes of notably more objects.

    There is none where the boxes look as if they were in another format: those sizes would be of no object.
    """
    found = describe_anchor_fit(input_boxes(index, config, MOST_BOXES), config)
    if found is None or not found[1] or reading_of(objects_of_index(index)):
        return []
    share, better = found
    return [f"{share:.0%} of the objects of {index.path} have the shape of an anchor (IoU {FIT:g} or more), {better}"]
