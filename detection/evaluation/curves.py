"""Precision and recall over scores, the score of best F1 and the confusion matrix, all from one matching at IoU 0.5."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.evaluation.columns import DetectionColumns, GroundTruthColumns, detection_columns, ground_truth_columns
from detection.evaluation.matching import (
    FALSE_POSITIVE,
    IGNORED,
    best_per_image,
    match_detections,
    overlapping_pairs,
)


@dataclass(frozen=True)
class Matching:
    """Detections of a data set and their matches.

    Attributes:
        targets: The ground-truth boxes, N of them.
        detections: The 100 best detections of every image and category, best first, D of them.
        matched: Index of the matched ground-truth box, or `FALSE_POSITIVE`, or `IGNORED` (on a crowd), (D,).
    """

    targets: GroundTruthColumns
    detections: DetectionColumns
    matched: np.ndarray


@dataclass(frozen=True)
class Curve:
    """Precision and recall over score thresholds.

    Attributes:
        score: Scores of the detections that count, descending, (D,).
        precision: Share of true positives among the detections so far, (D,).
        recall: Share of the ground-truth boxes found so far, (D,); NaN where there is no ground truth.
        num_ground_truth: Number of ground-truth boxes, crowds left out.
    """

    score: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    num_ground_truth: int


def match_results(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> Matching:
    """Match results to a COCO dataset dict at an IoU of 0.5.

    Args:
        ground_truth: COCO dataset dict.
        results: COCO results with original ids.
    """
    targets, detections = ground_truth_columns(ground_truth), best_per_image(detection_columns(ground_truth, results))
    return Matching(targets, detections, match_detections(detections, targets))


def precision_recall(matching: Matching, category: int | None = None) -> Curve:
    """Compute precision and recall of one class, or of all classes under one common score.

    Args:
        matching: Matches of all detections.
        category: Index of the class in ascending order of ids; None takes all.
    """
    counts = matching.matched != IGNORED
    real = ~matching.targets.crowd
    if category is not None:
        counts &= matching.detections.category == category
        real &= matching.targets.category == category
    found = np.cumsum(matching.matched[counts] >= 0)
    num_ground_truth = int(real.sum())
    return Curve(
        score=matching.detections.score[counts],
        precision=found / np.arange(1, len(found) + 1),
        recall=found / num_ground_truth if num_ground_truth else np.full(len(found), np.nan),
        num_ground_truth=num_ground_truth,
    )


def best_f1(curve: Curve) -> dict[str, float]:
    """Find the score threshold with the best F1, and precision and recall there.

    Detections of one score are kept or dropped together, so that the threshold can be applied; of equal F1 the
    highest score wins.

    Returns:
        `score`, `f1`, `precision` and `recall`. Without ground-truth boxes all are -1; where nothing is found the
        score alone is -1.
    """
    if not curve.num_ground_truth:
        return {"score": -1.0, "f1": -1.0, "precision": -1.0, "recall": -1.0}
    last_of_ties = np.flatnonzero(np.append(np.diff(curve.score) != 0, True)[: len(curve.score)])
    precision, recall = curve.precision[last_of_ties], curve.recall[last_of_ties]
    f1 = np.divide(2 * precision * recall, precision + recall, out=np.zeros_like(recall), where=recall > 0)
    if not f1.any():
        return {"score": -1.0, "f1": 0.0, "precision": 0.0, "recall": 0.0}
    best = int(f1.argmax())
    values = (curve.score[last_of_ties][best], f1[best], precision[best], recall[best])
    return dict(zip(("score", "f1", "precision", "recall"), map(float, values), strict=True))


def confusion_matrix(matching: Matching, score: float) -> np.ndarray:
    """Count the predicted classes of the objects of each class, with detections down to a score.

    The matches within a class stay as they are, so that the diagonal over its row's sum is the recall at this score.
    The ground-truth boxes and detections left over are then matched across classes, detections best first, each to the
    free ground-truth box it overlaps most (IoU ≥ 0.5; of equal overlaps the first). Crowds and detections on crowds of
    their class are not counted.

    Args:
        matching: Matches of all detections.
        score: Smallest score of a detection.

    Returns:
        Counts (K + 1, K + 1): true class by predicted class; the last row and column are background.
    """
    targets, detections = matching.targets, matching.detections
    background = len(targets.names)
    kept = detections.score >= score
    taken_for = np.where(targets.crowd, IGNORED, FALSE_POSITIVE)
    found = matching.matched[kept & (matching.matched >= 0)]
    taken_for[found] = targets.category[found]

    spare = detections.select(kept & (matching.matched == FALSE_POSITIVE))
    used = _match_left_over(spare, targets, taken_for)

    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    real = ~targets.crowd
    predicted = np.where(taken_for >= 0, taken_for, background)
    np.add.at(matrix, (targets.category[real], predicted[real]), 1)
    matrix[background, :-1] += np.bincount(spare.category[~used], minlength=background)
    return matrix


def _match_left_over(spare: DetectionColumns, targets: GroundTruthColumns, taken_for: np.ndarray) -> np.ndarray:
    """Match left-over boxes across classes, in `taken_for`; returns a mask of the detections used."""
    detection, ground_truth, iou = overlapping_pairs(spare, targets, 0.5, same_category=False)
    used = np.zeros(len(spare.score), dtype=bool)
    for pair in np.lexsort((ground_truth, -iou, detection)).tolist():
        if not used[detection[pair]] and taken_for[ground_truth[pair]] == FALSE_POSITIVE:
            used[detection[pair]] = True
            taken_for[ground_truth[pair]] = spare.category[detection[pair]]
    return used
