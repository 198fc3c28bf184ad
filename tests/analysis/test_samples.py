"""Samples: right, wrong class, false and missed are told apart, and a class has one color in all of them."""

import json

import numpy as np
import pytest
from PIL import Image

from detection.analysis.samples import MARKS, draw_samples, judge
from detection.analysis.visualize import distinct_colors
from detection.data.coco_index import load_index
from tests.coco_files import write_image

A, B, FAR = [10.0, 10, 50, 50], [100.0, 10, 160, 60], [300.0, 300, 340, 340]
NEAR_A = [12.0, 10, 52, 50]


@pytest.mark.parametrize(
    ("found", "predicted", "scores", "kinds", "missed"),
    [
        ([NEAR_A], ["cat"], [0.9], ["right"], [1]),
        ([NEAR_A], ["dog"], [0.9], ["wrong class"], [1]),
        ([FAR], ["cat"], [0.9], ["false"], [0, 1]),
        ([NEAR_A, A, B], ["cat", "cat", "dog"], [0.5, 0.9, 0.4], ["false", "right", "right"], []),
        ([A, NEAR_A], ["dog", "cat"], [0.9, 0.3], ["false", "right"], [1]),
        ([], [], [], [], [0, 1]),
    ],
)
def test_what_detections_are(found, predicted, scores, kinds, missed):
    boxes, none = np.array([A, B]), np.zeros(2, dtype=bool)
    found = np.array(found, dtype=float).reshape(-1, 4)
    assert judge(found, predicted, scores, boxes, ["cat", "dog"], none) == (kinds, missed)


def test_a_crowd_is_neither_found_nor_missed():
    found = np.array([[20.0, 20, 30, 30], FAR])
    assert judge(found, ["cat", "cat"], [0.9, 0.8], np.array([A]), ["cat"], np.array([True])) == ([None, "false"], [])
    assert judge(found, ["cat"] * 2, [0.9, 0.8], np.zeros((0, 4)), [], np.zeros(0, bool)) == (["false"] * 2, [])


def test_samples_have_each_mark_and_the_colors_of_all_classes(tmp_path):
    write_image(tmp_path / "images/a.png", 400, 400)
    Image.new("RGB", (400, 400), (90, 90, 90)).save(tmp_path / "images/a.png")
    objects = [(1, A), (2, B), (1, FAR)]
    annotations = [
        {"id": n, "image_id": 1, "category_id": c, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": 1, "iscrowd": 0}
        for n, (c, (x0, y0, x1, y1)) in enumerate(objects, 1)
    ]
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 400, "height": 400}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": annotations,
    }
    (tmp_path / "a.json").write_text(json.dumps(data))
    results = [
        {"image_id": 1, "category_id": c, "bbox": box, "score": s}
        for c, box, s in ((1, [10, 10, 40, 40], 0.9), (1, [100, 10, 60, 50], 0.8), (2, [200, 200, 30, 30], 0.7))
    ]
    classes = ["bird", "cat", "dog"]  # the detector has one that these annotations do not list
    index = load_index(tmp_path / "a.json")
    drawn = draw_samples(index, tmp_path / "images", results, 1, 0.5, classes)["a"]
    colors = distinct_colors(classes)
    half = drawn.shape[1] // 2
    for name in ("cat", "dog"):
        assert (drawn[:, :half] == colors[name]).all(2).any() and (drawn[:, half:] == colors[name]).all(2).any()
    body = drawn[:-40, half:]
    places = {kind: np.argwhere((body == mark[1]).all(2)) for kind, mark in MARKS.items()}
    assert all(len(place) > 50 for place in places.values())
    centers = {kind: place.mean(0) for kind, place in places.items()}
    assert centers["right"][0] < 100 and centers["missed"][0] > 300 > centers["false"][0] > 150
    assert all((drawn[-20:] == mark[1]).all(2).any() for mark in MARKS.values()), "the legend"
