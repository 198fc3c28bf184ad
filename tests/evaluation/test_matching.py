"""Matching, curves, F1 and confusion: drawn by hand, against naive loops, and against COCO's own AP50."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from detection.evaluation import curves, matching
from detection.evaluation.coco import coco_metrics
from detection.evaluation.columns import class_names, detection_columns, ground_truth_columns
from detection.evaluation.curves import best_f1, match_results, precision_recall
from detection.evaluation.matching import FALSE_POSITIVE, IGNORED
from tests.confusions import confusion_matrix
from tests.evaluation.coco_sets import coco_sets, make_results, make_truth


def naive_iou(a, b, crowd=False):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    return overlap / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - overlap)


def naive_matching(detections, targets):
    matched, taken = [], set()
    for image, category, box in zip(detections.image, detections.category, detections.box, strict=True):
        best, best_iou, on_crowd = FALSE_POSITIVE, 0.5, False
        for t in range(len(targets.image)):
            if (targets.image[t], targets.category[t]) == (image, category):
                iou = naive_iou(box, targets.box[t], targets.crowd[t])
                if targets.crowd[t]:
                    on_crowd |= iou >= 0.5
                elif t not in taken and iou >= best_iou:
                    best, best_iou = t, iou
        taken.add(best)
        matched.append(IGNORED if best == FALSE_POSITIVE and on_crowd else best)
    return matched


def coco_ap(curve):
    """AP of a curve at COCO's 101 recalls."""
    falling = np.append(np.maximum.accumulate(curve.precision[::-1])[::-1], 0)
    places = np.searchsorted(curve.recall, np.linspace(0, 1, 101), side="left")
    return falling[places].mean()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(coco_sets(most_detections=150))
def test_matching_equals_naive_loops(pair):
    found = match_results(*pair)
    assert found.matched.tolist() == naive_matching(found.detections, found.targets)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(coco_sets())
def test_curves_give_cocos_ap50(pair):
    ground_truth, results = pair
    found, metrics = match_results(ground_truth, results), coco_metrics(ground_truth, results)
    for category, name in enumerate(class_names(ground_truth).values()):
        curve = precision_recall(found, category)
        expected = metrics["per_class"][name]["AP50"]
        assert (coco_ap(curve) if curve.num_ground_truth else -1) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(coco_sets(most_detections=80))
def test_confusion_sums(pair):
    ground_truth, results = pair
    found = match_results(ground_truth, results)
    for score in (-1.0, 0.5, 2.0):
        matrix = confusion_matrix(found, score)
        real = ~found.targets.crowd
        num_classes = len(ground_truth["categories"])
        assert (
            matrix[:-1].sum(axis=1).tolist()
            == np.bincount(found.targets.category[real], minlength=num_classes).tolist()
        )
        counted = (found.detections.score >= score) & (found.matched != IGNORED)
        assert matrix[:, :-1].sum() == counted.sum()
        for category in range(num_classes):
            mine = counted & (found.matched >= 0) & (found.detections.category == category)
            assert matrix[category, category] >= mine.sum()
        assert matrix[-1, -1] == 0


def test_pairs_in_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    boxes = [(1, 1 + i % 2, (*rng.uniform(0, 20, 2), 20, 20)) for i in range(30)]
    ground_truth = make_truth(boxes)
    results = make_results([(*row, rng.random()) for row in boxes for _ in range(3)])
    targets, detections = ground_truth_columns(ground_truth), detection_columns(ground_truth, results)
    whole = matching.overlapping_pairs(detections, targets, 0.3)
    monkeypatch.setattr(matching, "MAX_PAIRS", 40)
    parts = matching.overlapping_pairs(detections, targets, 0.3)
    assert len(whole[0]) > 100
    for a, b in zip(whole, parts, strict=True):
        assert np.array_equal(a, b)


def test_at_most_100_of_an_image_and_class():
    ground_truth = make_truth([(1, 1, (0, 0, 9, 9)), (2, 1, (0, 0, 9, 9))], num_images=2)
    rows = [(1, 1, (50, 50, 9, 9), 0.9)] * 100 + [(1, 1, (0, 0, 9, 9), 0.8), (2, 1, (0, 0, 9, 9), 0.1)]
    found = match_results(ground_truth, make_results(rows))
    assert len(found.detections.score) == 101
    assert found.matched.tolist() == [FALSE_POSITIVE] * 100 + [1]


def test_of_equal_overlaps_the_later_ground_truth_wins_as_in_pycocotools():
    ground_truth = make_truth([(1, 1, (0, 0, 20, 20)), (1, 1, (4, 0, 20, 20))])
    assert match_results(ground_truth, make_results([(1, 1, (2, 0, 20, 20), 0.9)])).matched.tolist() == [1]


class TestByHand:
    # Two cats and a dog; a crowd of cats on the right.
    #     score  1st cat  2nd cat  crowd
    # 0.9 cat      x
    # 0.8 cat      x (again: false)
    # 0.7 cat               x
    # 0.6 cat                        x (ignored)
    # 0.5 cat    nowhere
    ground_truth = make_truth(
        [(1, 1, (0, 0, 20, 20)), (1, 1, (30, 0, 20, 20)), (1, 2, (0, 50, 20, 20)), (1, 1, (60, 0, 40, 100), True)]
    )
    results = make_results(
        [
            (1, 1, (0, 0, 20, 20), 0.9),
            (1, 1, (0, 0, 20, 18), 0.8),
            (1, 1, (30, 0, 20, 20), 0.7),
            (1, 1, (70, 10, 10, 10), 0.6),
            (1, 1, (0, 80, 10, 10), 0.5),
        ]
    )

    def test_curve(self):
        curve = precision_recall(match_results(self.ground_truth, self.results), 0)
        assert curve.num_ground_truth == 2
        assert curve.score.tolist() == [0.9, 0.8, 0.7, 0.5]
        assert curve.precision.tolist() == [1, 1 / 2, 2 / 3, 2 / 4]
        assert curve.recall.tolist() == [0.5, 0.5, 1, 1]

    def test_best_f1(self):
        found = match_results(self.ground_truth, self.results)
        cat = best_f1(precision_recall(found, 0))
        assert cat == {"score": 0.7, "f1": pytest.approx(0.8), "precision": pytest.approx(2 / 3), "recall": 1.0}
        assert best_f1(precision_recall(found, 1)) == {"score": -1, "f1": 0, "precision": 0, "recall": 0}
        overall = best_f1(precision_recall(found))
        assert overall == {"score": 0.7, **dict.fromkeys(("f1", "precision", "recall"), pytest.approx(2 / 3))}

    def test_of_equal_f1_the_highest_score_is_taken(self):
        # One of two is found alone, and both with two false ones: 1 · 1/2 and 1/2 · 1.
        ground_truth = make_truth([(1, 1, (0, 0, 20, 20)), (1, 1, (30, 0, 20, 20))])
        stray = (1, 1, (0, 80, 10, 10))
        rows = [(1, 1, (0, 0, 20, 20), 0.9), (*stray, 0.8), (*stray, 0.7), (1, 1, (30, 0, 20, 20), 0.6)]
        best = best_f1(precision_recall(match_results(ground_truth, make_results(rows)), 0))
        assert best == {"score": 0.9, "f1": pytest.approx(2 / 3), "precision": 1.0, "recall": 0.5}

    def test_best_f1_without_ground_truth(self):
        assert set(best_f1(precision_recall(match_results(make_truth([]), self.results), 0)).values()) == {-1}

    def test_equal_scores_are_kept_together(self):
        # One true and one false detection of score 0.5: no threshold has the true one alone.
        ground_truth = make_truth([(1, 1, (0, 0, 20, 20))])
        rows = [(1, 1, (0, 0, 20, 20), 0.5), (1, 1, (50, 50, 20, 20), 0.5)]
        for order in (rows, rows[::-1]):
            best = best_f1(precision_recall(match_results(ground_truth, make_results(order)), 0))
            assert best == {"score": 0.5, "f1": pytest.approx(2 / 3), "precision": 0.5, "recall": 1.0}

    def test_confusion(self):
        # The dog is taken for a cat; the doubled cat and the stray one are background taken for cats.
        results = self.results + make_results([(1, 1, (0, 50, 20, 20), 0.4)])
        found = match_results(self.ground_truth, results)
        assert confusion_matrix(found, 0.0).tolist() == [[2, 0, 0], [1, 0, 0], [2, 0, 0]]
        assert confusion_matrix(found, 0.5).tolist() == [[2, 0, 0], [0, 0, 1], [2, 0, 0]]
        assert confusion_matrix(found, 0.85).tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]

    def test_confusion_prefers_the_own_class(self):
        # A better-scored dog on the cat does not take it from the cat's own detection.
        ground_truth = make_truth([(1, 1, (0, 0, 20, 20))])
        results = make_results([(1, 2, (0, 0, 20, 20), 0.9), (1, 1, (0, 0, 20, 18), 0.3)])
        assert confusion_matrix(match_results(ground_truth, results), 0.0).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
        assert confusion_matrix(match_results(ground_truth, results), 0.5).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]

    def test_confusion_needs_half_an_overlap(self):
        ground_truth = make_truth([(1, 1, (0, 0, 20, 20))])
        for height, matrix in ((10, [[0, 1, 0], [0, 0, 0], [0, 0, 0]]), (9.9, [[0, 0, 1], [0, 0, 0], [0, 1, 0]])):
            found = match_results(ground_truth, make_results([(1, 2, (0, 0, 20, height), 0.9)]))
            assert confusion_matrix(found, 0.0).tolist() == matrix

    def test_nothing_at_all(self):
        found = match_results({"images": [], "annotations": [], "categories": []}, [])
        assert confusion_matrix(found, 0.0).tolist() == [[0]]
        assert best_f1(precision_recall(found))["f1"] == -1


def test_order_of_the_results_matters_only_for_ties_in_an_image():
    ground_truth = make_truth([(i, 1, (0, 0, 20, 20)) for i in (1, 2, 3)], num_images=3)
    rows = [(i, 1, (0, 0, 20, size), 0.5) for i, size in ((1, 20), (2, 5), (3, 20))]
    curve_of = [precision_recall(match_results(ground_truth, make_results(order)), 0) for order in (rows, rows[::-1])]
    assert curve_of[0].precision.tolist() == curve_of[1].precision.tolist() == [1, 1 / 2, 2 / 3]


def test_columns_are_used_as_given():
    found = match_results(TestByHand.ground_truth, TestByHand.results)
    again = curves.match_detections(found.detections, replace(found.targets, crowd=np.zeros(4, dtype=bool)))
    assert again.tolist() == [0, -1, 1, -1, -1]
