"""Intervals by hand; that they cover what they should is in `test_coverage.py`."""

import math

import numpy as np
import pytest
from scipy.stats import norm, t, ttest_1samp

from detection.evaluation.intervals import (
    Interval,
    bootstrap_counts,
    difference_interval,
    expected_half_width,
    format_interval,
)


def test_identical_runs_differ_by_exactly_nothing():
    assert difference_interval(np.zeros(3), np.zeros((3, 100))) == Interval(0.0, 0.0, 0.0, 3)
    assert difference_interval(np.zeros(1), np.zeros((1, 100))) == Interval(0.0, 0.0, 0.0, 1)
    assert not Interval(0.0, 0.0, 0.0, 3).is_significant


def test_one_seed_is_about_images_alone():
    resampled = np.array([[0.1, 0.3, 0.2, 0.4]])
    found = difference_interval(np.array([0.25]), resampled)
    half = 1.959964 * np.std(resampled, ddof=1)
    assert (found.value, found.seeds) == (0.25, 1)
    assert (found.low, found.high) == pytest.approx((0.25 - half, 0.25 + half))
    assert found.is_significant == (half < 0.25)


@pytest.mark.parametrize(("images_of_class", "is_significant"), [(3, False), (40, True)])
@pytest.mark.parametrize("num_images", [50, 2000])
def test_a_class_on_few_of_many_images_carries_no_verdict(images_of_class, is_significant, num_images):
    """One run finds all objects of a class, the other five in six; three images vary too little to show more."""
    counts = bootstrap_counts(num_images)[:, :images_of_class]
    with np.errstate(invalid="ignore"):
        recall = (counts * (np.arange(images_of_class) % 6 == 1)).sum(axis=1) / counts.sum(axis=1)
    found = difference_interval(np.array([0.7]), 0.5 + 0.2 * recall[None])
    assert found.low > 0 and found.is_significant == is_significant == (not found.has_few_images)
    text = format_interval(found)
    assert text.endswith("]*" if is_significant else "] (too few images)"), text
    assert format_interval(found, mark=True) == text


def test_where_images_do_nothing_it_is_students_t_over_seeds():
    differences = np.array([0.1, 0.3, 0.2])
    found = difference_interval(differences, np.repeat(differences[:, None], 50, axis=1))
    half = t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))


def test_the_p_value_is_two_sided_and_of_the_wider_law():
    differences = np.array([0.1, 0.3, 0.2])
    for sign in (1, -1):
        found = difference_interval(sign * differences, np.repeat(sign * differences[:, None], 50, axis=1))
        assert found.p_value == pytest.approx(ttest_1samp(differences, 0).pvalue)  # images do nothing
    resampled = np.array([[0.1, 0.3, 0.2, 0.4]])
    of_images = 2 * norm.sf(0.25 / np.std(resampled, ddof=1))
    assert difference_interval(np.array([0.25]), resampled).p_value == pytest.approx(of_images)
    # Seeds that agree by luck are no evidence: by their own law the p value would be 0.
    resampled = np.array([[0.0, 0.2, 0.1, 0.1], [0.1, 0.1, 0.0, 0.2]])
    of_images = 2 * norm.sf(0.1 / np.std(resampled.mean(axis=0), ddof=1))
    assert difference_interval(np.array([0.1, 0.1]), resampled).p_value == pytest.approx(of_images)
    assert difference_interval(np.zeros(3), np.zeros((3, 100))).p_value == 1


def test_what_seeds_share_is_added_and_gives_more_degrees_of_freedom():
    """Both seeds move alike with the images, by a variance of 0.01; seeds spread by 0.02² / 2 / 2 = 0.0001."""
    shared = 0.1 * np.sqrt(3 / 4) * np.array([1, 1, -1, -1])
    found = difference_interval(np.array([0.51, 0.49]), np.stack([shared, shared]))
    by_seeds, by_images = 0.0001, 0.01
    freedom = ((by_seeds + by_images) / by_seeds) ** 2
    assert (found.high - found.low) / 2 == pytest.approx(t.ppf(0.975, freedom) * math.sqrt(by_seeds + by_images))


def test_seeds_that_agree_by_luck_do_not_make_it_narrower_than_images_do():
    """The seeds move apart with the images: nothing is shared, and yet their mean moves."""
    resampled = np.array([[0.0, 0.2, 0.1, 0.1], [0.1, 0.1, 0.0, 0.2]])
    found = difference_interval(np.array([0.1, 0.1]), resampled)
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * np.std(resampled.mean(axis=0), ddof=1))


def test_more_seeds_do_not_reduce_what_they_share():
    """Of a variance of 0.0009 over images 0.0001 is shared, and the seeds agree."""
    interval = Interval(0.1, 0.0, 0.2, 3, seed_variance=0.0, image_variance=0.0001, single_variance=0.0009)
    assert expected_half_width(interval, 4) == pytest.approx(1.959964 * math.sqrt(0.0009 / 4 + 0.0001 * 3 / 4))
    assert expected_half_width(interval, 10**6) == pytest.approx(1.959964 * 0.01, rel=1e-3)


def test_an_undefined_number_has_no_interval_and_undefined_samples_are_left_out():
    assert difference_interval(np.array([0.1, np.nan]), np.zeros((2, 10))) is None
    assert difference_interval(np.array([0.1]), np.array([[np.nan, np.nan, np.nan, 0.1]])) is None
    some = difference_interval(np.array([0.2]), np.array([[0.1, np.nan, 0.3, 0.2]]))
    assert some == difference_interval(np.array([0.2]), np.array([[0.1, 0.3, 0.2]]))


def test_no_difference_of_metrics_lies_beyond_one():
    found = difference_interval(np.array([0.5, -0.4]), np.zeros((2, 10)))
    assert (found.low, found.high) == (-1, 1)


def test_the_same_images_are_drawn_every_time():
    counts = bootstrap_counts(7, 500)
    assert counts.shape == (500, 7) and (counts.sum(axis=1) == 7).all()
    assert np.array_equal(counts, bootstrap_counts(7, 500))
    assert counts.mean(axis=0) == pytest.approx(np.ones(7), abs=0.2) and counts.var() == pytest.approx(6 / 7, rel=0.1)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_difference_that_no_resampling_changes_has_no_interval(seeds):
    """A class with one object in one image: it is in a sample, and the difference is the same, or it is undefined."""
    resampled = np.tile([0.1, np.nan, 0.1, 0.1, np.nan, 0.1], (seeds, 1))
    assert difference_interval(np.full(seeds, 0.1), resampled) is None
    assert difference_interval(np.zeros(seeds), 0 * resampled) == Interval(0.0, 0.0, 0.0, seeds)
