"""Drawings of a fixed set of validation images: ground truth on the left, detections on the right."""

from collections.abc import Sized
from pathlib import Path
from typing import Any

import numpy as np

from detection.analysis.visualize import distinct_colors, draw_boxes, side_by_side
from detection.data.coco_index import CocoIndex
from detection.data.image_paths import resolve_image
from detection.data.images import read_image


def sample_positions(images: Sized, count: int) -> list[int]:
    """Choose positions spread evenly over a data set: the same ones in every epoch and every run."""
    return np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)).tolist()


def draw_samples(
    index: CocoIndex, images: Path, results: list[dict[str, Any]], count: int, score: float
) -> dict[str, np.ndarray]:
    """Draw ground truth next to detections.

    Args:
        index: the validation annotations.
        images: their folder.
        results: COCO results of (at least) the drawn images.
        count: number of images.
        score: detections below are not drawn.

    Returns:
        Images (H, W, 3) uint8 by file stem.
    """
    names = {c.id: c.name for c in index.categories}
    colors = distinct_colors(list(names.values()))
    drawings = {}
    for position in sample_positions(index, count):
        image_id = int(index.image_ids[position])
        image = read_image(resolve_image(images, index.file_name(position)))
        span = slice(int(index.box_offsets[position]), int(index.box_offsets[position + 1]))
        ground_truth = [index.categories[k - 1].name for k in index.labels[span]]
        found = [r for r in results if r["image_id"] == image_id and r["score"] >= score]
        left = draw_boxes(image, _xyxy([b.tolist() for b in index.boxes[span]]), ground_truth, colors=colors)
        right = draw_boxes(
            image,
            _xyxy([r["bbox"] for r in found]),
            [names[r["category_id"]] for r in found],
            [r["score"] for r in found],
            colors=colors,
        )
        title = f"detections, score from {score:.2f}"
        drawings[Path(index.file_name(position)).stem] = side_by_side(left, right, ("ground truth", title))
    return drawings


def _xyxy(boxes: list[list[float]]) -> np.ndarray:
    xywh = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
