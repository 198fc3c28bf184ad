"""Repeat-factor sampling (Gupta et al., "LVIS", CVPR 2019): images of rare classes are seen several times an epoch.

A class of which a share f of the images has an object gets the factor r = max(1, √(t / f)) with the threshold t, an
image the largest of its classes. An image with r = 2.3 is in every epoch twice, and in 30 % of them a third time.
The paper draws each image on its own; here the draws of an epoch are stratified (systematic sampling): each image has
the same probability, and all epochs have the same length, which the learning-rate schedule counts on.
"""

import numpy as np


def repeat_factors(image: np.ndarray, label: np.ndarray, num_images: int, threshold: float) -> np.ndarray:
    """Compute the repeat factor of each image.

    Args:
        image: (N,) position of each object's image, from 0.
        label: (N,) its class, from 0.
        num_images: images of the data set, those without objects among them.
        threshold: t, the share of images below which a class is repeated.

    Returns:
        (num_images,) float64 factors, at least 1.
    """
    pairs = np.unique(np.stack([label, image]), axis=1)  # (2, P), each class of an image once
    share = np.bincount(pairs[0]) / max(num_images, 1)
    with np.errstate(divide="ignore"):  # classes without an image have no pair
        of_class = np.maximum(1, np.sqrt(threshold / share))
    factors = np.ones(num_images)
    np.maximum.at(factors, pairs[1], of_class[pairs[0]])
    return factors


def epoch_length(factors: np.ndarray) -> int:
    """Return the images of an epoch: the sum of the factors, rounded up."""
    times, share = _split(factors)
    return int(times.sum() + np.ceil(share.sum()))


def draw_repeats(factors: np.ndarray, image_ids: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Draw how often each image is seen in an epoch.

    Args:
        factors: (n,) of the images.
        image_ids: (n,) whose draws are the same in whatever order the images stand.
        seed: of the training.
        epoch: from 0.

    Returns:
        (n,) int64, the factors rounded up or down at random; their sum is `epoch_length`, or one less.
    """
    times, share = _split(factors)
    # Systematic sampling: along the shares laid end to end, in random order, a point at each integer from a random
    # start on; an image is seen once more where a point falls into its share.
    order = np.argsort(_hashed(image_ids, seed, epoch), kind="stable")
    start = np.random.default_rng([seed, epoch, 2]).random()
    steps = np.floor(np.concatenate([[0.0], np.cumsum(share[order])]) + start).astype(np.int64)
    times[order] += np.diff(steps)
    return times


def _split(factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the integer part of each factor and the share that is left, in 2⁻²⁰: their sum is exact in any order."""
    times = np.floor(factors)
    return times.astype(np.int64), np.round((factors - times) * 2**20) / 2**20


def _hashed(image_ids: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Mix (seed, epoch) into each id: the finalizer of SplitMix64 (Steele et al. 2014)."""
    key = np.random.SeedSequence([seed, epoch, 3]).generate_state(1, np.uint64)[0]
    mixed = (np.asarray(image_ids).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ key
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
