"""Ground-truth boxes and detections of a data set as flat arrays, detections best first.

Shapes: N ground-truth boxes, D detections, of all images together. Images and categories are counted from 0 in
ascending order of their ids; boxes are xywh in pixels of the image on disk.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class GroundTruthColumns:
    """The annotations of a COCO data set, in the order of the file.

    Attributes:
        image: Index of each box's image, (N,).
        category: Index of each box's category, (N,).
        box: Boxes xywh, (N, 4).
        crowd: Whether a box is a crowd region, which is never counted as missed, (N,).
        names: Unique category names.
    """

    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    crowd: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class DetectionColumns:
    """Detections by descending score; ties by image, then in the order of the results.

    Attributes:
        image: Index of each detection's image, (D,).
        category: Index of each detection's category, (D,).
        box: Boxes xywh, (D, 4).
        score: Scores, descending, (D,).
    """

    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    score: np.ndarray

    def select(self, keep: np.ndarray) -> "DetectionColumns":
        """Select detections.

        Args:
            keep: Mask or indices into the detections, ascending.
        """
        return DetectionColumns(self.image[keep], self.category[keep], self.box[keep], self.score[keep])


def positions(items: list[dict[str, Any]]) -> dict[int, int]:
    """Index of every id of images or categories, in ascending order of ids."""
    return {key: position for position, key in enumerate(sorted({item["id"] for item in items}))}


def class_names(ground_truth: dict[str, Any]) -> dict[int, str]:
    """Name of every category by id, in ascending order of ids; a name used twice is followed by its id."""
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    uses = Counter(category["name"] for category in categories)
    return {c["id"]: c["name"] if uses[c["name"]] == 1 else f"{c['name']} (id {c['id']})" for c in categories}


def known_results(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Select results whose image and category are in the ground truth; the others are neither right nor wrong."""
    images, categories = positions(ground_truth["images"]), positions(ground_truth["categories"])
    return [r for r in results if r["image_id"] in images and r["category_id"] in categories]


def ground_truth_columns(ground_truth: dict[str, Any]) -> GroundTruthColumns:
    """Flatten the annotations of a COCO dataset dict."""
    images, categories = positions(ground_truth["images"]), positions(ground_truth["categories"])
    annotations = ground_truth["annotations"]
    return GroundTruthColumns(
        image=np.array([images[a["image_id"]] for a in annotations], dtype=np.int64),
        category=np.array([categories[a["category_id"]] for a in annotations], dtype=np.int64),
        box=np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4),
        crowd=np.array([a.get("iscrowd", 0) for a in annotations], dtype=bool),
        names=list(class_names(ground_truth).values()),
    )


def detection_columns(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> DetectionColumns:
    """Flatten COCO results and sort them best first; those on unknown images or categories are left out."""
    images, categories = positions(ground_truth["images"]), positions(ground_truth["categories"])
    results = known_results(ground_truth, results)
    image = np.array([images[r["image_id"]] for r in results], dtype=np.int64)
    score = np.array([r["score"] for r in results], dtype=np.float64)
    unsorted = DetectionColumns(
        image=image,
        category=np.array([categories[r["category_id"]] for r in results], dtype=np.int64),
        box=np.array([r["bbox"] for r in results], dtype=np.float64).reshape(-1, 4),
        score=score,
    )
    return unsorted.select(np.lexsort((image, -score)))
