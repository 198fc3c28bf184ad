"""Detections drawn from a known law, whose AP over all possible images is a formula.

An image has 3 ground-truth boxes. A ground truth is found with probability p, at a score even in 0..1; there are 2
false alarms an image on average, at scores of density 2(1 − s). Down to score s recall is p(1 − s), and precision at
recall r is 3 / (3 + 2 r / p²): it falls, so COCO's AP is its mean over the recall levels up to p. Where a share of the
images is empty they have false alarms alone, and false alarms on crowd regions are neither right nor wrong.
"""

import numpy as np

from detection.evaluation.bootstrap import RECALLS, Ranking
from detection.evaluation.intervals import bootstrap_counts

TRUTHS, FALSE_ALARMS = 3, 2.0


def true_ap(p: float, seed_sd: float, empty: float = 0.0, crowd: float = 0.0) -> float:
    """AP on all possible images, averaged over seeds that move p by a normal step.

    `empty` is the share of images without ground truth, `crowd` that of false alarms on crowd regions.
    """
    targets, alarms = TRUTHS * (1 - empty), FALSE_ALARMS * (1 - crowd)  # an image
    step = np.linspace(-6, 6, 2401)
    weight = np.exp(-(step**2) / 2)
    p_of_seed = (p + seed_sd * step)[:, None]
    precision = np.where(p_of_seed >= RECALLS, targets / (targets + alarms * RECALLS / p_of_seed**2), 0)
    return float((weight / weight.sum()) @ precision.mean(axis=1))


def draw(
    rng: np.random.Generator, p_of_image: np.ndarray, is_empty: np.ndarray | None = None, crowd: float = 0.0
) -> Ranking:
    """One run: what it detects on images whose ground-truth boxes are found with the given probabilities (N,)."""
    num_images = len(p_of_image)
    found = rng.random((num_images, TRUTHS)) < p_of_image[:, None]
    targets = np.full(num_images, TRUTHS)
    if is_empty is not None:
        found[is_empty], targets[is_empty] = False, 0
    alarms = np.repeat(np.arange(num_images), rng.poisson(FALSE_ALARMS, num_images))
    image = np.concatenate([np.nonzero(found)[0], alarms])
    matched = np.arange(len(image)) < found.sum()
    score = np.where(matched, rng.random(len(image)), 1 - np.sqrt(rng.random(len(image))))
    order = np.argsort(-score)
    ignored = ~matched & (rng.random(len(image)) < crowd)
    return Ranking(image[order], matched[None, order], ignored[None, order], targets)


def counts_with_identity(rng: np.random.Generator, num_images: int, resamplings: int) -> np.ndarray:
    """The images as they are, and bootstrap samples of them, (1 + S, N)."""
    sampled = bootstrap_counts(num_images, resamplings, int(rng.integers(2**31)))
    return np.concatenate([np.ones((1, num_images), dtype=np.int64), sampled])
