"""PASCAL VOC's AP at IoU 0.5, 11-point (VOC 2007) and all-point (VOC 2010 and later).

Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective", IJCV 2015, and the development kit's
`VOCevaldet.m`. One departure: the kit counts pixels, so a box from 10 to 20 is 11 wide; COCO files hold continuous
boxes and here it is 10 wide, as in the other metrics. At 30 pixels this changes an IoU near 0.5 by less than 0.02.
"""

import numpy as np

from detection.evaluation.columns import (
    CocoDataset,
    CocoResults,
    DetectionColumns,
    GroundTruthColumns,
    detection_columns,
    ground_truth_columns,
)
from detection.evaluation.matching import FALSE_POSITIVE, IGNORED, overlapping_pairs


def voc_matching(detections: DetectionColumns, targets: GroundTruthColumns) -> np.ndarray:
    """Match detections by the development kit's rule: each only to the ground-truth box it overlaps most, free or not.

    If that box is difficult (`iscrowd` in COCO files) the detection is ignored; if a better detection has it already,
    the detection is a false positive, even where a second box would have been free.

    Arguments and result are those of `match_detections`, at an IoU of 0.5.
    """
    detection, ground_truth, overlap = overlapping_pairs(detections, targets, 0.5, crowd_union=False)
    matched = np.full(len(detections.score), FALSE_POSITIVE)
    by_overlap = np.lexsort((ground_truth, -overlap, detection))
    detection, first = np.unique(detection[by_overlap], return_index=True)
    ground_truth = ground_truth[by_overlap][first]
    matched[detection[targets.crowd[ground_truth]]] = IGNORED
    real = ~targets.crowd[ground_truth]
    found, first = np.unique(ground_truth[real], return_index=True)
    matched[detection[real][first]] = found
    return matched


def eleven_point_ap(hits: np.ndarray, num_ground_truth: int) -> float:
    """Mean over the recalls 0, 0.1, … 1 of the best precision at that recall or a higher one.

    Args:
        hits: Whether each detection that counts is a true positive, best first, (D,).
        num_ground_truth: Number of ground-truth boxes, at least 1.
    """
    found, precision = _counts(hits)
    # Integers, so that a recall of exactly 3/10 reaches the point 0.3.
    points = [precision[found * 10 >= tenth * num_ground_truth].max(initial=0.0) for tenth in range(11)]
    return float(np.mean(points))


def all_point_ap(hits: np.ndarray, num_ground_truth: int) -> float:
    """Area under the curve of precision over recall, precision made to fall; arguments as for `eleven_point_ap`."""
    _, precision = _counts(hits)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(falling[hits].sum() / num_ground_truth)


def _counts(hits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ground-truth boxes found so far and precision so far, (D,) each."""
    found = np.cumsum(hits)
    return found, found / np.arange(1, len(hits) + 1)


def voc_metrics(ground_truth: CocoDataset, results: CocoResults) -> dict[str, float]:
    """Compute both kinds of AP at IoU 0.5, mean over the classes with ground truth; `iscrowd` marks difficult objects.

    Returns:
        `VOC07_AP50` (11-point) and `VOC_AP50` (all-point); -1 if no class has ground truth.
    """
    targets, detections = ground_truth_columns(ground_truth), detection_columns(ground_truth, results)
    matched = voc_matching(detections, targets)
    aps = []
    for category in range(len(targets.names)):
        num_ground_truth = int(((targets.category == category) & ~targets.crowd).sum())
        if num_ground_truth:
            hits = matched[(detections.category == category) & (matched != IGNORED)] >= 0
            aps.append((eleven_point_ap(hits, num_ground_truth), all_point_ap(hits, num_ground_truth)))
    eleven, every = np.mean(aps, axis=0) if aps else (-1.0, -1.0)
    return {"VOC07_AP50": float(eleven), "VOC_AP50": float(every)}
