"""Drawings of a fixed set of validation images: ground truth on the left, detections on the right."""

from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from detection.analysis.visualize import Color, contact_sheet, distinct_colors, draw_boxes, shrink
from detection.data.coco_index import CocoIndex
from detection.data.image_paths import resolve_image
from detection.data.images import read_image
from detection.names import unique_stems

LONGEST_DRAWN = 1280
"""Most pixels of the longer side of a drawn image: photographs at full size would take gigabytes."""


def sample_positions(images: Sized, count: int) -> list[int]:
    """Choose positions spread evenly over a data set: the same ones in every epoch and every run."""
    return np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)).tolist()


def draw_samples(
    index: CocoIndex, images: Path, results: list[dict[str, Any]], count: int, score: float
) -> dict[str, np.ndarray]:
    """Draw ground truth next to detections.

    Args:
        index: validation annotations.
        images: folder of the images.
        results: COCO results of (at least) the drawn images.
        count: number of images.
        score: smallest score that is drawn.

    Returns:
        Images (H, W, 3) uint8 by a unique file stem, each half at most `LONGEST_DRAWN` pixels wide and high.
    """
    names = {c.id: c.name for c in index.categories}
    colors = distinct_colors(list(names.values()))
    drawings = {}
    positions = sample_positions(index, count)
    stems = unique_stems(index.file_name(position) for position in positions)
    for position, stem in zip(positions, stems, strict=True):
        image_id = int(index.image_ids[position])
        image, factor = shrink(read_image(resolve_image(images, index.file_name(position))), LONGEST_DRAWN)
        span = slice(int(index.box_offsets[position]), int(index.box_offsets[position + 1]))
        ground_truth = [index.categories[k - 1].name for k in index.labels[span]]
        found = [r for r in results if r["image_id"] == image_id and r["score"] >= score]
        left = draw_boxes(image, xywh_to_xyxy(index.boxes[span]) * factor, ground_truth, colors=colors)
        titles = "ground truth", f"detections, score from {score:.2f}"
        sheet = contact_sheet([left, draw_results(image, found, names, colors, factor)], columns=2, titles=titles)
        drawings[stem] = sheet
    return drawings


def draw_results(
    image: np.ndarray,
    results: Sequence[dict[str, Any]],
    names: Mapping[int, str],
    colors: Mapping[str, Color],
    factor: float = 1.0,
) -> np.ndarray:
    """Draw COCO results of one image by `draw_boxes`; names are by category id, colors by name.

    The `factor` is by how much the image was shrunk.
    """
    labels = [names[r["category_id"]] for r in results]
    boxes = xywh_to_xyxy(np.array([r["bbox"] for r in results], dtype=np.float64))
    return draw_boxes(image, boxes * factor, labels, [r["score"] for r in results], colors=colors)


def xywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """Convert COCO's boxes (N, 4) to corners, as `draw_boxes` takes them."""
    boxes = boxes.reshape(-1, 4)  # (N, 4), also of an empty list
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
