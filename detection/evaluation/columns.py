"""Ground-truth boxes and detections of a data set as flat arrays, detections best first.

Shapes: N ground-truth boxes, D detections, of all images together. Images and categories are counted from 0 in
ascending order of their ids; boxes are xywh in pixels of the image on disk.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

CocoDataset = dict[str, Any]
"""COCO dataset dict: lists of `images`, `annotations` and `categories`, with original ids."""

CocoResults = list[dict[str, Any]]
"""COCO results with original ids: `image_id`, `category_id`, `bbox` and `score` each."""


@dataclass(frozen=True)
class BoxColumns:
    """Boxes of all images.

    Attributes:
        image: Index of each box's image, (N,) or (D,).
        category: Index of each box's category, the same.
        box: Boxes xywh, (N, 4) or (D, 4).
    """

    image: np.ndarray
    category: np.ndarray
    box: np.ndarray


@dataclass(frozen=True)
class GroundTruthColumns(BoxColumns):
    """The annotations of a COCO data set, in the order of the file.

    Attributes:
        crowd: Whether a box is a crowd region, which is never counted as missed, (N,).
        names: Unique category names.
    """

    crowd: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class DetectionColumns(BoxColumns):
    """Detections by descending score; ties by image, then in the order of the results.

    Attributes:
        score: Scores, descending, (D,).
    """

    score: np.ndarray

    def select(self, keep: np.ndarray) -> "DetectionColumns":
        """Select detections by a mask, or by ascending indices."""
        return DetectionColumns(self.image[keep], self.category[keep], self.box[keep], self.score[keep])


def positions(items: list[dict[str, Any]]) -> dict[int, int]:
    """Index of every id of images or categories, in ascending order of ids."""
    return {key: position for position, key in enumerate(sorted({item["id"] for item in items}))}


def class_names(ground_truth: CocoDataset) -> dict[int, str]:
    """Name of every category by id, in ascending order of ids; a name used twice is followed by its id."""
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    uses = Counter(category["name"] for category in categories)
    return {c["id"]: c["name"] if uses[c["name"]] == 1 else f"{c['name']} (id {c['id']})" for c in categories}


def known_results(ground_truth: CocoDataset, results: CocoResults) -> CocoResults:
    """Select results whose image and category are in the ground truth; the others are neither right nor wrong.

    Nor are those of categories on which an image is not judged (`data.federated`).
    """
    images, categories = positions(ground_truth["images"]), positions(ground_truth["categories"])
    known = [r for r in results if r["image_id"] in images and r["category_id"] in categories]
    judged = ground_truth.get("judged")
    return known if judged is None else [r for r in known if r["category_id"] in judged[r["image_id"]]]


def ground_truth_columns(ground_truth: CocoDataset) -> GroundTruthColumns:
    """Flatten the annotations of a COCO dataset dict."""
    annotations = ground_truth["annotations"]
    crowd = np.array([a.get("iscrowd", 0) for a in annotations], dtype=bool)
    return GroundTruthColumns(*_flat(ground_truth, annotations), crowd, list(class_names(ground_truth).values()))


def detection_columns(ground_truth: CocoDataset, results: CocoResults) -> DetectionColumns:
    """Flatten COCO results and sort them best first; those on unknown images or categories are left out."""
    results = known_results(ground_truth, results)
    unsorted = DetectionColumns(
        *_flat(ground_truth, results), np.array([r["score"] for r in results], dtype=np.float64)
    )
    return unsorted.select(np.lexsort((unsorted.image, -unsorted.score)))


def _flat(ground_truth: CocoDataset, items: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arrays of `BoxColumns` for annotations or results."""
    images, categories = positions(ground_truth["images"]), positions(ground_truth["categories"])
    return (
        np.array([images[item["image_id"]] for item in items], dtype=np.int64),
        np.array([categories[item["category_id"]] for item in items], dtype=np.int64),
        np.array([item["bbox"] for item in items], dtype=np.float64).reshape(-1, 4),  # (0, 4) without boxes
    )
