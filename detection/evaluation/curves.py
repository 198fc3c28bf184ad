"""Precision and recall over scores, the score of best F1 and the confusion matrix, all from one matching at IoU 0.5."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from detection.evaluation.columns import (
    CocoDataset,
    CocoResults,
    DetectionColumns,
    GroundTruthColumns,
    detection_columns,
    ground_truth_columns,
)
from detection.evaluation.matching import FALSE_POSITIVE, IGNORED, best_per_image, match_detections, overlapping_pairs


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

    def of_class(self, category: int | None) -> tuple[np.ndarray, np.ndarray, int]:
        """Scores and matches of a class's detections that count, and its number of ground-truth boxes, no crowds.

        Args:
            category: Index of the class in ascending order of ids; None takes all.
        """
        if category is None:
            counts = self.matched != IGNORED
            return self.detections.score[counts], self.matched[counts], int((~self.targets.crowd).sum())
        by_category, ends, num_ground_truth = self._by_category
        counts = by_category[ends[category] : ends[category + 1]]
        return self.detections.score[counts], self.matched[counts], int(num_ground_truth[category])

    @cached_property
    def _by_category(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Detections that count, grouped by category and best first; where each group begins; ground truth of each."""
        number = len(self.targets.names)
        counts = np.flatnonzero(self.matched != IGNORED)
        category = self.detections.category[counts]
        by_category = counts[np.argsort(category, kind="stable")]
        ends = np.append(0, np.cumsum(np.bincount(category, minlength=number)))
        return by_category, ends, np.bincount(self.targets.category[~self.targets.crowd], minlength=number)


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


def match_results(ground_truth: CocoDataset, results: CocoResults) -> Matching:
    """Match results to a COCO dataset dict at an IoU of 0.5."""
    targets, detections = ground_truth_columns(ground_truth), best_per_image(detection_columns(ground_truth, results))
    return Matching(targets, detections, match_detections(detections, targets))


def precision_recall(matching: Matching, category: int | None = None) -> Curve:
    """Compute precision and recall of a class (see `Matching.of_class`), or of all classes under one common score."""
    score, matched, num_ground_truth = matching.of_class(category)
    found = np.cumsum(matched >= 0)
    recall = found / num_ground_truth if num_ground_truth else np.full(len(found), np.nan)
    return Curve(score, found / np.arange(1, len(found) + 1), recall, num_ground_truth)


def last_of_equal(scores: np.ndarray) -> np.ndarray:
    """Indices of the last of each run of equal scores: those of one score are kept or dropped together."""
    return np.flatnonzero(np.append(np.diff(scores) != 0, True)[: len(scores)])


def best_f1(curve: Curve) -> dict[str, float]:
    """Find the score threshold with the best F1, and precision and recall there.

    Returns:
        `score`, `f1`, `precision` and `recall`; of equal F1 the highest score. Without ground-truth boxes all are -1;
        where nothing is found the score alone is -1.
    """
    if not curve.num_ground_truth:
        return {"score": -1.0, "f1": -1.0, "precision": -1.0, "recall": -1.0}
    last = last_of_equal(curve.score)
    score, precision, recall = curve.score[last], curve.precision[last], curve.recall[last]
    f1 = np.divide(2 * precision * recall, precision + recall, out=np.zeros_like(recall), where=recall > 0)
    if not f1.any():
        return {"score": -1.0, "f1": 0.0, "precision": 0.0, "recall": 0.0}
    best = int(f1.argmax())
    values = {"score": score, "f1": f1, "precision": precision, "recall": recall}
    return {name: float(value[best]) for name, value in values.items()}


def confusion_counts(matching: Matching, score: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the predicted classes of the objects of each class, with detections down to a score.

    The matches within a class stay as they are, so that the diagonal over its row's sum is the recall at this score.
    The ground-truth boxes and detections left over are then matched across classes, detections best first, each to the
    free ground-truth box it overlaps most (IoU ≥ 0.5; of equal overlaps the first). Crowds and detections on crowds of
    their class are not counted.

    Returns:
        True class, predicted class and number of every pair that occurs, (E,) each, in order; class K is background.
    """
    targets, detections = matching.targets, matching.detections
    background = len(targets.names)
    kept = detections.score >= score
    taken_for = np.where(targets.crowd, IGNORED, FALSE_POSITIVE)
    found = matching.matched[kept & (matching.matched >= 0)]
    taken_for[found] = targets.category[found]
    spare = detections.select(kept & (matching.matched == FALSE_POSITIVE))
    used = _match_left_over(spare, targets, taken_for)
    real = ~targets.crowd
    predicted = np.where(taken_for >= 0, taken_for, background)[real]
    false = spare.category[~used]
    true = np.concatenate([targets.category[real], np.full(len(false), background)])
    pairs, number = np.unique(true * (background + 1) + np.concatenate([predicted, false]), return_counts=True)
    return pairs // (background + 1), pairs % (background + 1), number


def _match_left_over(spare: DetectionColumns, targets: GroundTruthColumns, taken_for: np.ndarray) -> np.ndarray:
    """Match left-over boxes across classes, in `taken_for`; returns a mask of the detections used."""
    detection, ground_truth, iou = overlapping_pairs(spare, targets, 0.5, same_category=False)
    used = np.zeros(len(spare.score), dtype=bool)
    for pair in np.lexsort((ground_truth, -iou, detection)).tolist():
        if not used[detection[pair]] and taken_for[ground_truth[pair]] == FALSE_POSITIVE:
            used[detection[pair]] = True
            taken_for[ground_truth[pair]] = spare.category[detection[pair]]
    return used
