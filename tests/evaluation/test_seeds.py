"""Shares, means, exact tests and Holm's adjustment by hand; their coverage is in `test_simulated_coverage.py`."""

import math

import numpy as np
import pytest
from scipy.stats import fisher_exact

from detection.evaluation.seeds import (
    Learning,
    chance_margin,
    format_estimate,
    holm,
    mean_interval,
    share_interval,
    share_p_value,
)


def test_exact_intervals_of_a_share():
    """All of n: the lower end x has xⁿ = 0.025."""
    for n in (2, 3, 5, 10):
        every, none = share_interval(n, n), share_interval(0, n)
        assert (every.low, every.high) == (pytest.approx(0.025 ** (1 / n)), 1)
        assert (none.low, none.high) == (0, pytest.approx(1 - 0.025 ** (1 / n)))
    assert format_estimate(share_interval(5, 5)) == "1.000 [0.478, 1.000]"
    one = share_interval(1, 2)  # 1 − (1 − x)² = 0.025 at the lower end
    assert (one.value, one.low, one.high) == pytest.approx((0.5, 1 - math.sqrt(0.975), math.sqrt(0.975)))


def test_the_mean_has_a_t_interval_at_99_percent_within_the_metrics_range():
    found = mean_interval([0.49, 0.5, 0.51])
    half = 9.924843 * 0.01 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert mean_interval([0.98, 1.0]).high == 1 and mean_interval([0.0, 0.02]).low == 0
    alone = mean_interval([0.7])
    assert alone.value == 0.7 and math.isnan(alone.low) and format_estimate(alone) == "0.700"
    assert format_estimate(None) == "n/a"


def test_a_seed_has_learned_where_it_is_nearer_to_the_best_than_to_chance():
    learning = Learning(chance=0.3, best=0.9)
    assert learning.learned([0.3, 0.59, 0.61, 0.9]).tolist() == [False, False, True, True]
    assert Learning(0.0, 1.0).learned([0.5]).tolist() == [False]  # as near to chance as to the best
    assert not Learning(0.3, 0.3).is_above_chance
    assert not Learning(0.3, 0.3).learned([0.3]).any() and not Learning(0.3, 0.2).learned([0.1, 0.2, 0.3]).any()


def test_none_has_learned_where_the_best_is_above_chance_by_its_images_alone():
    learning = Learning(chance=0.33, best=0.36, margin=0.04)
    assert not learning.learned([0.33, 0.36]).any() and Learning(0.33, 0.38, 0.04).learned([0.38]).all()
    resampled = np.array([0.3, 0.4, np.nan, 0.5])
    assert chance_margin(resampled, 1) == pytest.approx(1.644854 * 0.1)
    assert chance_margin(resampled, 10) == pytest.approx(2.575829 * 0.1)
    # Of 12 runs that guess 200 images right by one third, some are above chance, and seldom by more than that.
    rng = np.random.default_rng(0)
    best = rng.binomial(200, 1 / 3, (2000, 12)).max(axis=1) / 200
    margin = chance_margin(rng.binomial(200, 1 / 3, 1000) / 200, 12)
    assert (best > 1 / 3).mean() > 0.95 and (best > 1 / 3 + margin).mean() < 0.09


def test_shares_that_could_not_differ_significantly_are_not_tested():
    """With three seeds each the least p value is 2 / 20; with four 2 / 70."""
    assert share_p_value([True] * 3, [False] * 3) is None
    assert share_p_value([True] * 4, [False] * 4) == pytest.approx(2 / 70)
    assert share_p_value([True, True, False, False], [True, True, False, False]) == pytest.approx(1)
    assert share_p_value([True] * 9, [True] * 9) is None
    for a, n, b, m in ((5, 5, 1, 6), (1, 7, 6, 7), (3, 8, 3, 8)):
        ours = share_p_value([i < a for i in range(n)], [i < b for i in range(m)])
        assert ours == pytest.approx(fisher_exact([[a, n - a], [b, m - b]]).pvalue)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04, 0.5, 0.01]) == pytest.approx([0.08, 0.5, 0.03])  # each at its own place
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
