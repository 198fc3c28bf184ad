"""What is found and what is falsely found at every score, and two numbers that are read off it: EER and MR⁻².

Unlike in `curves.py`, all detections count: COCO looks at the 100 best of an image, and a crowd may be larger.
Ground-truth boxes with `iscrowd` are regions to ignore: whoever finds no ground truth and has half of the own
area or more on one of them is neither right nor wrong.

Shapes: D detections, P points.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.evaluation.columns import detection_columns, ground_truth_columns
from detection.evaluation.curves import Matching
from detection.evaluation.matching import FALSE_POSITIVE, IGNORED, match_detections

REFERENCE_FPPI = 10.0 ** np.linspace(-2, 0, 9)
LEAST_MISS_RATE = 1e-10
"""Miss rates under this are raised to it, as in Dollár's toolbox: a logarithm is taken of them."""


@dataclass(frozen=True)
class OperatingPoints:
    """What is found when detections are kept down to a score; one point a score, since equals are kept together.

    Attributes:
        score: Distinct scores, descending, (P,).
        found: Number of ground-truth boxes found, (P,).
        false: Number of detections that found nothing, (P,).
        num_ground_truth: Number of ground-truth boxes, crowds left out.
        num_images: Number of images.
    """

    score: np.ndarray
    found: np.ndarray
    false: np.ndarray
    num_ground_truth: int
    num_images: int


def match_all(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> Matching:
    """Match results to ground-truth boxes at IoU 0.5, best score first, as `curves.match` does, but all of them."""
    targets, detections = ground_truth_columns(ground_truth), detection_columns(ground_truth, results)
    return Matching(targets, detections, match_detections(detections, targets))


def operating_points(matching: Matching, num_images: int, category: int | None = None) -> OperatingPoints:
    """Count what is found at every score.

    Args:
        matching: What each detection found.
        num_images: Number of images of the data set.
        category: Position of the class in ascending order of ids; None takes all under one score.
    """
    counts, real = matching.matched != IGNORED, ~matching.targets.crowd
    if category is not None:
        counts &= matching.detections.category == category
        real &= matching.targets.category == category
    score, matched = matching.detections.score[counts], matching.matched[counts]
    last = np.flatnonzero(np.append(np.diff(score) != 0, True)[: len(score)])
    found, false = np.cumsum(matched >= 0)[last], np.cumsum(matched == FALSE_POSITIVE)[last]
    return OperatingPoints(score[last], found, false, int(real.sum()), num_images)


def equal_error(points: OperatingPoints) -> tuple[float, float]:
    """Precision where it equals recall, which is where as many detections are kept as there are ground-truth boxes.

    Between two points the number found is taken to grow evenly. Where there are fewer detections than ground-truth
    boxes, false ones with lower scores are imagined: the value is then the recall of all.

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
    """False positives an image and the share of ground-truth boxes missed, (P,) each; NaN where there is no ground truth or image."""
    with np.errstate(invalid="ignore"):
        return points.false / np.float64(points.num_images), 1 - points.found / np.float64(points.num_ground_truth)


def miss_rate(points: OperatingPoints) -> float:
    """Log-average miss rate MR⁻²: geometric mean of the miss rates at nine FPPI from 0.01 to 1, even in logarithm.

    The rule is that of Dollár's toolbox: a reference takes the last point that does not exceed it, so the curve's end
    where the curve stops short of it, and a miss rate of 1 where the curve begins beyond it. CrowdHuman's own script
    takes the first point that is not below instead, which is a little kinder.
    """
    if not points.num_ground_truth:
        return -1.0
    fppi, miss = miss_rate_curve(points)
    at = np.append(1.0, miss)[np.searchsorted(fppi, REFERENCE_FPPI, side="right")]
    return float(np.exp(np.log(at.clip(min=LEAST_MISS_RATE)).mean()))
