"""The answer in words: every outcome from per-image results whose law is known."""

import dataclasses

import numpy as np
import pytest

from detection.ablation.own_data.answer import Answer, judge, more_seeds, together
from detection.evaluation.intervals import Interval, bootstrap_counts, difference_interval

IMAGES, SEEDS = 150, 3
COUNTS = bootstrap_counts(IMAGES, 100)


def measured(rng, of_variants, seed_sd=0.02):
    """Share of images that each variant gets right with each seed, and the same on resampled images.

    An image has a difficulty that all runs share; a seed moves the share of its run.
    """
    hard = rng.normal(0, 0.15, IMAGES)
    found = []
    for share in of_variants:
        p = share + hard + rng.normal(0, seed_sd, (SEEDS, 1))
        right = rng.random((SEEDS, IMAGES)) < p
        found.append((right.mean(axis=1), right @ COUNTS.T / IMAGES))
    return found


def outcome(rng, none, wider, default, **law):
    """What the answer is when runs have these shares of right images."""
    runs = dict(zip(("none", "wider", "default"), measured(rng, (none, wider, default), **law), strict=True))
    answers = {}
    for rival in ("none", "wider"):
        (a, resampled_a), (b, resampled_b) = runs["default"], runs[rival]
        interval = difference_interval(a - b, resampled_a - resampled_b)
        assert interval is not None
        answers[rival] = judge(interval, interval.p_value, "AP")
    return together(answers, "default", "none").outcome


def shares(count, *of_runs, **law):
    rng = np.random.default_rng(7)
    found = [outcome(rng, *of_runs, **law) for _ in range(count)]
    return {name: found.count(name) / count for name in set(found)}


@pytest.mark.parametrize("seed_sd", [0.02, 0.1])
def test_classes_that_nothing_tells_are_never_a_help(seed_sd):
    """Of a class permuted at random in each image a third is guessed, with context or without."""
    assert shares(300, 1 / 3, 1 / 3, 1 / 3, seed_sd=seed_sd).get("helps", 0) <= 0.01


def test_a_help_is_found_and_more_size_is_none():
    assert shares(60, 0.3, 0.3, 0.7)["helps"] > 0.95
    assert shares(60, 0.7, 0.7, 0.3)["hurts"] > 0.95
    assert shares(60, 0.3, 0.7, 0.7).get("helps", 0) <= 0.03


def interval(value, half, seeds=3, of_seed=0.0, by_images=0.0, p=1.0):
    return Interval(value, value - half, value + half, seeds, p, of_seed, by_images)


def test_words_have_the_numbers():
    assert judge(interval(0.2, 0.1, p=0.01), 0.01, "AP").text == "helps, AP +0.200 [+0.100, +0.300]"
    assert judge(interval(-0.2, 0.1, p=0.01), 0.01, "AP").text == "hurts, AP −0.200 [−0.300, −0.100]"
    assert judge(interval(0.005, 0.02), 0.6, "AP").text == "level within ± 0.025 AP, AP +0.005 [−0.015, +0.025]"
    # The interval is within what is named: it is rounded up, and not where its end is that number itself.
    assert judge(interval(0.0002, 0.0062), 0.6, "AP").text.startswith("level within ± 0.007 AP, ")
    assert judge(interval(0.0002, 0.0001), 0.6, "AP").text.startswith("level within ± 0.001 AP, ")
    assert judge(interval(0.001, 0.006), 0.6, "AP").text.startswith("level within ± 0.007 AP, ")
    assert judge(interval(0.008, 0.002, p=0.01), 0.01, "AP").outcome == "level"  # significant, and too small to matter
    assert judge(None, None, "AP").outcome == "missing"
    one = judge(interval(0.2, 0.1, seeds=1), None, "AP")
    assert one.outcome == "undetermined" and "run three or more" in one.text
    assert judge(interval(0.0, 0.01, seeds=1), None, "AP").outcome == "undetermined"


def test_no_answer_names_its_reason():
    missing = {"none": judge(None, None, "AP"), "wider": judge(None, None, "AP")}
    assert together(missing, "default", "none").text == "There is no answer yet: runs are missing."
    found = together(missing, "default", "none", finished=True)
    assert found.outcome == "missing"
    assert found.text == "There is no answer: too few images decide it: evaluate on more."


def test_the_bounds_of_the_words_are_the_documented_ones():
    """At least 0.01 helps, and level is within 0.03 at most, and within a quarter of the higher metric."""
    assert judge(interval(0.01, 0.005), 0.01, "AP").outcome == "helps"
    assert judge(interval(0.0, 0.03), 0.6, "AP").outcome == "level"
    assert judge(interval(0.0, 0.0301), 0.6, "AP").outcome == "undetermined"
    assert judge(interval(0.0, 0.02), 0.6, "AP", best=0.08).outcome == "level"
    assert judge(interval(0.0, 0.02), 0.6, "AP", best=0.0799).outcome == "undetermined"
    for sign in (1, -1):  # the farther end decides
        assert judge(interval(sign * 0.02, 0.02), 0.6, "AP").outcome == "undetermined"


def test_more_seeds_come_after_those_that_were_run():
    found = interval(0.02, 0.06, of_seed=0.0002)
    assert "seeds would (--seeds 0,1,2,3," in judge(found, 0.5, "AP").text
    assert "seeds would (--seeds 5,6,9,10," in judge(found, 0.5, "AP", seeds=(5, 6, 9)).text


def test_what_has_hardly_learned_is_not_level():
    low = judge(interval(-0.003, 0.018), 0.6, "AP", best=0.031)
    assert low.outcome == "undetermined" and low.text.startswith("cannot be determined, AP −0.003")
    assert "hardly learned: train for more epochs first" in low.text
    assert judge(interval(-0.003, 0.018), 0.6, "AP", best=0.2).outcome == "level"


def test_what_shows_nothing_of_others_decides_nothing():
    """One seed, detectors that find nothing, few images, and objects that a resampling may lack."""
    clear, same = interval(0.2, 0.1, p=0.01), interval(0.0, 0.0)
    assert judge(interval(0.2, 0.1, seeds=1, p=0.01), 0.01, "AP").outcome == "undetermined"
    nothing = judge(same, 1.0, "AP", best=0.0)
    assert nothing.outcome == "undetermined" and "hardly learned" in nothing.text
    assert judge(clear, 0.01, "AP", images=10).outcome == "helps"
    for found in (clear, same):
        few = judge(found, found.p_value, "AP", images=9)
        assert few.outcome == "undetermined" and few.text.endswith("9 evaluated images show too little of others: "
                                                                   "evaluate on more")  # fmt: skip
        rare = judge(dataclasses.replace(found, left_out=0.01), found.p_value, "AP")
        assert rare.outcome == "undetermined" and "too few of the evaluated images have such objects" in rare.text


def test_a_class_of_one_image_is_left_out_of_resamplings():
    resampled = np.where(COUNTS[:, 0] > 0, 0.0, np.nan)
    found = difference_interval(np.zeros(3), np.tile(resampled, (3, 1)))
    assert found is not None and found.left_out == pytest.approx((COUNTS[:, 0] == 0).mean()) and found.left_out > 0.2
    assert judge(found, found.p_value, "AP").outcome == "undetermined"


def test_seeds_that_agree_by_luck_do_not_make_more_seeds_seem_enough():
    """Of three equal differences the images alone make the interval, which more seeds shorten by their number only."""
    resampled = 0.025 + np.random.default_rng(0).normal(0, 0.04, (3, 1000))
    found = difference_interval(np.full(3, 0.025), resampled)
    assert found is not None and found.low < 0 and found.seed_variance == pytest.approx(0)
    assert found.single_variance == pytest.approx(0.0016, rel=0.1)
    assert more_seeds(found) == pytest.approx((1.96 * 0.04 / 0.025) ** 2 - 3, abs=2)


def test_how_many_seeds_more_would_decide_is_estimated():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 3)
    differences = 0.1 + 0.05 * (noise - noise.mean()) / noise.std(ddof=1)
    found = difference_interval(differences, np.repeat(differences[:, None], 50, axis=1))
    assert found is not None
    assert found.seed_variance == pytest.approx(0.0025) and found.low < 0
    # t 0.975 of 3 degrees of freedom is 3.18: 3.18 · 0.05 / 2 < 0.1, so that one seed more is enough.
    assert more_seeds(found) == 1
    assert "; 1 more seed would (--seeds 0,1,2,3), estimated" in judge(found, 0.08, "AP").text
    never = interval(0.05, 0.2, of_seed=0.001, by_images=0.01)
    assert more_seeds(never) is None and "more evaluation images would" in judge(never, 0.5, "AP").text


@pytest.mark.parametrize(("least", "more"), [(99.5, 97), (100.5, None)])
def test_up_to_a_hundred_seeds_are_tried(least, more):
    """Images alone: n seeds decide where 1.96² · variance / n is below the square of the difference."""
    found = interval(0.1, 0.2)
    variance = 0.01 * least / 1.959964**2
    assert more_seeds(dataclasses.replace(found, single_variance=variance)) == more


@pytest.mark.parametrize(
    ("none", "wider", "both"),
    [
        ("helps", "helps", "helps"),
        ("helps", "level", "undetermined"),
        ("helps", "undetermined", "undetermined"),
        ("helps", "missing", "missing"),
        ("helps", "hurts", "undetermined"),
        ("hurts", "helps", "hurts"),
        ("level", "helps", "level"),
        ("undetermined", "helps", "undetermined"),
        ("missing", "helps", "missing"),
    ],
)
def test_context_helps_only_if_it_beats_the_wider_detector_too(none, wider, both):
    found = together({"none": Answer(none, ""), "wider": Answer(wider, "")}, "default", "none")
    assert found.outcome == both and found.text


def test_seeds_are_blamed_only_where_they_are_the_reason():
    by_seeds = judge(interval(0.05, 0.2, of_seed=0.001, by_images=0.01), 0.5, "AP")
    few = judge(interval(0.0, 0.01), 0.5, "AP", images=3)
    texts = [together({"none": answer}, "default", "none").text for answer in (by_seeds, few)]
    assert texts[0].endswith("cannot be determined with these seeds.")
    assert texts[1].endswith("cannot be determined by these runs.")


def test_without_a_wider_detector_the_plain_one_decides():
    assert together({"none": Answer("helps", "")}, "default", "none").outcome == "helps"
