"""The finding alone: one class, and NMS over all classes, against a loop over boxes."""

import json
import random

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from detection.cli import evaluate
from detection.evaluation.class_agnostic import NMS_IOU, ignore_classes, measure
from tests.evaluation.coco_sets import make_results, make_truth

BOX, OTHER = (2, 2, 20, 20), (30, 30, 20, 20)
TRUTH = make_truth([(1, 1, BOX), (1, 2, OTHER), (2, 2, BOX)], num_images=2)


def test_the_best_of_an_object_s_detections_counts_whatever_its_class():
    found = [(1, 1, BOX, 0.6), (1, 2, (3, 2, 20, 20), 0.7), (1, 1, OTHER, 0.5), (2, 1, BOX, 0.9)]
    truth, results, metrics = measure(TRUTH, make_results(found), True)
    assert [r["score"] for r in results] == [0.7, 0.5, 0.9]
    assert metrics["AP50"] == 1 and list(metrics["per_class"]) == ["object"]
    assert metrics["classes_ignored"] is True and metrics["class_agnostic_nms_iou"] == NMS_IOU == 0.5
    assert {a["category_id"] for a in truth["annotations"]} == {r["category_id"] for r in results} == {1}
    assert len(TRUTH["categories"]) == 2, "the given ground truth is left as it was"
    as_it_is = measure(TRUTH, make_results(found))[2]
    assert as_it_is["AP50"] < 1 and "classes_ignored" not in as_it_is


def test_boxes_of_an_iou_of_exactly_0_5_are_two():
    found = make_results([(1, 1, (0, 0, 20, 10), 0.9), (1, 2, (0, 0, 10, 10), 0.8)])
    assert len(ignore_classes(TRUTH, found)[1]) == 2


@pytest.mark.parametrize("seed", range(3))
def test_nms_is_torchvision_s(seed):
    rng = random.Random(seed)
    truth = make_truth([(1, 1, BOX), (2, 2, BOX), (3, 1, BOX)], num_images=3)
    rows = []
    for score in rng.sample(range(1000), 90):
        box = (rng.uniform(0, 30), rng.uniform(0, 30), rng.uniform(10, 20), rng.uniform(10, 20))
        rows.append((rng.randint(1, 3), rng.randint(1, 2), box, score / 1000))
    results = make_results(rows)
    kept = {r["score"] for r in ignore_classes(truth, results)[1]}
    expected = set()
    for image in (1, 2, 3):
        own = [r for r in results if r["image_id"] == image]
        boxes = torch.tensor([r["bbox"] for r in own], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([r["score"] for r in own], dtype=torch.float64)
        expected |= {own[i]["score"] for i in nms(boxes, scores, NMS_IOU).tolist()}
    assert kept == expected and len(kept) < len(results)


def test_nothing_found_and_nothing_known():
    assert measure(TRUTH, [], True)[2]["AP"] == 0
    _, kept, _ = measure(TRUTH, make_results([(9, 1, BOX, 0.5), (1, 1, BOX, 0.4)]), True)
    assert [r["score"] for r in kept] == [0.4]


def test_of_a_results_file(tmp_path, capsys):
    truth = {**TRUTH, "categories": [{"id": 7, "name": "a"}, {"id": 5, "name": "b"}]}
    truth["annotations"] = [{**a, "category_id": {1: 7, 2: 5}[a["category_id"]]} for a in TRUTH["annotations"]]
    found = make_results([(1, 5, BOX, 0.6), (1, 7, OTHER, 0.5), (2, 7, BOX, 0.9), (2, 5, BOX, 0.8)])
    (tmp_path / "a.json").write_text(json.dumps(truth))
    (tmp_path / "r.json").write_text(json.dumps(found))
    files = ["--results", str(tmp_path / "r.json"), "--annotations", str(tmp_path / "a.json")]
    assert evaluate.main([*files, "--ignore-classes", "--output", str(tmp_path / "out")]) == 0
    assert "| AP50       | 1.000" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["classes_ignored"] is True and np.isclose(metrics["AP50"], 1)
    # Its results can be measured again, by the same annotations.
    again = ["--results", str(tmp_path / "out/results.json"), *files[2:], "--ignore-classes"]
    assert evaluate.main(again) == 0 and "| AP50       | 1.000" in capsys.readouterr().out
    assert evaluate.main([*files, "--context-from=mean"]) == 2
    assert capsys.readouterr().err == "error: --context-from is for a run; --results needs only --annotations.\n"
