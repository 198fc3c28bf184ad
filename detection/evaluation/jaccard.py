"""Jaccard index of detections and ground-truth boxes, as CrowdDet (Chu et al., CVPR 2020) computes it on CrowdHuman.

For each image, |matched| / (|ground-truth boxes| + |detections| - |matched|) under a maximum matching at IoU 0.5; mean
over the images with ground truth or detections; best over score thresholds. Unmatched detections and ground-truth boxes
with half of their area or more on a region to ignore are not counted. Two departures from the original:

- It tries the scores 0, 0.1, … 0.9. The scores of some detectors are all above 0.9, so the scores that keep half as
  many detections as there are ground-truth boxes, 0.6 times as many, … 1.5 times as many are tried too. The index is
  never lower.
- Several maximum matchings may leave different boxes unmatched. The original takes any, this one that leaves the most
  on regions to ignore, so that the order of boxes changes nothing.

Shapes: N ground-truth boxes, D detections, P pairs, I images, K classes, T thresholds.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from detection.evaluation.columns import DetectionColumns, GroundTruthColumns
from detection.evaluation.matching import overlapping_pairs

SCORES = np.arange(10) / 10
TENTHS = np.arange(5, 16)


def jaccard_indices(
    targets: GroundTruthColumns, detections: DetectionColumns, num_images: int
) -> list[tuple[float, float]]:
    """Compute the index of every class, and the score threshold where it is reached; crowds are the regions to ignore.

    Returns:
        Index and threshold, K of them; (-1, -1) for a class without ground truth.
    """
    num_classes = len(targets.names)
    detection, ground_truth, _ = overlapping_pairs(detections, targets, 0.5)
    crowd = targets.crowd[ground_truth]
    first, second, _ = overlapping_pairs(targets, targets, 0.5)
    on_crowd = first[targets.crowd[second]]  # ground-truth boxes that have half of their area on a crowd of their class
    graph = _Graph(
        detection[~crowd],
        ground_truth[~crowd],
        detections.image * num_classes + detections.category,
        targets.image * num_classes + targets.category,
        np.bincount(detection[crowd], minlength=len(detections.score)) == 0,
        ~targets.crowd & (np.bincount(on_crowd, minlength=len(targets.crowd)) == 0),
        num_images * num_classes,
    )
    real = np.bincount(targets.category[~targets.crowd], minlength=num_classes)
    thresholds = _thresholds(detections, real)
    kept = (detections.score >= row[detections.category] for row in thresholds)
    ratios = (np.ma.masked_invalid(graph.ratios(k)).reshape(num_images, num_classes) for k in kept)  # (I, K) each
    # An image without ground truth and detections has no ratio; a class without any ratio gets 0.
    means = np.array([of_images.mean(axis=0).filled(0) for of_images in ratios])  # (T, K)
    best = [(float(means[t, k]), float(thresholds[t, k])) for k, t in enumerate(means.argmax(0).tolist())]
    return [pair if number else (-1.0, -1.0) for pair, number in zip(best, real.tolist(), strict=True)]


def _thresholds(detections: DetectionColumns, num_ground_truth: np.ndarray) -> np.ndarray:
    """Scores to try, (T, K): `SCORES`, and those at ranks of 0.5, … 1.5 times the ground-truth boxes (K,)."""
    thresholds = np.repeat(np.append(SCORES, 0.0 * TENTHS)[:, None], len(num_ground_truth), axis=1)
    for category, number in enumerate(num_ground_truth.tolist()):
        score = detections.score[detections.category == category]
        if len(score):
            ranks = (-(-TENTHS * number // 10)).clip(1, len(score))
            thresholds[len(SCORES) :, category] = score[ranks - 1]
    return thresholds


@dataclass(frozen=True)
class _Graph:
    """Bipartite graph of detections and ground-truth boxes that may match, in all images and classes at once.

    Attributes:
        detection: Detection of each pair, (P,).
        ground_truth: Ground-truth box of each pair, (P,).
        key: Image and class of each detection as one number, (D,).
        ground_truth_key: The same of each ground-truth box, (N,).
        plain: Mask of detections that are not on a crowd, (D,).
        plain_ground_truth: Mask of ground-truth boxes that neither are nor are on a crowd, (N,).
        num_keys: Number of images times classes.
    """

    detection: np.ndarray
    ground_truth: np.ndarray
    key: np.ndarray
    ground_truth_key: np.ndarray
    plain: np.ndarray
    plain_ground_truth: np.ndarray
    num_keys: int

    def ratios(self, kept: np.ndarray) -> np.ndarray:
        """Compute the index of every image and class, NaN where there is nothing to match.

        Only the detections in the mask `kept` (D,) count. A maximum matching exists that matches as many detections,
        and as many ground-truth boxes, off the crowds as any matching can (Mendelsohn and Dulmage 1958); the rest of
        its pairs is what counts of those on crowds.
        """
        pairs = kept[self.detection]
        matched = self._matched(pairs)
        plain, plain_ground_truth = self.plain[self.detection], self.plain_ground_truth[self.ground_truth]
        detections = self._number(self.key[kept & self.plain])
        detections += matched - (self._matched(pairs & plain) if not plain.all() else matched)
        targets = self._number(self.ground_truth_key[self.plain_ground_truth])
        targets += matched - (self._matched(pairs & plain_ground_truth) if not plain_ground_truth.all() else matched)
        union = targets + detections - matched
        return np.divide(matched, union, out=np.full(self.num_keys, np.nan), where=union > 0)

    def _matched(self, pairs: np.ndarray) -> np.ndarray:
        """Pairs of a maximum matching among some of the pairs (a mask), for each image and class."""
        edges = np.ones(pairs.sum()), (self.detection[pairs], self.ground_truth[pairs])
        graph = csr_matrix(edges, (len(self.key), len(self.ground_truth_key)))
        partner = maximum_bipartite_matching(graph, "column")
        return self._number(self.key[partner >= 0])

    def _number(self, keys: np.ndarray) -> np.ndarray:
        return np.bincount(keys, minlength=self.num_keys)
