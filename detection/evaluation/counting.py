"""COUNT: the mean absolute error of the number of objects of an image (ReInspect: Stewart, Andriluka, Ng, CVPR 2016).

The score threshold is chosen on other images than those that the error is computed on.
Detections on crowds (see `operating_points.py`) are not counted.

Shapes: D detections, I images, K classes.
"""

from dataclasses import dataclass

import numpy as np

from detection.evaluation.columns import CocoDataset, CocoResults
from detection.evaluation.curves import Matching, last_of_equal
from detection.evaluation.matching import IGNORED, rank_among_equals
from detection.evaluation.operating_points import match_all


@dataclass(frozen=True)
class Counting:
    """Change of the count's error as detections are added, best first.

    Attributes:
        true: Number of ground-truth boxes of an image and class, crowds left out, (I, K).
        image: Image of each detection of a class that has ground truth, (D,).
        category: Its class, (D,).
        score: Scores, descending, (D,).
        step: -1 for a detection up to the true number of its image and class, 1 for one beyond it, (D,).
    """

    true: np.ndarray
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    step: np.ndarray

    def errors(self, threshold: np.ndarray) -> np.ndarray:
        """Mean absolute error of the count over images, (K,); NaN for a class without ground truth.

        Args:
            threshold: Smallest score that is counted in each image, (I,).
        """
        kept = self.score >= threshold[self.image]
        change = np.bincount(self.category[kept], self.step[kept], minlength=self.true.shape[1])
        errors = (self.true.sum(0) + change) / max(len(self.true), 1)
        return np.where(self.true.any(0), errors, np.nan)

    def best_threshold(self, among: np.ndarray) -> float:
        """The highest score threshold with the least error over some images (a mask, (I,)); -1 without detections."""
        score, step = self.score[among[self.image]], self.step[among[self.image]]
        if not len(score):
            return -1.0
        last = last_of_equal(score)
        total = np.append(0, np.cumsum(step)[last])
        best = int(total.argmin())
        return float(score[last][best - 1]) if best else float(np.nextafter(score[0], np.inf))


def counting(matching: Matching, num_images: int) -> Counting:
    """Compare the numbers of detections and ground-truth boxes of every image and class, without those on crowds."""
    targets, detections, num_classes = matching.targets, matching.detections, len(matching.targets.names)
    key = (targets.image * num_classes + targets.category)[~targets.crowd]
    true = np.bincount(key, minlength=num_images * num_classes)
    per_image = true.reshape(num_images, num_classes)  # (I, K)
    has_ground_truth = np.asarray(per_image.any(axis=0))
    counted = detections.select((matching.matched != IGNORED) & has_ground_truth[detections.category])
    key = counted.image * num_classes + counted.category
    step = np.where(rank_among_equals(key) < true[key], -1, 1)
    return Counting(per_image, counted.image, counted.category, counted.score, step)


def choose_count_threshold(ground_truth: CocoDataset, results: CocoResults) -> float:
    """Choose the score threshold with the least error of the count, mean over classes, for use on other images.

    It is the highest such one: just above all scores if every detection makes the count worse; -1 without detections.
    """
    num_images = len(ground_truth["images"])
    return counting(match_all(ground_truth, results), num_images).best_threshold(np.ones(num_images, dtype=bool))


def two_fold_count(counts: Counting) -> tuple[np.ndarray, list[float]]:
    """Errors of the count with each half of the images at the threshold that is best on the other half.

    The halves are every second image by ascending id, so the even and the odd ids where they count from 1.

    Returns:
        Errors by class, (K,), and the two thresholds used: on the images of even and of odd position (from 0). With
        fewer than two images nothing is defined: NaN, and no thresholds.
    """
    if len(counts.true) < 2:
        return np.full(counts.true.shape[1], np.nan), []
    first = np.arange(len(counts.true)) % 2 == 0
    thresholds = [counts.best_threshold(~first), counts.best_threshold(first)]
    return counts.errors(np.where(first, *thresholds)), thresholds
