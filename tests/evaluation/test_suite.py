"""Aggregates over data sets by hand and by naive loops."""

import numpy as np
import pytest
from scipy.stats import norm, t, trim_mean

from detection.evaluation.suite import (
    improvement,
    improvement_interval,
    interquartile_mean,
    interquartile_mean_interval,
    normalized,
    profile,
)


def test_scores_are_zero_at_chance_and_one_at_best():
    assert normalized(np.array([1 / 3, 1.0, 2 / 3]), 1 / 3) == pytest.approx([0, 1, 0.5])


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    scores = np.array([[0.0, 0.3, 0.5, 9.0], [0.1, 0.4, 0.6, 8.0]])  # middle half: 0.3, 0.4, 0.5, 0.6
    assert interquartile_mean(scores) == pytest.approx(0.45)
    assert interquartile_mean(np.stack([scores, scores + 1])) == pytest.approx([0.45, 1.45])


def test_improvement_is_the_share_of_pairs_won_within_a_data_set():
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 4, (3, 5)), rng.integers(0, 4, (3, 5))
    wins = [(a > b) + (a == b) / 2 for task in range(5) for a in ours[:, task] for b in theirs[:, task]]
    assert improvement(ours, theirs) == pytest.approx(np.mean(wins))
    assert improvement(ours, ours) == pytest.approx(0.5)
    # Data sets are never compared with each other.
    assert improvement(np.array([[0.1, 0.9]]), np.array([[0.2, 0.8]])) == 0.5


def test_where_all_pairs_agree_the_interval_is_exact_instead_of_empty():
    won = improvement_interval(np.ones((3, 4)), np.zeros((3, 4)))
    assert (won.value, won.low, won.high) == (1, pytest.approx(0.025 ** (1 / 12)), 1)
    lost = improvement_interval(np.zeros((3, 4)), np.ones((3, 4)))
    assert (lost.value, lost.low) == (0, 0) and lost.high == pytest.approx(1 - 0.025 ** (1 / 12))


def test_no_interval_is_beyond_what_it_is_of():
    ours, theirs = np.array([[0.9, 0.9, 0.9], [0.9, 0.9, 0.1]]), np.full((2, 3), 0.5)  # 5 of 6 are won
    assert improvement_interval(ours, theirs).high == 1 and improvement_interval(theirs, ours).low == 0
    assert interquartile_mean_interval(ours + 0.1).high == 1


def test_intervals_hold_their_value_and_are_the_same_every_time():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(0.6, 0.1, (3, 4)), rng.normal(0.5, 0.1, (3, 4))
    for found, again in (
        (interquartile_mean_interval(ours), interquartile_mean_interval(ours)),
        (improvement_interval(ours, theirs), improvement_interval(ours, theirs)),
    ):
        assert found.low < found.value < found.high and found == again
    assert np.isnan(interquartile_mean_interval(ours[:1]).low)


@pytest.mark.parametrize(("n", "m"), [(2, 6), (5, 3)])
def test_the_bootstrap_is_expanded_by_the_degrees_of_freedom_within_data_sets(n, m):
    """Against percentiles of the same draws: n − 1 degrees of freedom for each of the m data sets."""
    scores = np.random.default_rng(2).normal(0.5, 0.05, (n, m))
    rows = np.random.default_rng(7).integers(n, size=(100, n, m))
    drawn = [trim_mean([scores[row[i, j], j] for i in range(n) for j in range(m)], 0.25) for row in rows]
    found = interquartile_mean_interval(scores, resamplings=100, seed=7)
    factor = np.sqrt(n / (n - 1)) * t.ppf(0.99, m * (n - 1)) / norm.ppf(0.975)
    ends = found.value + factor * (np.quantile(drawn, [0.025, 0.975]) - found.value)
    assert (found.low, found.high) == pytest.approx(tuple(ends))


def test_a_profile_is_the_share_of_runs_above_each_threshold():
    found = profile(np.array([[0.1, 0.5], [0.2, 0.9]]), np.array([0.0, 0.3, 0.95]))
    assert profile(np.array([[0.5]]), np.array([0.5]))[0].value == 0
    assert [estimate.value for estimate in found] == [1, 0.5, 0] and found[1].low < 0.5 < found[1].high
