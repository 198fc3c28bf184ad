"""The finding alone: all classes as one, and class-agnostic non-maximum suppression (NMS) of the results."""

from typing import Any

import numpy as np

from detection.errors import UserError
from detection.evaluation.columns import CocoDataset, CocoResults, GroundTruthColumns, detection_columns, known_results
from detection.evaluation.matching import overlapping_pairs
from detection.evaluation.report import evaluate_detections

NMS_IOU = 0.5
"""Over this IoU to a better detection of its image, whatever its class, one is dropped."""

NAME = "object"


def measure(
    ground_truth: CocoDataset, results: CocoResults, classes_ignored: bool = False, slice_by: str | None = None
) -> tuple[CocoDataset, CocoResults, dict[str, Any]]:
    """Compute metrics and errors by `evaluate_detections`, of all classes as one if they are ignored.

    Returns:
        Ground truth and results as they were measured, and the metrics; these have `classes_ignored` and
        `class_agnostic_nms_iou` where they are.
    """
    if classes_ignored:
        ground_truth, results = ignore_classes(ground_truth, results)
    metrics = evaluate_detections(ground_truth, results, errors=True, slice_by=slice_by)
    ignored = {"classes_ignored": True, "class_agnostic_nms_iou": NMS_IOU} if classes_ignored else {}
    return ground_truth, results, {**metrics, **ignored}


def ignore_classes(ground_truth: CocoDataset, results: CocoResults) -> tuple[CocoDataset, CocoResults]:
    """Make all categories one, and keep the best of detections that overlap over `NMS_IOU`.

    Without that a detector that reports two classes of one object would have a false positive for each.

    Returns:
        Ground truth and results of the category `object`, under the lowest id of all categories.

    Raises:
        UserError: the ground truth has not all classes annotated in each image.
    """
    if ground_truth.get("judged") is not None:
        raise UserError(
            "--ignore-classes: the annotations list classes that are not annotated in every image "
            "(neg_category_ids); without classes there is no telling which detections are judged: leave it out."
        )
    ids = [category["id"] for category in ground_truth["categories"]]
    one = {"category_id": min(ids, default=1)}
    merged = {
        **ground_truth,
        "annotations": [{**annotation, **one} for annotation in ground_truth["annotations"]],
        "categories": [{"id": one["category_id"], "name": NAME}],
    }
    known = [{**result, **one} for result in known_results(ground_truth, results)]
    return merged, [known[row] for row in _kept(merged, known)]


def _kept(ground_truth: CocoDataset, results: CocoResults) -> list[int]:
    """Rows of the results that NMS keeps, ascending."""
    # The row of each result goes through the sort as its box.
    places = [{**result, "bbox": [row, 0, 0, 0]} for row, result in enumerate(results)]
    rows = detection_columns(ground_truth, places).box[:, 0].astype(int)  # (D,) best first
    boxes = detection_columns(ground_truth, results)
    crowd = np.zeros(len(boxes.box), dtype=bool)
    targets = GroundTruthColumns(boxes.image, boxes.category, boxes.box, crowd, [NAME])
    first, second, iou = overlapping_pairs(boxes, targets, NMS_IOU)
    worse = (first < second) & (iou > NMS_IOU)
    first, second = first[worse], second[worse]
    bounds = np.searchsorted(first, np.arange(len(rows) + 1))
    keep = np.ones(len(rows), dtype=bool)
    for better in np.unique(first).tolist():  # ascending: whether it is kept is settled by then
        if keep[better]:
            keep[second[bounds[better] : bounds[better + 1]]] = False
    return sorted(rows[keep].tolist())
