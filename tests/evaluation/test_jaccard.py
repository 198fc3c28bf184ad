"""The Jaccard index: drawn by hand, and against an assignment of each image alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import linear_sum_assignment

from detection.evaluation.jaccard import jaccard_indices
from detection.evaluation.matching import pair_iou
from detection.evaluation.operating_points import match_all
from tests.evaluation.coco_sets import coco_sets, make_results, make_truth

HIT, MISS = (0, 0, 20, 20), (60, 60, 20, 20)


def jaccard_of(ground_truth, results):
    matching = match_all(ground_truth, results)
    return jaccard_indices(matching.targets, matching.detections, len(ground_truth["images"]))


def test_the_matching_is_a_maximum_one():
    # The better detection is nearer to the first ground truth but fits both, the other fits only the first.
    ground_truth = make_truth([(1, 1, (0, 0, 20, 20)), (1, 1, (8, 0, 20, 20))], categories=("person",))
    results = make_results([(1, 1, (3, 0, 20, 20), 0.9), (1, 1, (0, 0, 20, 18), 0.95)])
    for scores in ((0.9, 0.95), (0.95, 0.9)):
        for result, score in zip(results, scores, strict=True):
            result["score"] = score
        assert jaccard_of(ground_truth, results) == [(1, 0)]


def test_mean_over_images_best_over_thresholds():
    # Both ground-truth boxes are found; the second image has a false one of .35 more; nothing is in the third.
    ground_truth = make_truth([(1, 1, HIT), (2, 1, HIT)], categories=("person",), num_images=3)
    results = make_results([(1, 1, HIT, 0.5), (2, 1, HIT, 0.9), (2, 1, MISS, 0.35)])
    assert jaccard_of(ground_truth, results) == [(1, 0.4)]
    results[0]["score"] = 0.3
    assert jaccard_of(ground_truth, results) == [((1 + 1 / 2) / 2, 0)]
    results.append({**results[2], "image_id": 3})
    assert jaccard_of(ground_truth, results) == [((1 + 1 / 2 + 0) / 3, 0)]


def test_scores_that_all_are_high_are_kept_apart():
    ground_truth = make_truth([(i, 1, HIT) for i in (1, 2, 3, 4)], categories=("person",), num_images=4)
    results = make_results([(i, 1, HIT, 0.99) for i in (1, 2, 3, 4)] + [(i, 1, MISS, 0.98) for i in (1, 2, 3, 4)])
    assert jaccard_of(ground_truth, results) == [(1, 0.99)]


def test_without_partner_on_a_crowd_nobody_counts():
    region = (1, 1, (50, 50, 40, 40), True)
    ground_truth = make_truth([(1, 1, HIT), region, (1, 1, (55, 55, 20, 20))], categories=("person",))
    results = make_results([(1, 1, HIT, 0.9), (1, 1, (70, 70, 10, 10), 0.9)])
    assert jaccard_of(ground_truth, results) == [(1, 0)]
    found = make_results([(1, 1, (55, 55, 20, 20), 0.9)])
    assert jaccard_of(ground_truth, found) == [(1 / 2, 0)]


def test_the_partner_is_taken_from_off_the_crowd():
    ground_truth = make_truth([(1, 1, (0, 0, 20, 20)), (1, 1, (10, 0, 60, 60), True)], categories=("person",))
    on, off = (1, 1, (6, 0, 20, 20), 0.9), (1, 1, (-6, 0, 20, 20), 0.9)
    for rows in ((on, off), (off, on)):
        assert jaccard_of(ground_truth, make_results(rows)) == [(1, 0)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(coco_sets(most_detections=60))
def test_equals_naive_assignment(pair):
    ground_truth, results = pair
    assert jaccard_of(ground_truth, results) == [pytest.approx(naive) for naive in naive_jaccard(ground_truth, results)]


def naive_jaccard(ground_truth, results):
    """Image by image and threshold by threshold; pairs first, then those off the crowds, are worth most."""
    matching = match_all(ground_truth, results)
    targets, detections, best = matching.targets, matching.detections, []
    for k in range(len(targets.names)):
        number = int(((targets.category == k) & ~targets.crowd).sum())
        scores = detections.score[detections.category == k].tolist()
        ranks = [min(max(-(-number * tenths // 10), 1), len(scores)) for tenths in range(5, 16)]
        thresholds = [tenth / 10 for tenth in range(10)] + [scores[rank - 1] if scores else 0.0 for rank in ranks]
        means = []
        for threshold in thresholds:
            ratios = []
            for image in range(len(ground_truth["images"])):
                here = (targets.image == image) & (targets.category == k)
                real, crowds = targets.box[here & ~targets.crowd], targets.box[here & targets.crowd]
                mine = (detections.image == image) & (detections.category == k) & (detections.score >= threshold)
                ratios.append(naive_ratio(detections.box[mine], real, crowds))
            ratios = [r for r in ratios if r is not None]
            means.append(np.mean(ratios) if ratios else 0)
        best.append((max(means), thresholds[np.argmax(np.round(means, 12))]) if number else (-1, -1))
    return best


def naive_ratio(boxes, real, crowds):
    def iou(a, b, crowd=False):
        return pair_iou(a[None], b[None], np.array([crowd]))[0]

    ignored = np.array([any(iou(a, c, True) >= 0.5 for c in crowds) for a in boxes], dtype=bool)
    ignored_truth = np.array([any(iou(b, c, True) >= 0.5 for c in crowds) for b in real], dtype=bool)
    fits = np.array([[iou(a, b) >= 0.5 for b in real] for a in boxes]).reshape(len(boxes), len(real))
    worth = fits * (1000 + 1 - ignored[:, None].astype(int) + 1 - ignored_truth[None].astype(int))
    rows, columns = linear_sum_assignment(worth, maximize=True)
    pairs = [(r, c) for r, c in zip(rows.tolist(), columns.tolist(), strict=True) if fits[r, c]]
    alone = set(range(len(boxes))) - {r for r, _ in pairs}, set(range(len(real))) - {c for _, c in pairs}
    union = len(pairs) + sum(not ignored[r] for r in alone[0]) + sum(not ignored_truth[c] for c in alone[1])
    return len(pairs) / union if union else None
