"""COCO's numbers: by hand, against a direct call of pycocotools, and back-end against back-end on random sets."""

import contextlib
import copy
import importlib.util
import io

import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.errors import UserError
from detection.evaluation.coco import METRICS, coco_metrics
from tests.evaluation.coco_sets import coco_sets, make_results, make_truth

needs_hotcoco = pytest.mark.skipif(importlib.util.find_spec("hotcoco") is None, reason="hotcoco is not installed")
ONE_CAT = make_truth([(1, 1, (10, 10, 40, 40))])


def reference(ground_truth, results, category_id=None):
    """The twelve numbers as pycocotools' own documentation computes them; ground-truth boxes numbered from 1."""
    ground_truth, results = copy.deepcopy(ground_truth), copy.deepcopy(results)
    for number, annotation in enumerate(ground_truth["annotations"], start=1):
        annotation["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = ground_truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        if category_id is not None:
            evaluation.params.catIds = [category_id]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, evaluation.stats.tolist(), strict=True))


def numbers(metrics):
    return {name: metrics[name] for name in METRICS}


@pytest.mark.parametrize("backend", ["pycocotools", pytest.param("hotcoco", marks=needs_hotcoco)])
class TestByHand:
    def test_perfect(self, backend):
        metrics = coco_metrics(ONE_CAT, make_results([(1, 1, (10, 10, 40, 40), 0.9)]), backend)
        expected = dict.fromkeys(METRICS, 1.0) | dict.fromkeys(("APs", "APl", "ARs", "ARl"), -1.0)
        assert numbers(metrics) == pytest.approx(expected)
        assert metrics["per_class"]["cat"] == pytest.approx({"AP": 1.0, "AP50": 1.0})
        assert metrics["per_class"]["dog"] == {"AP": -1.0, "AP50": -1.0}
        assert metrics["backend"] == backend

    def test_iou_of_0_625_counts_at_three_of_ten_thresholds(self, backend):
        metrics = coco_metrics(ONE_CAT, make_results([(1, 1, (10, 10, 40, 25), 0.9)]), backend)
        assert metrics["AP50"] == pytest.approx(1) and metrics["AP75"] == 0
        assert metrics["AP"] == pytest.approx(0.3)

    def test_annotation_id_0_is_found(self, backend):
        assert ONE_CAT["annotations"][0]["id"] == 0
        assert coco_metrics(ONE_CAT, make_results([(1, 1, (10, 10, 40, 40), 0.9)]), backend)["AP"] == pytest.approx(1)

    def test_nothing_detected_is_0_and_nothing_to_detect_is_minus_1(self, backend):
        assert coco_metrics(ONE_CAT, [], backend)["AP"] == 0
        metrics = coco_metrics(make_truth([]), [], backend)
        assert set(numbers(metrics).values()) == {-1.0}
        metrics = coco_metrics({"images": [], "annotations": [], "categories": []}, [], backend)
        assert set(numbers(metrics).values()) == {-1.0} and metrics["per_class"] == {}

    def test_results_of_unknown_image_or_category_are_left_out(self, backend):
        good = make_results([(1, 1, (10, 10, 40, 40), 0.5)])
        stray = make_results([(9, 1, (10, 10, 40, 40), 0.9), (1, 9, (10, 10, 40, 40), 0.9)])
        assert coco_metrics(ONE_CAT, stray + good, backend)["AP"] == pytest.approx(1)

    def test_negative_ids_and_two_categories_of_one_name(self, backend):
        ground_truth = make_truth([(1, 1, (10, 10, 40, 40))], categories=("cat", "cat"))
        ground_truth["categories"][0]["id"] = ground_truth["annotations"][0]["category_id"] = -4
        ground_truth["images"][0]["id"] = ground_truth["annotations"][0]["image_id"] = -1
        metrics = coco_metrics(ground_truth, make_results([(-1, -4, (10, 10, 40, 40), 0.5)]), backend)
        expected = pytest.approx({"cat (id -4)": 1, "cat (id 2)": -1})
        assert {name: row["AP"] for name, row in metrics["per_class"].items()} == expected

    def test_inputs_stay_as_they_are_and_nothing_is_printed(self, backend, capfd):
        results = make_results([(1, 1, (10, 10, 40, 40), 0.5)])
        before = copy.deepcopy((ONE_CAT, results))
        coco_metrics(ONE_CAT, results, backend)
        assert (ONE_CAT, results) == before
        assert capfd.readouterr() == ("", "")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(coco_sets())
def test_wrapper_equals_direct_pycocotools(pair):
    ground_truth, results = pair
    if not results:
        results = [{**make_results([(0, 0, (0, 0, 0, 0), 0)])[0], "image_id": ground_truth["images"][0]["id"]}]
    metrics = coco_metrics(ground_truth, results, "pycocotools")
    assert numbers(metrics) == reference(ground_truth, results)
    for category in ground_truth["categories"][:2]:
        alone = reference(ground_truth, results, category["id"])
        assert metrics["per_class"][category["name"]] == {"AP": alone["AP"], "AP50": alone["AP50"]}


@needs_hotcoco
@settings(max_examples=400, deadline=None, derandomize=True)
@given(coco_sets())
def test_hotcoco_equals_pycocotools(pair):
    expected, fast = coco_metrics(*pair, "pycocotools"), coco_metrics(*pair, "hotcoco")
    assert expected | {"backend": ""} == fast | {"backend": ""}


def test_auto_without_hotcoco(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "hotcoco", None)
    assert coco_metrics(ONE_CAT, [])["backend"] == "pycocotools"
    with pytest.raises(UserError, match="hotcoco is not installed"):
        coco_metrics(ONE_CAT, [], "hotcoco")


def test_numbers_are_plain_floats():
    metrics = coco_metrics(ONE_CAT, [])
    assert all(type(metrics[name]) is float for name in METRICS)
    assert not any(isinstance(row["AP"], np.generic) for row in metrics["per_class"].values())
