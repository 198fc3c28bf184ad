"""Estimates over seeds when training may fail: how many seeds learn, and how good those are that do.

Where some seeds stay at chance and others solve the task, the mean over all seeds is of two kinds of run, and its t
interval at 95 % covers it too rarely: 0.73 of the time with three seeds of which a share of 0.6 learns. The two
estimands are therefore kept apart:

- the **share of seeds that learn**, with the exact interval of Clopper and Pearson (1934);
- the **mean among seeds that learned**, with a Student's t interval. Good metrics crowd below 1, so they are skewed,
  and of exponential seeds a t interval at 95 % covers the mean 0.88 to 0.90 of the time with 3 to 10 seeds; one at 99 %
  covers it 0.95 to 0.96, and is what is reported.

A seed has learned where its metric is nearer to the best seed's than to chance, and none has where the best is above
chance by no more than its images explain. Simulated coverage:
`tests/evaluation/test_simulated_coverage.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, hypergeom, norm
from scipy.stats import t as student

from detection.evaluation.intervals import LEVEL

MEAN_LEVEL = 0.99
"""Nominal level of the t interval of a mean, at which skewed seeds are covered at 95 % too."""


@dataclass(frozen=True)
class Estimate:
    """An estimate over seeds with its interval.

    Attributes:
        value: the estimate.
        low: lower end; NaN where one seed is too few for an interval.
        high: upper end.
        seeds: number of seeds that it is over.
    """

    value: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Learning:
    """The level above which a seed has learned.

    Attributes:
        chance: metric of a model that knows nothing of what the task asks, which the data state.
        best: metric of the report's best seed.
        margin: by how much that has to be above chance, see `chance_margin`.
    """

    chance: float
    best: float
    margin: float = 0.0

    @property
    def threshold(self) -> float:
        """The middle between chance and the best seed."""
        return (self.chance + self.best) / 2

    @property
    def is_above_chance(self) -> bool:
        """True where the best seed is above chance by more than the margin."""
        return self.best > self.chance + self.margin

    def learned(self, values: Sequence[float]) -> np.ndarray:
        """Return booleans (n,): values nearer to the best seed than to chance; none if the best is not above chance."""
        return (np.asarray(values) > self.threshold) & self.is_above_chance


def chance_margin(resampled: np.ndarray, runs: int) -> float:
    """Compute how far the best of some runs that guess may be above chance: with several, one of them is.

    Args:
        resampled: the metric of the best run on bootstrap samples of its images, (S,); NaN where it is undefined.
        runs: number of runs that it is the best of.

    Returns:
        The one-sided 95 % bound of as many runs (Bonferroni), by the standard deviation over images.
    """
    return float(norm.isf((1 - LEVEL) / runs) * np.nanstd(resampled, ddof=1))


def share_interval(count: int, total: int) -> Estimate:
    """Compute the share of seeds that learn with its exact 95 % interval: 5 of 5 gives 0.48 to 1.

    The ends are quantiles of beta distributions (Clopper and Pearson 1934).
    """
    tail = (1 - LEVEL) / 2
    low = float(beta.ppf(tail, count, total - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, total - count)) if count < total else 1.0
    return Estimate(count / total, low, high, total)


def mean_interval(values: Sequence[float], level: float = MEAN_LEVEL) -> Estimate:
    """Compute a mean with its t interval, clipped to [0, 1]; of one value the ends are NaN."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Estimate(mean, math.nan, math.nan, n)
    half = float(student.ppf(0.5 + level / 2, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), n)


def share_p_value(first: Sequence[bool] | np.ndarray, second: Sequence[bool] | np.ndarray) -> float | None:
    """Compute Fisher's exact p value of two shares; None where no outcome with as many successes could reach 0.05.

    A test that cannot reject does not count among several (Tarone 1990): with three seeds each no outcome can.
    """
    a, b, n, m = int(np.sum(first)), int(np.sum(second)), len(first), len(second)
    support = np.arange(max(0, a + b - m), min(n, a + b) + 1)
    chances = hypergeom.pmf(support, n + m, a + b, n)
    if chances[np.isclose(chances, chances.min())].sum() > 1 - LEVEL:
        return None
    # All outcomes that are no more probable than the one observed, which rounding must not exclude.
    return float(chances[chances <= chances[a - support[0]] * (1 + 1e-9)].sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values of one family, so that all that are below 0.05 hold together at 95 % (Holm 1979)."""
    order, adjusted, largest = np.argsort(p_values, kind="stable"), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def format_estimate(estimate: Estimate | None) -> str:
    """Format as `0.812 [0.640, 0.984]`, without ends where there is no interval."""
    if estimate is None:
        return "n/a"
    ends = "" if math.isnan(estimate.low) else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{ends}".replace("-", "−")
