"""The Jaccard index: worked by hand, and against an assignment of each image alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import linear_sum_assignment

from detection.evaluation.jaccard import jaccard_indices
from detection.evaluation.matching import image_sizes, pair_iou
from detection.evaluation.operating_points import match_all
from tests.evaluation.coco_sets import coco_sets, make_results, make_truth

HIT, MISS = (0, 0, 20, 20), (60, 60, 20, 20)


def jaccard_of(ground_truth, results):
    matching = match_all(ground_truth, results)
    return jaccard_indices(matching.targets, matching.detections, image_sizes(ground_truth))


def test_the_matching_is_not_greedy():
    # The better detection is nearer to the first ground truth but fits both, the other fits only the first.
    ground_truth = make_truth([(1, 1, (0, 0, 20, 20)), (1, 1, (8, 0, 20, 20))], categories=("person",))
    results = make_results([(1, 1, (3, 0, 20, 20), 0.9), (1, 1, (0, 0, 20, 18), 0.95)])
    for scores in ((0.9, 0.95), (0.95, 0.9)):
        for result, score in zip(results, scores, strict=True):
            result["score"] = score
        assert jaccard_of(ground_truth, results) == [(1, 0)]


def test_the_matching_has_the_largest_sum_of_ious_not_most_pairs():
    """Boxes of 20 pixels, one every 5.8: neighbors have an IoU of 14.2 / 25.8 = 0.55, those two apart 0.27.

    Ground truth at 0, 5.8, 11.6 and detections at 5.8, 11.6, 17.4: all three pairs of neighbors sum to 1.65, the two
    equal boxes to 2. So k = 2 of m = n = 3, and the index is 2 / (3 + 3 - 2), as CrowdDet's program computes it.
    """
    ground_truth = make_truth([(1, 1, (x, 0, 20, 20)) for x in (0, 5.8, 11.6)], categories=("person",))
    results = make_results([(1, 1, (x, 0, 20, 20), 0.9) for x in (5.8, 11.6, 17.4)])
    assert jaccard_of(ground_truth, results) == [(0.5, 0)]


def test_three_images_by_hand():
    """k, m and n of each image at the thresholds 0 and 0.5; the third image has nothing from 0.5 on.

    First: both people are found, 2, 2, 2. Second: an IoU of 200 / 400 is not above 0.5, nor is half a detection on the
    region to ignore enough to leave it out: 0, 1, 2, without the detection of score 0.5 from 0.5 on: 0, 1, 1. Third:
    nobody is there and one is found: 0, 0, 1 and 0, 0, 0, which does not count. So (1 + 0 + 0) / 3 and (1 + 0) / 2.
    """
    rows = [(1, 1, HIT), (1, 1, (30, 0, 20, 20)), (2, 1, HIT), (2, 1, (50, 50, 10, 20), True)]
    ground_truth = make_truth(rows, categories=("person",), num_images=3)
    found = [(1, 1, HIT, 0.9), (1, 1, (30, 0, 20, 20), 0.7), (2, 1, (0, 0, 10, 20), 0.8), (3, 1, MISS, 0.4)]
    results = make_results([*found, (2, 1, (50, 50, 20, 20), 0.5)])
    assert jaccard_of(ground_truth, results) == [(0.5, 0.4)]
    results[4]["bbox"] = [50, 50, 19, 20]
    results[2]["bbox"] = [0, 0, 10.1, 20]
    assert jaccard_of(ground_truth, results) == [(1, 0.4)]


def test_boxes_are_clipped_to_their_image():
    assert image_sizes(make_truth([], size=(100, 40))).tolist() == [[100, 40]]  # width and height
    ground_truth = make_truth([(1, 1, (80, 0, 60, 20))], categories=("person",))
    results = make_results([(1, 1, (80, 0, 20, 20), 0.9)])
    assert jaccard_of(ground_truth, results) == [(1, 0)]
    for key in ("width", "height"):
        del ground_truth["images"][0][key]
    assert jaccard_of(ground_truth, results) == [(0, 0)]


def test_mean_over_images_best_over_thresholds():
    # Both ground-truth boxes are found; the second image has a false one of .35 more; nothing is in the third.
    ground_truth = make_truth([(1, 1, HIT), (2, 1, HIT)], categories=("person",), num_images=3)
    results = make_results([(1, 1, HIT, 0.5), (2, 1, HIT, 0.9), (2, 1, MISS, 0.35)])
    assert jaccard_of(ground_truth, results) == [(1, 0.4)]
    results[0]["score"] = 0.3
    assert jaccard_of(ground_truth, results) == [((1 + 1 / 2) / 2, 0)]
    results.append({**results[2], "image_id": 3})
    assert jaccard_of(ground_truth, results) == [((1 + 1 / 2 + 0) / 3, 0)]


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
    """Image by image and threshold by threshold; of equal sums of IoUs that with most pairs off the crowds."""
    matching = match_all(ground_truth, results)
    targets, detections, best = matching.targets, matching.detections, []
    for k in range(len(targets.names)):
        number = int(((targets.category == k) & ~targets.crowd).sum())
        thresholds = [tenth / 10 for tenth in range(10)]
        means = []
        for threshold in thresholds:
            ratios = []
            for image in range(len(ground_truth["images"])):
                here = (targets.image == image) & (targets.category == k)
                real, crowds = clip(targets.box[here & ~targets.crowd]), clip(targets.box[here & targets.crowd])
                mine = (detections.image == image) & (detections.category == k) & (detections.score > threshold)
                ratios.append(naive_ratio(clip(detections.box[mine]), real, crowds))
            ratios = [r for r in ratios if r is not None]
            means.append(np.mean(ratios) if ratios else 0)
        best.append((max(means), thresholds[np.argmax(np.round(means, 12))]) if number else (-1, -1))
    return best


def clip(boxes):
    """To the images of 100 pixels of `coco_sets`."""
    start, stop = boxes[:, :2].clip(0, 99), (boxes[:, :2] + boxes[:, 2:]).clip(0, 100)
    return np.concatenate([start, stop - start], axis=1)


def naive_ratio(boxes, real, crowds):
    def iou(a, b, crowd=False):
        return pair_iou(a[None], b[None], np.array([crowd]))[0]

    ignored = np.array([any(iou(a, c, True) > 0.5 for c in crowds) for a in boxes], dtype=bool)
    ignored_truth = np.array([any(iou(b, c, True) > 0.5 for c in crowds) for b in real], dtype=bool)
    ious = np.array([[iou(a, b) for b in real] for a in boxes]).reshape(len(boxes), len(real))
    fits = ious > 0.5
    worth = fits * (ious + 1e-9 * (2 - ignored[:, None].astype(int) - ignored_truth[None].astype(int)))
    rows, columns = linear_sum_assignment(worth, maximize=True)
    pairs = [(r, c) for r, c in zip(rows.tolist(), columns.tolist(), strict=True) if fits[r, c]]
    alone = set(range(len(boxes))) - {r for r, _ in pairs}, set(range(len(real))) - {c for _, c in pairs}
    union = len(pairs) + sum(not ignored[r] for r in alone[0]) + sum(not ignored_truth[c] for c in alone[1])
    return len(pairs) / union if union else None
