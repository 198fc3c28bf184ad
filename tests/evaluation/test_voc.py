"""VOC's AP: values worked by hand and a naive transcription of the development kit."""

import numpy as np
import pytest
from hypothesis import given, settings

from detection.evaluation.voc import all_point_ap, eleven_point_ap, voc_metrics
from tests.evaluation.coco_sets import coco_sets, make_results, make_truth
from tests.evaluation.test_matching import naive_iou


def naive_voc(ground_truth, results):
    """`VOCevaldet.m` and `VOCap.m`, class by class and detection by detection, on continuous boxes."""
    eleven, every = [], []
    for category in (c["id"] for c in ground_truth["categories"]):
        targets = [a for a in ground_truth["annotations"] if a["category_id"] == category]
        num_ground_truth = sum(not a["iscrowd"] for a in targets)
        if not num_ground_truth:
            continue
        mine = [r for r in results if r["category_id"] == category]
        mine.sort(key=lambda r: (-r["score"], r["image_id"]))
        seen, tp, fp = set(), [], []
        for result in mine:
            best, best_iou = None, -1.0
            for annotation in targets:
                if annotation["image_id"] == result["image_id"]:
                    iou = naive_iou(result["bbox"], annotation["bbox"])
                    if iou > best_iou:
                        best, best_iou = annotation, iou
            hit = best is not None and best_iou >= 0.5
            if hit and best["iscrowd"]:
                continue
            new = hit and best["id"] not in seen
            seen |= {best["id"]} if new else set()
            tp.append(int(new))
            fp.append(int(not new))
        recall = np.cumsum(tp) / num_ground_truth
        precision = np.cumsum(tp) / np.maximum(np.cumsum(tp) + np.cumsum(fp), 1)
        eleven.append(np.mean([max(precision[recall >= t / 10 - 1e-9], default=0) for t in range(11)]))
        recall, precision = np.array([0, *recall, 1]), np.array([0, *precision, 0])
        for i in range(len(precision) - 2, -1, -1):
            precision[i] = max(precision[i], precision[i + 1])
        steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
        every.append(sum((recall[i] - recall[i - 1]) * precision[i] for i in steps))
    return (np.mean(eleven), np.mean(every)) if eleven else (-1, -1)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(coco_sets())
def test_equals_the_development_kit(pair):
    metrics = voc_metrics(*pair)
    assert (metrics["VOC07_AP50"], metrics["VOC_AP50"]) == pytest.approx(naive_voc(*pair), abs=1e-12)


def test_by_hand():
    # Found: yes, no, yes, no; two of three ground-truth boxes. Precision made to fall: 1 up to recall 1/3, 2/3 up to
    # recall 2/3.
    hits = np.array([True, False, True, False])
    assert all_point_ap(hits, 3) == pytest.approx((1 + 2 / 3) / 3)
    # The points 0 … 0.3 reach precision 1, 0.4 … 0.6 reach 2/3, 0.7 … 1 nothing.
    assert eleven_point_ap(hits, 3) == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


def test_a_recall_of_three_tenths_reaches_the_point_0_3():
    assert eleven_point_ap(np.array([True, True, True]), 10) == 4 / 11


def test_no_detections():
    assert eleven_point_ap(np.zeros(0, bool), 3) == all_point_ap(np.zeros(0, bool), 3) == 0
    assert voc_metrics(make_truth([]), []) == {"VOC07_AP50": -1, "VOC_AP50": -1}


def test_a_duplicate_is_false_even_where_a_second_ground_truth_is_free():
    # Both detections overlap the left ground truth most; COCO would give the second one the ground truth beside it.
    ground_truth = make_truth([(1, 1, (0, 0, 20, 20)), (1, 1, (5, 0, 20, 20))])
    results = make_results([(1, 1, (0, 0, 20, 20), 0.9), (1, 1, (1, 0, 20, 20), 0.8)])
    assert voc_metrics(ground_truth, results)["VOC_AP50"] == 0.5


def test_difficult_boxes_and_what_lies_on_them_do_not_count():
    ground_truth = make_truth([(1, 1, (0, 0, 20, 20)), (1, 1, (50, 50, 20, 20), True)])
    results = make_results([(1, 1, (50, 50, 20, 20), 0.9), (1, 1, (0, 0, 20, 20), 0.8)])
    assert voc_metrics(ground_truth, results) == {"VOC07_AP50": 1, "VOC_AP50": 1}


def test_an_iou_of_exactly_one_half_counts_and_less_does_not():
    ground_truth = make_truth([(1, 1, (0, 0, 20, 20))])
    assert voc_metrics(ground_truth, make_results([(1, 1, (0, 0, 20, 10), 0.9)]))["VOC_AP50"] == 1
    assert voc_metrics(ground_truth, make_results([(1, 1, (0, 0, 20, 9.99), 0.9)]))["VOC_AP50"] == 0


def test_mean_over_classes_with_a_ground_truth():
    ground_truth = make_truth([(1, 1, (0, 0, 20, 20)), (1, 2, (0, 0, 20, 20))], categories=("cat", "dog", "cow"))
    results = make_results([(1, 1, (0, 0, 20, 20), 0.9), (1, 3, (0, 0, 20, 20), 0.9)])
    assert voc_metrics(ground_truth, results) == {"VOC07_AP50": 0.5, "VOC_AP50": 0.5}
