"""Every interval over seeds covers its estimand 0.93 of the time or more: normal, skewed and bimodal seeds.

`pytest -m slow -s tests/evaluation/test_simulated_coverage.py` prints the values that docs/ablation.md states.
"""

import numpy as np
import pytest

from detection.evaluation.intervals import difference_interval
from detection.evaluation.seeds import Learning, mean_interval, share_interval
from detection.evaluation.simulated_coverage import SHAPES, draw_scores, simulated_coverage
from detection.evaluation.suite import profile

LEAST, SEEDS = 0.93, (3, 5, 10)
CHANCE, LEVEL = 1 / 3, 0.85


def draw(rng, shape, size):
    """Metrics of seeds: normal or exponential around 0.85, or so with probability 0.6 and at chance otherwise."""
    noise = rng.standard_normal(size) if shape != "skewed" else 1 - rng.exponential(size=size)
    good = LEVEL + 0.03 * noise
    if shape != "bimodal":
        return good
    return np.where(rng.random(size) < 0.6, good, CHANCE + 0.01 * rng.standard_normal(size))


def covers(interval, value):
    return interval.low <= value <= interval.high


def coverage_of_seeds(shape, n, repetitions):
    """Coverage of the share, the mean among seeds that learned, and the t interval at 95 % of all seeds."""
    rng = np.random.default_rng(0)
    share = 0.6 if shape == "bimodal" else 1.0
    shares, means, all_seeds = [], [], []
    for values in draw(rng, shape, (repetitions, n)):
        good = values[Learning(CHANCE, 0.93).learned(values)]
        shares.append(covers(share_interval(len(good), n), share))
        if len(good) > 1:
            means.append(covers(mean_interval(good), LEVEL))
        expected = share * LEVEL + (1 - share) * CHANCE
        all_seeds.append(covers(mean_interval(values, 0.95), expected))
    return np.mean(shares), np.mean(means), np.mean(all_seeds)


def coverage_of_difference(shape, n, repetitions):
    """Coverage of the difference among seeds that both learned, to a reference with normal seeds of the same spread."""
    rng, hits = np.random.default_rng(1), []
    for _ in range(repetitions):
        ours, theirs = draw(rng, shape, n), draw(rng, "normal", n) - 0.05
        both = Learning(CHANCE, 0.93).learned(ours)
        if both.sum() > 1:
            differences = (ours - theirs)[both]
            found = difference_interval(differences, np.repeat(differences[:, None], 3, axis=1))
            hits.append(covers(found, 0.05))
    return np.mean(hits)


def test_shares_and_means_in_a_few_repetitions():
    share, mean, every = coverage_of_seeds("bimodal", 3, 400)
    assert share > LEAST and mean > LEAST and every < 0.8


@pytest.mark.parametrize("shape", SHAPES)
def test_drawn_scores_have_the_stated_means_and_move_with_the_shift(shape):
    for shift in (0.0, -0.05):
        scores = draw_scores(np.random.default_rng(0), shape, (20_000, 3), shift)
        expected = np.array([0.4, 0.5, 0.6]) + shift
        expected = (0.6 + shift) * (expected + 0.4) if shape == "bimodal" else expected
        assert scores.mean(axis=0) == pytest.approx(expected, abs=0.01)


def test_a_few_simulations_run():
    found = simulated_coverage(3, 3, repetitions=20, resamplings=50)
    assert set(found) == set(SHAPES) and all(0.7 < c <= 1 for pair in found.values() for c in pair)


@pytest.mark.slow
@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_intervals_over_seeds_cover_their_estimands(shape, n):
    share, mean, every = coverage_of_seeds(shape, n, 4000)
    difference = coverage_of_difference(shape, n, 4000)
    print(f"\n{shape} n={n}: share {share:.3f}, mean {mean:.3f}, difference {difference:.3f}, all seeds {every:.3f}")
    assert min(share, mean, difference) >= LEAST
    # What the two estimands are for: one t interval over both kinds of run misses too often.
    assert shape != "bimodal" or n > 3 or every < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("m", (3, 6))
@pytest.mark.parametrize("n", SEEDS)
def test_intervals_over_a_suite_cover_their_estimands(n, m):
    found = simulated_coverage(n, m, repetitions=600)
    print(f"\nn={n} m={m}:", {shape: f"{mean:.3f} {share:.3f}" for shape, (mean, share) in found.items()})
    assert min(value for pair in found.values() for value in pair) >= LEAST


@pytest.mark.slow
@pytest.mark.parametrize("n", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_intervals_of_a_performance_profile_cover_their_estimands(shape, n):
    """Shares above 0.5 of data sets whose shares differ: the exact interval of one share is conservative."""
    rng = np.random.default_rng(0)
    share = (draw_scores(rng, shape, (20_000, 3)) > 0.5).mean()
    hits = [covers(profile(draw_scores(rng, shape, (n, 3)), np.array([0.5]))[0], share) for _ in range(1000)]
    print(f"\n{shape} n={n}: profile {np.mean(hits):.3f}")
    assert np.mean(hits) >= LEAST
