"""True and false positives at every score, and two metrics of them: EER and MR⁻².

Unlike in `curves.py`, all detections count: COCO takes the 100 best of an image, and a crowd may be larger.
Ground-truth boxes with `iscrowd` are regions to ignore: an unmatched detection with half of its area or more on one is
neither right nor wrong.

Shapes: D detections, P points.
"""

from dataclasses import dataclass

import numpy as np

from detection.evaluation.columns import CocoDataset, CocoResults, detection_columns, ground_truth_columns
from detection.evaluation.curves import Matching, last_of_equal
from detection.evaluation.matching import FALSE_POSITIVE, match_detections

REFERENCE_FPPI = 10.0 ** np.linspace(-2, 0, 9)
LEAST_MISS_RATE = 1e-10
"""Lower bound of miss rates before their logarithm is taken, as in Dollár's toolbox."""


@dataclass(frozen=True)
class OperatingPoints:
    """True and false positives when detections are kept down to a score; a point per distinct score.

    Attributes:
        score: Distinct scores, descending, (P,).
        found: Number of true positives, (P,).
        false: Number of false positives, (P,).
        num_ground_truth: Number of ground-truth boxes, crowds left out.
        num_images: Number of images.
    """

    score: np.ndarray
    found: np.ndarray
    false: np.ndarray
    num_ground_truth: int
    num_images: int


def match_all(ground_truth: CocoDataset, results: CocoResults) -> Matching:
    """Match results at an IoU of 0.5 as `curves.match_results` does, but all of them."""
    targets, detections = ground_truth_columns(ground_truth), detection_columns(ground_truth, results)
    return Matching(targets, detections, match_detections(detections, targets))


def operating_points(matching: Matching, num_images: int, category: int | None = None) -> OperatingPoints:
    """Count true and false positives of a class (see `Matching.of_class`) at every score, or of all under one score."""
    score, matched, num_ground_truth = matching.of_class(category)
    last = last_of_equal(score)
    found, false = np.cumsum(matched >= 0)[last], np.cumsum(matched == FALSE_POSITIVE)[last]
    return OperatingPoints(score[last], found, false, num_ground_truth, num_images)


def equal_error(points: OperatingPoints) -> tuple[float, float]:
    """Compute precision where it equals recall: where as many detections are kept as there are ground-truth boxes.

    Between two points the number of true positives is interpolated. Where there are fewer detections than ground-truth
    boxes, they are padded with false positives: the value is then the recall of all.

    Returns:
        The value, and the score of the last detection kept; -1 where there is no ground truth or no detection.
    """
    if not points.num_ground_truth:
        return -1.0, -1.0
    if not len(points.score):
        return 0.0, -1.0
    kept = points.found + points.false
    found = np.interp(points.num_ground_truth, np.append(0, kept), np.append(0, points.found))
    place = min(int(np.searchsorted(kept, points.num_ground_truth)), len(kept) - 1)
    return float(found) / points.num_ground_truth, float(points.score[place])


def miss_rate_curve(points: OperatingPoints) -> tuple[np.ndarray, np.ndarray]:
    """False positives per image and miss rate, (P,) each; NaN where there is no ground truth or image."""
    with np.errstate(invalid="ignore"):
        return points.false / np.float64(points.num_images), 1 - points.found / np.float64(points.num_ground_truth)


def miss_rate(points: OperatingPoints) -> float:
    """Log-average miss rate MR⁻²: geometric mean of the miss rates at nine FPPI from 0.01 to 1, even in logarithm.

    The rule is that of Dollár's toolbox: a reference takes the last point that does not exceed it, so the curve's end
    where the curve stops short of it, and a miss rate of 1 where the curve begins beyond it. CrowdHuman's script takes
    the first point that is not below instead, which gives slightly lower rates.
    """
    if not points.num_ground_truth:
        return -1.0
    fppi, miss = miss_rate_curve(points)
    at = np.append(1.0, miss)[np.searchsorted(fppi, REFERENCE_FPPI, side="right")]
    return float(np.exp(np.log(at.clip(min=LEAST_MISS_RATE)).mean()))
