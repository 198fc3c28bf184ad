"""Jaccard index of detections and truths, as CrowdDet (Chu et al., CVPR 2020) measures it on CrowdHuman.

For each image, |matched| / (|truths| + |detections| - |matched|) under a maximum matching at IoU 0.5; mean over the
images that hold a truth or a detection; best over score thresholds. Detections and truths without partner that lie on
a region to ignore (half of their area or more) are not counted. Two departures from the original:

- It tries the scores 0, 0.1, … 0.9. Detectors are there whose scores all lie above 0.9, so the scores that keep half as
  many detections as there are truths, 0.6 times as many, … 1.5 times as many are tried too. Never is the index lower.
- Several maximum matchings leave different ones without partner. It takes any, this one that leaves the most on regions
  to ignore, so that no order of boxes changes the number.

Shapes: N truths, D detections, P pairs, I images, K classes,
T thresholds.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from detection.evaluation.columns import Detections, Truths
from detection.evaluation.matching import overlapping_pairs

SCORES = np.arange(10) / 10
TENTHS = np.arange(5, 16)


def jaccard_indices(truths: Truths, detections: Detections, num_images: int) -> list[tuple[float, float]]:
    """The index of every class, and the score threshold where it is reached.

    Args:
        truths: Truths, (N,); crowds are the regions to ignore.
        detections: Detections, (D,).
        num_images: Number of images.

    Returns:
        Index and threshold, K of them; (-1, -1) for a class without truth.
    """
    num_classes = len(truths.names)
    detection, truth, _ = overlapping_pairs(detections, truths, 0.5)
    crowd = truths.crowd[truth]
    graph = _Graph(
        detection[~crowd],
        truth[~crowd],
        detections.image * num_classes + detections.category,
        truths.image * num_classes + truths.category,
        ~_mask(len(detections.score), detection[crowd]),
        ~truths.crowd & ~_mask(len(truths.crowd), _on_crowd(truths)),
        num_images * num_classes,
    )
    real = np.bincount(truths.category[~truths.crowd], minlength=num_classes)
    thresholds = _thresholds(detections, real)
    kept = (detections.score >= row[detections.category] for row in thresholds)
    means = np.array([_means(graph.ratios(k).reshape(num_images, num_classes)) for k in kept])
    best = [(float(means[t, k]), float(thresholds[t, k])) for k, t in enumerate(means.argmax(0).tolist())]
    return [pair if number else (-1.0, -1.0) for pair, number in zip(best, real.tolist(), strict=True)]


def _thresholds(detections: Detections, num_truths: np.ndarray) -> np.ndarray:
    """Scores to try, (T, K): `SCORES`, and that of the detection whose rank is 5, … 15 tenths of the truths, (K,)."""
    thresholds = np.repeat(np.append(SCORES, 0.0 * TENTHS)[:, None], len(num_truths), axis=1)
    for category, number in enumerate(num_truths.tolist()):
        score = detections.score[detections.category == category]
        if len(score):
            ranks = (-(-TENTHS * number // 10)).clip(1, len(score))
            thresholds[len(SCORES) :, category] = score[ranks - 1]
    return thresholds


def _on_crowd(truths: Truths) -> np.ndarray:
    """Indices of the truths that have half of their area on a crowd of their class."""
    boxes = Detections(truths.image, truths.category, truths.box, np.zeros(len(truths.box)))
    first, second, _ = overlapping_pairs(boxes, truths, 0.5)
    return first[truths.crowd[second]]


def _mask(size: int, indices: np.ndarray) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[indices] = True
    return mask


def _means(ratios: np.ndarray) -> np.ndarray:
    """Mean of ratios (I, K) over the images where they exist, (K,); 0 where there is none."""
    exists = ~np.isnan(ratios)
    return np.where(exists, ratios, 0).sum(0) / exists.sum(0).clip(min=1)


@dataclass(frozen=True)
class _Graph:
    """Which detection may be given which truth, in all images and classes at once.

    Attributes:
        detection: Detection of each pair, (P,).
        truth: Truth of each pair, (P,).
        key: Image and class of each detection as one number, (D,).
        truth_key: The same of each truth, (N,).
        plain: Which detections do not lie on a crowd, (D,).
        plain_truth: Which truths do not, nor are one, (N,).
        num_keys: Number of images times classes.
    """

    detection: np.ndarray
    truth: np.ndarray
    key: np.ndarray
    truth_key: np.ndarray
    plain: np.ndarray
    plain_truth: np.ndarray
    num_keys: int

    def ratios(self, kept: np.ndarray) -> np.ndarray:
        """The index of every image and class, NaN where there is nothing to match.

        A maximum matching exists that gives partners to as many detections, and as many truths, off the crowds as any
        matching can (Mendelsohn and Dulmage 1958); the rest of its pairs is what counts of those on crowds.

        Args:
            kept: The detections that count, a mask (D,).
        """
        pairs = kept[self.detection]
        matched = self._matched(pairs)
        plain, plain_truth = self.plain[self.detection], self.plain_truth[self.truth]
        detections = self._number(self.key[kept & self.plain])
        detections += matched - (self._matched(pairs & plain) if not plain.all() else matched)
        truths = self._number(self.truth_key[self.plain_truth])
        truths += matched - (self._matched(pairs & plain_truth) if not plain_truth.all() else matched)
        union = truths + detections - matched
        return np.divide(matched, union, out=np.full(self.num_keys, np.nan), where=union > 0)

    def _matched(self, pairs: np.ndarray) -> np.ndarray:
        """Pairs of a maximum matching among some of the pairs (a mask), for each image and class."""
        detection, truth = self.detection[pairs], self.truth[pairs]
        shape = (len(self.key), len(self.truth_key))
        partner = maximum_bipartite_matching(csr_matrix((np.ones(len(truth)), (detection, truth)), shape), "column")
        return self._number(self.key[partner >= 0])

    def _number(self, keys: np.ndarray) -> np.ndarray:
        return np.bincount(keys, minlength=self.num_keys)
