"""A variant over a suite of data sets: interquartile mean, performance profile and probability of improvement.

They are those of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", on scores
(metric − chance) / (1 − chance), which are comparable across data sets: 0 is chance, 1 is perfect.

Seeds are resampled within each data set (a stratified bootstrap). Agarwal et al. take percentiles of the resampled
values, which is too narrow for few seeds: with 3 seeds on 6 data sets such an interval of the interquartile mean covers
0.87 to 0.89. Here the percentile interval is expanded (Hesterberg 2015) by √(n/(n−1)), since resampling n of n seeds
shows a variance that much too small, and by the ratio of Student's t with m(n − 1) degrees of freedom at 98 % to the
normal quantile at 95 %. Where all runs agree the bootstrap has no width at all, so that a probability of improvement of
0 or 1, and the shares of a performance profile, have the exact interval of Clopper and Pearson, which is conservative
for shares that differ between data sets (Hoeffding 1956).

Shapes: n seeds, m data sets, S resamplings.
"""

import math
from dataclasses import replace

import numpy as np
from scipy.stats import norm, trim_mean
from scipy.stats import t as student

from detection.evaluation.intervals import LEVEL
from detection.evaluation.seeds import Estimate, share_interval

RESAMPLINGS = 2000
SMALLEST_SUITE = 3
"""Fewest data sets of a suite: with fewer, all these intervals cover too rarely."""
_EXPANDED_LEVEL = 0.98


def normalized(values: np.ndarray, chance: float) -> np.ndarray:
    """Scale metrics so that chance is 0 and perfect is 1."""
    return (values - chance) / (1 - chance)


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all runs, (...,), of scores (..., n, m)."""
    return trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1)  # over (..., n·m)


def improvement(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Probability that a run beats one of the reference on the same data set, (...,), of scores (..., n, m) each.

    Averaged over the data sets; a tie is half a win.
    """
    apart = scores[..., :, None, :] - reference[..., None, :, :]  # (..., n, n, m)
    return ((np.sign(apart) + 1) / 2).mean(axis=(-3, -2, -1))


def interquartile_mean_interval(scores: np.ndarray, resamplings: int = RESAMPLINGS, seed: int = 0) -> Estimate:
    """Compute the interquartile mean and its interval of scores (n, m)."""
    (resampled,) = _resample(seed, resamplings, scores)
    found = _expanded(float(interquartile_mean(scores)), interquartile_mean(resampled), *scores.shape)
    return replace(found, high=min(1.0, found.high))  # no metric is above 1


def improvement_interval(
    scores: np.ndarray, reference: np.ndarray, resamplings: int = RESAMPLINGS, seed: int = 0
) -> Estimate:
    """Compute the probability of improvement and its interval of scores (n, m) each."""
    n, m = scores.shape
    value = float(improvement(scores, reference))
    if value in (0.0, 1.0):
        return share_interval(round(value * n * m), n * m)
    found = _expanded(value, improvement(*_resample(seed, resamplings, scores, reference)), n, m)
    return Estimate(value, max(0.0, found.low), min(1.0, found.high), n)


def profile(scores: np.ndarray, thresholds: np.ndarray) -> list[Estimate]:
    """Compute the share of runs with a score above each threshold, of scores (n, m), each with its interval."""
    return [share_interval(int((scores > threshold).sum()), scores.size) for threshold in thresholds]


def _resample(seed: int, resamplings: int, *scores: np.ndarray) -> list[np.ndarray]:
    """Draw seeds with replacement within each data set: (S, n, m) of each (n, m)."""
    rng = np.random.default_rng(seed)
    return [x[rng.integers(x.shape[0], size=(resamplings, *x.shape)), np.arange(x.shape[1])] for x in scores]


def _expanded(value: float, resampled: np.ndarray, n: int, m: int) -> Estimate:
    if n < 2:
        return Estimate(value, math.nan, math.nan, n)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    factor = math.sqrt(n / (n - 1)) * student.ppf(0.5 + _EXPANDED_LEVEL / 2, m * (n - 1)) / norm.ppf(1 - tail)
    return Estimate(value, float(value + factor * (low - value)), float(value + factor * (high - value)), n)
