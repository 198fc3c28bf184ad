"""AP of resampled images against pycocotools on images that are really there so often."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.evaluation.bootstrap import detection_results
from detection.evaluation.coco import coco_metrics
from tests.evaluation.coco_sets import coco_sets, make_results, make_truth

SETTINGS = settings(max_examples=40, deadline=None)


def assert_same(found, row, metrics):
    """One row of resampled numbers is what pycocotools says, which marks undefined ones by -1."""
    told = {name: metrics[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}
    told |= {f"{m}/{name}": numbers[m] for name, numbers in metrics["per_class"].items() for m in ("AP", "AP50")}
    assert set(found) == set(told)
    for name, value in told.items():
        ours = found[name][row]
        assert np.isnan(ours) if value == -1 else abs(ours - value) < 1e-9, name


@SETTINGS
@given(coco_sets())
def test_each_image_once_is_pycocotools(pair):
    ground_truth, results = pair
    per_image = detection_results(ground_truth, results, "")
    found = per_image.resampled(np.ones((1, len(ground_truth["images"])), dtype=int))
    assert_same(found, 0, coco_metrics(ground_truth, results, "pycocotools"))


def with_copies(ground_truth, results, counts):
    """Data in which image i, by ascending id, is there counts[i] times; copies of an image stand beside each other."""
    ids = sorted(image["id"] for image in ground_truth["images"])
    names = [(old, 1000 * place + copy) for place, old in enumerate(ids) for copy in range(counts[place])]

    def copied(items, key):
        return [{**item, key: new} for old, new in names for item in items if item[key] == old]

    annotations = copied(ground_truth["annotations"], "image_id")
    for number, annotation in enumerate(annotations):
        annotation["id"] = number
    images = copied(ground_truth["images"], "id")
    return {**ground_truth, "images": images, "annotations": annotations}, copied(results, "image_id")


@SETTINGS
@given(coco_sets(most_detections=30), st.data())
def test_images_left_out_and_drawn_again_are_copies(pair, data):
    ground_truth, results = copy.deepcopy(pair)
    for number, result in enumerate(results):  # copies of equal scores stand in another order, which changes AP
        result["score"] += number * 1e-6
    number = len(ground_truth["images"])
    counts = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=number, max_size=number), min_size=1, max_size=3))
    found = detection_results(ground_truth, results, "").resampled(np.array(counts))
    for row, of_images in enumerate(counts):
        if any(of_images):
            assert_same(found, row, coco_metrics(*with_copies(ground_truth, results, of_images), "pycocotools"))


def test_by_hand():
    """Two images with a ground truth each; the first is found, with a false alarm above it; the second is not."""
    box, far = (0, 0, 20, 20), (60, 60, 20, 20)
    ground_truth = make_truth([(1, 1, box), (2, 1, box)], ("cat",), num_images=2)
    results = make_results([(1, 1, box, 0.5), (1, 1, far, 0.9)])
    per_image = detection_results(ground_truth, results, "")
    found = per_image.resampled(np.array([[1, 1], [2, 0], [1, 3], [0, 2]]))
    # Precision is 1/2 in all; recall ends at 1/2 (51 of 101 levels), 1, 1/4 (26 levels) and 0.
    assert found["AP50"] == pytest.approx([51 / 202, 1 / 2, 26 / 202, 0])


def test_ap75_is_that_of_an_iou_of_three_quarters():
    ground_truth = make_truth([(1, 1, (0, 0, 100, 100))], ("cat",), num_images=1)
    for height, ap75 in ((74, 0), (76, 1)):
        found = detection_results(ground_truth, make_results([(1, 1, (0, 0, 100, height), 0.9)]), "")
        metrics = found.resampled(np.ones((1, 1), dtype=int))
        assert (metrics["AP50"][0], metrics["AP75"][0]) == pytest.approx((1, ap75))


def test_crowd_and_empty_images_by_hand():
    """Image 1 has an object and a crowd region, 2 a crowd region alone, 3 a false alarm alone, 4 nothing at all."""
    box, region, far = (0, 0, 20, 20), (50, 50, 40, 40), (60, 60, 20, 20)
    ground_truth = make_truth([(1, 1, box), (1, 1, region, True), (2, 1, region, True)], ("cat",), num_images=4)
    results = make_results([(1, 1, box, 0.5), (1, 1, far, 0.9), (2, 1, far, 0.8), (3, 1, far, 0.7)])
    per_image = detection_results(ground_truth, results, "")
    counts = np.array([[1, 1, 1, 1], [1, 3, 0, 0], [1, 0, 3, 0], [2, 0, 1, 1], [0, 1, 1, 2], [1, 0, 0, 3]])
    found = per_image.resampled(counts)
    # False alarms on crowd regions do not count; those on empty images do; without an object nothing is defined.
    assert found["AP50"] == pytest.approx([1 / 2, 1, 1 / 4, 2 / 3, np.nan, 1], nan_ok=True)
    for row, of_images in enumerate(counts):
        assert_same(found, row, coco_metrics(*with_copies(ground_truth, results, of_images.tolist()), "pycocotools"))


def test_many_resamplings_come_in_pieces(monkeypatch):
    rng = np.random.default_rng(0)
    ground_truth = make_truth([(i, 1, (0, 0, 20, 20)) for i in range(1, 9)], ("cat",), num_images=8)
    results = make_results([(i, 1, (x, 0, 20, 20), rng.random()) for i in range(1, 9) for x in (0, 5, 60)])
    per_image, counts = detection_results(ground_truth, results, ""), rng.integers(0, 3, (50, 8))
    expected = per_image.resampled(counts)
    monkeypatch.setattr("detection.evaluation.bootstrap._CHUNK", 100)
    assert all(
        np.array_equal(expected[name], value, equal_nan=True) for name, value in per_image.resampled(counts).items()
    )
