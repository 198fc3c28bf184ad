"""Drawings of a fixed set of validation images: ground truth on the left, detections on the right.

Detections are framed by what they are: right (of a ground-truth box's class, with an IoU of at least 0.5), of the wrong
class, or false; a ground-truth box that none of these is of is drawn among them as missed.
"""

import math
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from detection.analysis.visualize import Color, Mark, contact_sheet, distinct_colors, draw_boxes, shrink, with_legend
from detection.data.coco_index import CocoIndex
from detection.data.image_paths import resolve_image
from detection.data.images import read_image
from detection.names import unique_stems

MARKS: dict[str, Mark] = {
    "right": ("", (0, 170, 60)),
    "wrong class": ("wrong class", (255, 140, 0)),
    "false": ("false", (220, 0, 0)),
    "missed": ("missed", (30, 90, 255)),
}
"""Word in front of the label, and color of the frame, of what a box is."""

LONGEST_DRAWN = 1280
"""Most pixels of the longer side of a drawn image: photographs at full size would take gigabytes."""


def sample_positions(images: Sized, count: int) -> list[int]:
    """Choose positions spread evenly over a data set: the same ones in every epoch and every run."""
    return np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)).tolist()


def draw_samples(
    index: CocoIndex,
    images: Path,
    results: list[dict[str, Any]],
    count: int,
    score: float,
    classes: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Draw ground truth next to detections.

    Args:
        index: validation annotations.
        images: folder of the images.
        results: COCO results of (at least) the drawn images.
        count: number of images.
        score: smallest score that is drawn.
        classes: names of all classes of the detector, which have the same colors everywhere; None: the annotations'.

    Returns:
        Images (H, W, 3) uint8 by a unique file stem, each half at most `LONGEST_DRAWN` pixels wide and high.
    """
    names = {c.id: c.name for c in index.categories}
    colors = distinct_colors(classes or list(names.values()))
    drawings = {}
    positions = sample_positions(index, count)
    stems = unique_stems(index.file_name(position) for position in positions)
    for position, stem in zip(positions, stems, strict=True):
        image_id = int(index.image_ids[position])
        image, factor = shrink(read_image(resolve_image(images, index.file_name(position))), LONGEST_DRAWN)
        span = slice(int(index.box_offsets[position]), int(index.box_offsets[position + 1]))
        ground_truth = [index.categories[k - 1].name for k in index.labels[span]]
        boxes, crowd = xywh_to_xyxy(index.boxes[span]), np.asarray(index.iscrowd[span], dtype=bool)
        found = [r for r in results if r["image_id"] == image_id and r["score"] >= score]
        left = draw_boxes(image, boxes * factor, ground_truth, colors=colors)
        right = _draw_marked(image, factor, found, names, boxes, ground_truth, crowd, colors)
        titles = "ground truth", f"detections, score from {score:.2f}"
        entries = [(kind, color) for kind, (_, color) in MARKS.items()]
        sheet = with_legend(contact_sheet([left, right], columns=2, titles=titles), entries)
        drawings[stem] = sheet
    return drawings


def _draw_marked(
    image: np.ndarray,
    factor: float,
    found: Sequence[dict[str, Any]],
    names: Mapping[int, str],
    boxes: np.ndarray,
    labels: Sequence[str],
    crowd: np.ndarray,
    colors: Mapping[str, Color],
) -> np.ndarray:
    """Draw COCO results and the missed ground-truth boxes (N, 4) xyxy of one image, each with its mark."""
    corners = xywh_to_xyxy(np.array([r["bbox"] for r in found], dtype=np.float64))
    predicted, scores = [names[r["category_id"]] for r in found], [r["score"] for r in found]
    kinds, missed = judge(corners, predicted, scores, boxes, labels, crowd)
    drawn = np.concatenate([corners, boxes[missed]])
    texts = [*predicted, *(labels[row] for row in missed)]
    marks = [None if kind is None else MARKS[kind] for kind in (*kinds, *["missed"] * len(missed))]
    shown = [*scores, *[math.nan] * len(missed)]
    return draw_boxes(image, drawn * factor, texts, shown, colors=colors, marks=marks)


def judge(
    found: np.ndarray,
    predicted: Sequence[str],
    scores: Sequence[float],
    boxes: np.ndarray,
    labels: Sequence[str],
    crowd: np.ndarray,
) -> tuple[list[str | None], list[int]]:
    """Find what each detection of an image is, the best one first choosing its ground-truth box.

    Args:
        found: (D, 4) xyxy.
        predicted: class names of the detections.
        scores: of the detections.
        boxes: (N, 4) xyxy of the ground truth.
        labels: class names of the ground truth.
        crowd: (N,) bool; a crowd can neither be found nor missed, and excuses what is inside of it.

    Returns:
        A key of `MARKS` for each detection, None inside a crowd; and the rows of the ground truth that are missed.
    """
    overlap, inside = _overlaps(found, boxes)
    kinds: list[str | None] = ["false"] * len(found)
    free = ~crowd
    order = sorted(range(len(found)), key=lambda row: -scores[row])
    # All right ones choose first: a box that is found is no excuse for another class.
    for is_class in (True, False):
        for row in order:
            same = np.array([(label == predicted[row]) is is_class for label in labels], dtype=bool)
            candidates = np.where(free & same, overlap[row], 0)
            if kinds[row] == "false" and candidates.max(initial=0) >= 0.5:
                kinds[row] = "right" if is_class else "wrong class"
                free[candidates.argmax()] = False
    for row, kind in enumerate(kinds):
        if kind == "false" and (inside[row] * crowd).max(initial=0) >= 0.5:
            kinds[row] = None
    return kinds, np.flatnonzero(free).tolist()


def _overlaps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The IoU of boxes (D, 4) and (N, 4), and the share of the first inside the second: (D, N) each."""
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])  # (D, N, 2)
    both = sides.clip(min=0).prod(-1)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(-1) for boxes in (a, b))
    union = area_a[:, None] + area_b - both
    return both / union.clip(min=1e-9), both / area_a[:, None].clip(min=1e-9)


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
