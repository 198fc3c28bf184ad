"""A 95 % interval of the difference between two variants, over seeds and over images.

A measured difference d = mean over seeds of (variant − reference) has two sources of variance.

- **Seeds.** Differences are taken seed by seed. Their variance over the n seeds, s²/n, covers all that is particular to
  one training: the luck of the seed, and that each trained network errs on other images.
- **Images.** The validation images are a sample. Their effect on all seeds alike does not show in the variance over
  seeds; it is what the differences of two *different* seeds have in common on resampled images: the mean covariance
  over pairs of seeds of the differences on the same bootstrap sample of images.

The variance of d is the sum of both (a two-way model with random seeds and random images). Seeds are few, so the
interval is Student's t with Welch's and Satterthwaite's degrees of freedom: about n − 1 where seeds dominate, many
where images do. Two or three seeds may agree by luck, so it is never narrower than the interval from the images alone.
With one seed the interval is about this pair of trained networks on other images, not about another training.

The seeds must be of one kind: where some learn and others stay at chance, only those that learned belong here
(`detection.evaluation.seeds`). Coverage in 300 repetitions with three seeds: `tests/ablation/test_coverage.py`; with
skewed seeds: `tests/evaluation/test_simulated_coverage.py`. Few seeds make it wide: where seeds dominate, the factor is
12.7 for two seeds, 4.3 for three and 2.8 for five.

A metric of a class that few images have hardly varies when these are resampled, and an interval from them is too narrow
(simulated with three objects: 23 % of nominally 5 % exclude 0). Where a resampling may have no such image at all, which
of a thousand happens up to about seven images, however many others there are, an interval decides nothing.

Shapes: n seeds, S resamplings, N images.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import t as student

LEVEL = 0.95
TOO_FEW = "too few images"
"""What is stated of an interval that decides nothing: see `Interval.has_few_images`."""
RESAMPLINGS = 1000
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Interval:
    """A difference and its 95 % interval.

    Attributes:
        value: the difference.
        low: lower end.
        high: upper end.
        seeds: number of pairs of runs; 1 means that it is about images alone.
        p_value: that of no difference, two-sided, by the same law as the interval.
        seed_variance: variance of a single seed's difference; NaN of one seed.
        image_variance: part of the variance that more seeds would not reduce; NaN of one seed.
        single_variance: variance of a single seed's difference over the images alone.
        left_out: share of the resamplings in which the metric is undefined.
    """

    value: float
    low: float
    high: float
    seeds: int
    p_value: float = field(default=math.nan, compare=False)
    seed_variance: float = field(default=math.nan, compare=False)
    image_variance: float = field(default=math.nan, compare=False)
    single_variance: float = field(default=0.0, compare=False)
    left_out: float = field(default=0.0, compare=False)

    @property
    def has_few_images(self) -> bool:
        """True where so few images define the metric that some resamplings have none of them."""
        return self.left_out > 0

    @property
    def is_significant(self) -> bool:
        """True where the interval excludes 0, and is not of too few images."""
        return not self.has_few_images and (self.low > 0 or self.high < 0)


def format_interval(interval: Interval | None, mark: bool | None = None) -> str:
    """Format as `+0.012 [−0.003, +0.027]`, with an asterisk if `mark`, by default where it is significant.

    One of too few images has no asterisk, and `TOO_FEW` after it.
    """
    if interval is None:
        return "n/a"
    mark = interval.is_significant if mark is None else mark
    value, low, high = (_signed(number) for number in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]" + (f" ({TOO_FEW})" if interval.has_few_images else "*" if mark else "")


def _signed(value: float) -> str:
    return "0" if value == 0 else f"{value:+.3f}".replace("-", "−")


def bootstrap_counts(num_images: int, resamplings: int = RESAMPLINGS, seed: int = 0) -> np.ndarray:
    """Draw bootstrap samples: how often each image is drawn, (S, N); the same for the same arguments."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=resamplings)


def difference_interval(differences: np.ndarray, resampled: np.ndarray) -> Interval | None:
    """Compute the mean difference and its interval, as the module describes.

    Metrics are in [0, 1], so ends are clipped to ±1.

    Args:
        differences: variant − reference of each seed, (n,).
        resampled: the same on bootstrap samples of the images, the same samples for every seed, (n, S). Samples in
            which a metric is undefined (NaN) are left out.

    Returns:
        None where a difference is not defined, or hardly any sample is; or where neither samples nor seeds change it,
        as of a class with one object, and it is not 0.
    """
    defined = ~np.isnan(resampled).any(axis=0)
    if np.isnan(differences).any() or defined.sum() < max(2, resampled.shape[1] / 2):
        return None
    n, value = len(differences), float(differences.mean())
    covariance = np.atleast_2d(np.cov(resampled[:, defined]))
    laws = [(math.inf, float(covariance.sum()) / n**2)]  # degrees of freedom and variance
    of_seed = by_images = math.nan
    if n > 1:
        of_seed = float(differences.var(ddof=1))
        # The mean covariance of two different seeds; estimated, it may be negative, which no variance is.
        by_images = max(0.0, float(covariance.sum() - np.trace(covariance)) / (n * (n - 1)))
        laws.append(_law(of_seed, by_images, n))
    # The wider one: seeds that agree by luck do not make it narrower than the images alone do.
    half = max(_half_width(*law) for law in laws)
    if half < _ROUNDING < abs(value):
        return None
    p_value = max(_p_value(value, *law) for law in laws)
    ends = max(-1.0, value - half), min(1.0, value + half)
    single, left_out = float(np.trace(covariance)) / n, 1 - float(defined.mean())
    return Interval(value, *ends, n, p_value, of_seed, by_images, single, left_out)


def expected_half_width(interval: Interval, seeds: int) -> float:
    """Half-width that the interval would have with another number of seeds whose variance is the same; an estimate."""
    shared = interval.image_variance
    alone = interval.single_variance / seeds + shared * (seeds - 1) / seeds
    return max(_half_width(*_law(interval.seed_variance, shared, seeds)), _half_width(math.inf, alone))


def _law(of_seed: float, by_images: float, n: int) -> tuple[float, float]:
    """Degrees of freedom (Welch, Satterthwaite) and variance of the mean of n seeds."""
    by_seeds = of_seed / n
    ratio = (by_seeds + by_images) / by_seeds if by_seeds > 0 else math.inf
    return (n - 1) * ratio * ratio, by_seeds + by_images


def _half_width(freedom: float, variance: float) -> float:
    return float(student.ppf(0.5 + LEVEL / 2, freedom)) * math.sqrt(max(0.0, variance))


def _p_value(value: float, freedom: float, variance: float) -> float:
    if variance <= 0:
        return float(value == 0)
    return 2 * float(student.sf(abs(value) / math.sqrt(variance), freedom))
