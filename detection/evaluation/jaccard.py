"""Jaccard index of detections and ground-truth boxes, as CrowdDet (Chu et al., CVPR 2020) computes it on CrowdHuman.

For each image, k / (m + n - k), where k pairs of a matching are found among m ground-truth boxes and n detections; mean
over the images with ground truth or detections; best over the score thresholds 0, 0.1, … 0.9. As the authors' program
does it:

- Boxes are clipped to their image, and detections are kept whose score is above the threshold.
- The matching has the largest sum of IoUs, each above 0.5. It is not always the one with most pairs: two pairs of IoU 1
  are worth more than three of 0.55.
- Unmatched detections and ground-truth boxes with more than half of their area on a region to ignore do not count.

Where several matchings are the best, the program takes any, and this one that leaves most unmatched on regions to
ignore, so that the order of boxes changes nothing.

Shapes: N ground-truth boxes, D detections, P pairs, I images, K classes, T thresholds.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from detection.evaluation.columns import BoxColumns, DetectionColumns, GroundTruthColumns
from detection.evaluation.matching import overlapping_pairs

SCORES = np.arange(10) / 10
IOU = 0.5
_TIE = 1e-9


def jaccard_indices(
    targets: GroundTruthColumns, detections: DetectionColumns, sizes: np.ndarray
) -> list[tuple[float, float]]:
    """Compute the index of every class, and the score threshold where it is reached; crowds are the regions to ignore.

    Args:
        targets: Ground-truth boxes.
        detections: Detections.
        sizes: Width and height of every image, (I, 2); NaN where they are unknown.

    Returns:
        Index and threshold, K of them; (-1, -1) for a class without ground truth.
    """
    targets = replace(targets, box=_clipped(targets, sizes))
    detections = replace(detections, box=_clipped(detections, sizes))
    num_classes, shape = len(targets.names), (len(sizes), len(targets.names))
    key, true_key = (columns.image * num_classes + columns.category for columns in (detections, targets))
    pairs = _pairs(detections, targets)
    on_crowd = np.bincount(pairs[0][targets.crowd[pairs[1]]], minlength=len(key)) > 0  # (D,)
    first, second, _ = _pairs(targets, targets)
    true_on_crowd = np.bincount(first[targets.crowd[second]], minlength=len(true_key)) > 0  # (N,)
    real = ~targets.crowd
    matched = np.zeros((len(SCORES), len(key)), bool)
    found = np.zeros((len(SCORES), len(true_key)), bool)
    for rows, columns, weights in _components(pairs, key, real, ~on_crowd, ~true_on_crowd):
        _match(rows, columns, weights, detections.score, matched, found)
    means = []
    for threshold, is_matched, is_found in zip(SCORES, matched, found, strict=True):
        counted = (detections.score > threshold) & (is_matched | ~on_crowd)
        counted_keys = key[is_matched], key[counted], true_key[real & (is_found | ~true_on_crowd)]
        k, n, m = (np.bincount(keys, minlength=shape[0] * shape[1]).reshape(shape) for keys in counted_keys)  # (I, K)
        present = (m + n > 0).sum(axis=0)
        ratios = np.divide(k, m + n - k, out=np.zeros(shape), where=m + n > 0)
        means.append(ratios.sum(axis=0) / np.maximum(present, 1))
    best = np.argmax(means, axis=0).tolist()  # the smallest threshold of equal means
    classes = np.bincount(targets.category[real], minlength=num_classes).tolist()
    return [(float(means[t][c]), float(SCORES[t])) if classes[c] else (-1.0, -1.0) for c, t in enumerate(best)]


def _clipped(boxes: BoxColumns, sizes: np.ndarray) -> np.ndarray:
    """Clip boxes xywh to their images; those beyond the right or lower border keep their last pixel, as in CrowdDet."""
    size = np.nan_to_num(sizes, nan=np.inf)[boxes.image]
    start = boxes.box[:, :2].clip(0, size - 1)
    stop = (boxes.box[:, :2] + boxes.box[:, 2:]).clip(0, size)
    # Without a size there is nothing to clip to, at the left and upper border either.
    clipped = np.concatenate([start, stop - start], axis=1)
    return np.where(np.isinf(size).any(axis=1, keepdims=True), boxes.box, clipped)


def _pairs(boxes: BoxColumns, targets: GroundTruthColumns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a class and image with an IoU, or a share on a crowd, above 0.5: indices and that, (P,) each."""
    first, second, iou = overlapping_pairs(boxes, targets, IOU)
    return first[iou > IOU], second[iou > IOU], iou[iou > IOU]


def _components(
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
    key: np.ndarray,
    real: np.ndarray,
    plain: np.ndarray,
    true_plain: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for each image and class its detections and ground-truth boxes in pairs, and their weights, 0 for none."""
    detection, ground_truth, iou = (part[real[pairs[1]]] for part in pairs)
    weight = iou + _TIE * (plain[detection].astype(float) + true_plain[ground_truth])
    order = np.argsort(key[detection], kind="stable")
    starts = np.flatnonzero(np.diff(key[detection][order], prepend=-1))
    for group in np.split(order, starts[1:]) if len(starts) else ():
        rows, row = np.unique(detection[group], return_inverse=True)
        columns, column = np.unique(ground_truth[group], return_inverse=True)
        weights = np.zeros((len(rows), len(columns)))
        weights[row, column] = weight[group]
        yield rows, columns, weights


def _match(
    rows: np.ndarray,
    columns: np.ndarray,
    weights: np.ndarray,
    score: np.ndarray,
    matched: np.ndarray,
    found: np.ndarray,
) -> None:
    """Mark the pairs of the best matching at each threshold in `matched` (T, D) and `found` (T, N)."""
    counts = (score[rows] > SCORES[:, None]).sum(axis=1).tolist()  # the first rows have the highest scores
    chosen = {count: linear_sum_assignment(weights[:count], maximize=True) for count in set(counts)}
    for threshold, count in enumerate(counts):
        row, column = chosen[count]
        pair = weights[row, column] > 0
        matched[threshold, rows[row[pair]]] = True
        found[threshold, columns[column[pair]]] = True
