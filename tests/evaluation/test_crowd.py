"""Metrics for crowds: worked by hand, against naive loops, and what perfect, no and shuffled detections give."""

import copy
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings

from detection.evaluation.counting import choose_count_threshold, counting, two_fold_count
from detection.evaluation.crowd import CROWD_METRICS, crowd_metrics, found_ground_truth, overlapping_ground_truth
from detection.evaluation.matching import FALSE_POSITIVE, IGNORED
from detection.evaluation.operating_points import equal_error, match_all, miss_rate, miss_rate_curve, operating_points
from tests.evaluation.coco_sets import coco_sets, make_results, make_truth

HIT, MISS = (0, 0, 20, 20), (60, 60, 20, 20)
quickly = settings(max_examples=60, deadline=None, derandomize=True)


def points_of(ground_truth, results, category=None):
    return operating_points(match_all(ground_truth, results), len(ground_truth["images"]), category)


def one_each(num_images):
    """A ground truth at HIT in every image."""
    return make_truth([(i, 1, HIT) for i in range(1, num_images + 1)], categories=("person",), num_images=num_images)


def ranked(hits, ties=()):
    """Detections in images 1, 2, …: "T" finds the object of `one_each`, "F" does not; ranks in `ties` share a score."""
    rows = [
        (i, 1, HIT if hit == "T" else MISS, 1 - (min(ties) if i in ties else i) / 100) for i, hit in enumerate(hits, 1)
    ]
    return make_results(rows)


class TestEqualError:
    @pytest.mark.parametrize(
        "hits, ties, expected",
        [
            ("TFTFT", (), (2 / 4, 0.96)),
            ("TTTT", (), (1, 0.96)),
            ("FFFFTTTT", (), (0, 0.96)),
            ("TT", (), (2 / 4, 0.98)),  # fewer than ground-truth boxes: the recall of all
            ("TTTTF", (4, 5), (3.5 / 4, 0.96)),  # the fourth is the hit or the miss, nobody knows
            ("TTFFFFFF", range(1, 9), (1 / 4, 0.99)),  # any four of eight: one hit on average
            ("", (), (0, -1)),
        ],
    )
    def test_by_hand(self, hits, ties, expected):
        found = [(i, 1, HIT) for i, hit in enumerate(hits, 1) if hit == "T"]
        missed = [(8, 1, (30 * n, 60, 20, 20)) for n in range(4 - len(found))]
        ground_truth = make_truth(found + missed, num_images=8)
        assert equal_error(points_of(ground_truth, ranked(hits, ties))) == pytest.approx(expected)

    def test_without_ground_truth(self):
        assert equal_error(points_of(make_truth([]), ranked("F"))) == (-1, -1)


class TestMissRate:
    def test_by_hand(self):
        # 10 ground-truth boxes and images: FPPI 0, .1, .1, .1, .2, .2 with 1, 1, 2, 3, 3, 4 found.
        points = points_of(one_each(10), ranked("TFTTFT"))
        assert points.found.tolist() == [1, 1, 2, 3, 3, 4] and points.false.tolist() == [0, 1, 1, 1, 2, 2]
        fppi, miss = miss_rate_curve(points)
        assert fppi == pytest.approx([0, 0.1, 0.1, 0.1, 0.2, 0.2]) and miss[-1] == pytest.approx(0.6)
        assert miss_rate(points) == pytest.approx((0.9**4 * 0.7**2 * 0.6**3) ** (1 / 9))

    def test_a_curve_that_begins_late_misses_all_before(self):
        assert miss_rate(points_of(one_each(10), ranked("FT"))) == pytest.approx((1**4 * 0.9**5) ** (1 / 9))

    def test_equal_scores_are_kept_together(self):
        assert miss_rate(points_of(one_each(10), ranked("TF", (1, 2)))) == pytest.approx((1**4 * 0.9**5) ** (1 / 9))

    def test_of_nothing(self):
        assert miss_rate(points_of(one_each(10), [])) == 1
        assert miss_rate(points_of(make_truth([]), ranked("F"))) == -1

    def test_what_lies_on_a_crowd_is_no_false_positive(self):
        ground_truth = make_truth([(1, 1, HIT), (1, 1, (50, 50, 40, 40), True)])
        for box, rate in (((60, 60, 10, 10), 1e-10), ((85, 60, 11, 10), 1.0)):  # 5 of the 11 columns lie on it
            results = make_results([(1, 1, box, 0.9), (1, 1, HIT, 0.8)])
            expected = np.exp(np.log([rate] * 8 + [1e-10]).mean())
            assert miss_rate(points_of(ground_truth, results)) == pytest.approx(expected)

    @quickly
    @given(coco_sets(most_detections=150))
    def test_equals_naive_loops(self, pair):
        ground_truth, results = pair
        matching = match_all(ground_truth, results)
        for category in (None, *range(len(ground_truth["categories"]))):
            got = miss_rate(operating_points(matching, len(ground_truth["images"]), category))
            assert got == pytest.approx(naive_miss_rate(matching, len(ground_truth["images"]), category), rel=1e-9)


def naive_miss_rate(matching, num_images, category):
    """Dollár's rule, reference by reference and threshold by threshold."""
    mine = [category in (None, k) for k in matching.detections.category.tolist()]
    targets = sum(
        not c and category in (None, k) for c, k in zip(matching.targets.crowd, matching.targets.category, strict=True)
    )
    if not targets:
        return -1
    product = 1.0
    for exponent in range(-8, 1):
        miss = 1.0
        for threshold in {*matching.detections.score.tolist()}:
            kept = [
                m
                for m, s, own in zip(matching.matched, matching.detections.score, mine, strict=True)
                if own and s >= threshold
            ]
            false = sum(m == FALSE_POSITIVE for m in kept)
            if false / num_images <= 10 ** (exponent / 4):
                miss = min(miss, 1 - sum(m >= 0 for m in kept) / targets)
        product *= max(miss, 1e-10) ** (1 / 9)
    return product


def count_error(ground_truth, results, threshold):
    """Mean over the classes that have ground truth."""
    num_images = len(ground_truth["images"])
    errors = counting(match_all(ground_truth, results), num_images).errors(np.full(num_images, threshold))
    return np.nanmean(errors) if not np.isnan(errors).all() else -1


class TestCount:
    # Ground-truth boxes and scores: image 1 has two and .9 .6 .3, image 2 has one and .8 .7.
    ground_truth = make_truth([(1, 1, HIT), (1, 1, MISS), (2, 1, HIT)], categories=("person",), num_images=2)
    results = make_results([(1, 1, HIT, s) for s in (0.9, 0.6, 0.3)] + [(2, 1, MISS, s) for s in (0.8, 0.7)])

    def test_by_hand(self):
        errors = {1.0: 1.5, 0.9: 1.0, 0.8: 0.5, 0.7: 1.0, 0.6: 0.5, 0.3: 1.0}
        assert {t: count_error(self.ground_truth, self.results, t) for t in errors} == errors
        assert choose_count_threshold(self.ground_truth, self.results) == 0.8  # the highest of the best

    def test_each_half_is_measured_at_the_threshold_of_the_other(self):
        errors, thresholds = two_fold_count(counting(match_all(self.ground_truth, self.results), 2))
        assert thresholds == [0.8, 0.6] and errors.tolist() == [(1 + 1) / 2]
        metrics = crowd_metrics(self.ground_truth, self.results)
        assert metrics["COUNT"] == 1 and metrics["count_thresholds"] == [0.8, 0.6]
        given_ = crowd_metrics(self.ground_truth, self.results, 0.6)
        assert given_["COUNT"] == 0.5 and given_["count_thresholds"] == [0.6]

    def test_one_image_has_no_other_half(self):
        assert crowd_metrics(one_each(1), ranked("T"))["COUNT"] == -1

    def test_where_every_detection_is_one_too_many_none_is_counted(self):
        ground_truth = make_truth([(1, 1, HIT)], num_images=3)
        results = make_results([(2, 1, MISS, 0.9), (2, 1, MISS, 0.8), (3, 1, MISS, 0.9), (1, 1, HIT, 0.5)])
        threshold = choose_count_threshold(ground_truth, results)
        assert 0.9 < threshold < 0.91 and count_error(ground_truth, results, threshold) == pytest.approx(1 / 3)
        assert choose_count_threshold(ground_truth, []) == -1

    def test_crowds_are_not_counted(self):
        ground_truth = make_truth([(1, 1, HIT), (1, 1, (50, 50, 40, 40), True)])
        results = make_results([(1, 1, HIT, 0.9), (1, 1, MISS, 0.8)])
        assert count_error(ground_truth, results, 0.0) == 0

    @quickly
    @given(coco_sets(most_detections=60))
    def test_equals_naive_loops(self, pair):
        ground_truth, results = pair
        scores = sorted({r["score"] for r in results})
        naive = {t: naive_count_error(ground_truth, results, t) for t in (*scores, 2.0)}
        for threshold, error in naive.items():
            assert count_error(ground_truth, results, threshold) == pytest.approx(error)
        if results:
            chosen = count_error(ground_truth, results, choose_count_threshold(ground_truth, results))
            assert chosen == pytest.approx(min(naive.values()))


def naive_count_error(ground_truth, results, threshold):
    matching = match_all(ground_truth, results)
    errors = []
    for k in range(len(matching.targets.names)):
        real = (matching.targets.category == k) & ~matching.targets.crowd
        mine = (
            (matching.detections.category == k)
            & (matching.matched != IGNORED)
            & (matching.detections.score >= threshold)
        )
        if real.any():
            images = range(len(ground_truth["images"]))
            error = [
                abs(sum(matching.targets.image[real] == i) - sum(matching.detections.image[mine] == i)) for i in images
            ]
            errors.append(np.mean(error))
    return np.mean(errors) if errors else -1


class TestOverlapping:
    # Two cats at IoU 1/3, a dog on a cat, one cat alone, a crowd on it.
    ground_truth = make_truth(
        [(1, 1, (0, 0, 20, 20)), (1, 1, (10, 0, 20, 20)), (1, 2, (0, 0, 20, 20)), (1, 1, HIT), (1, 1, MISS)],
        num_images=2,
    )
    ground_truth["annotations"][3] |= {"image_id": 2}
    ground_truth["annotations"] += make_truth([(1, 1, MISS, True)])["annotations"]
    results = make_results([(1, 1, (0, 0, 20, 20), 0.9), (1, 1, (10, 0, 20, 20), 0.4), (1, 1, MISS, 0.2)])

    def test_by_hand(self):
        matching = match_all(self.ground_truth, self.results)
        assert overlapping_ground_truth(matching.targets).tolist() == [True, True, False, False, False, False]
        assert not overlapping_ground_truth(matching.targets, iou=0.34).any()
        assert found_ground_truth(matching)[:2].tolist() == [True, True]
        assert found_ground_truth(matching, threshold=0.5)[:2].tolist() == [True, False]
        assert found_ground_truth(matching, threshold=0.4)[:2].tolist() == [True, True]  # down to this score
        per_class = crowd_metrics(self.ground_truth, self.results)["per_class"]
        assert (per_class["cat"]["overlapping_ground_truth"], per_class["dog"]["overlapping_ground_truth"]) == (2, 0)

    def test_at_the_equal_error_rate(self):
        # Four cats: the fourth detection would be the last kept, there are three.
        assert crowd_metrics(self.ground_truth, self.results)["per_class"]["cat"]["overlapping_recall_at_EER"] == 1
        more = self.results + make_results([(2, 1, MISS, s) for s in (0.8, 0.7, 0.6)])
        cat = crowd_metrics(self.ground_truth, more)["per_class"]["cat"]
        assert (cat["EER_score"], cat["overlapping_recall_at_EER"], cat["overlapping_recall"]) == (0.6, 0.5, 1)


class TestMetrics:
    def test_means_of_classes(self):
        ground_truth = make_truth(
            [(1, 1, HIT), (2, 1, HIT), (1, 2, HIT), (2, 2, HIT)], ("cat", "dog", "cow"), num_images=2
        )
        results = make_results([(1, 1, HIT, 0.9), (2, 1, HIT, 0.9), (1, 2, HIT, 0.9), (1, 3, HIT, 0.99)])
        metrics = crowd_metrics(ground_truth, results, 0.5)
        assert set(metrics) == {
            *CROWD_METRICS,
            "count_thresholds",
            "per_class",
            "images",
            "ground_truth",
            "overlapping_ground_truth",
            "detections",
        }
        assert (metrics["EER"], metrics["COUNT"], metrics["JI"]) == (0.75, 0.25, 0.75)
        assert metrics["AP50"] == pytest.approx((1 + 51 / 101) / 2) and metrics["MR"] == pytest.approx(
            (1e-10 + 0.5) / 2
        )
        assert metrics["per_class"]["dog"]["JI"] == 0.5 and metrics["per_class"]["cow"]["ground_truth"] == 0
        assert {metrics["per_class"]["cow"][key] for key in CROWD_METRICS} == {-1}
        assert (metrics["ground_truth"], metrics["overlapping_ground_truth"], metrics["overlapping_recall"]) == (
            4,
            0,
            -1,
        )
        json.dumps(metrics, allow_nan=False)

    def test_nothing_at_all(self):
        metrics = crowd_metrics({"images": [], "annotations": [], "categories": []}, [])
        assert {metrics[key] for key in CROWD_METRICS} == {-1} and metrics["count_thresholds"] == []

    def test_more_than_100_of_an_image_count(self):
        rows = [(1, 1, (25 * (i % 12), 25 * (i // 12), 20, 20)) for i in range(120)]
        metrics = crowd_metrics(make_truth(rows, ("person",)), make_results([(*row, 0.9) for row in rows]), 0.5)
        assert (metrics["EER"], metrics["JI"], metrics["COUNT"]) == (1, 1, 0) and metrics["AP50"] < 0.9

    @quickly
    @given(coco_sets(most_detections=6))
    def test_perfect_and_no_detections(self, pair):
        ground_truth = pair[0]
        real = [a for a in ground_truth["annotations"] if not a["iscrowd"] and min(a["bbox"][2:]) > 0]
        # Beyond the upper or left border of their image, clipped boxes have no area.
        boxes = [a for a in real if a["bbox"][0] + a["bbox"][2] > 0 < a["bbox"][1] + a["bbox"][3]]
        ground_truth["annotations"] = boxes
        if not boxes:
            return
        perfect = crowd_metrics(ground_truth, [{**a, "score": 1.0} for a in boxes], 1.0)
        assert perfect["MR"] == pytest.approx(1e-10)
        assert (perfect["JI"], perfect["COUNT"], perfect["EER"]) == (1, 0, 1)
        assert perfect["overlapping_recall"] == (1 if perfect["overlapping_ground_truth"] else -1)
        none = crowd_metrics(ground_truth, [], 0.5)
        assert (none["MR"], none["JI"], none["EER"]) == (pytest.approx(1), 0, 0)
        present = len({a["category_id"] for a in boxes})
        assert none["COUNT"] == pytest.approx(len(boxes) / len(ground_truth["images"]) / present)

    @quickly
    @given(coco_sets(most_detections=120))
    def test_no_order_of_images_or_detections_changes_anything(self, pair):
        ground_truth, results = pair
        for rank, result in enumerate(results):
            result["score"] = (rank + 1) / len(results)
        before = crowd_metrics(ground_truth, results)
        shuffled = {**ground_truth, "images": copy.copy(ground_truth["images"])}
        results = copy.copy(results)
        for items in (shuffled["images"], results):
            random.Random(0).shuffle(items)
        assert crowd_metrics(shuffled, results) == before
