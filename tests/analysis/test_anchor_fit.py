"""Anchors and objects of one shape: IoUs by hand, the factor that fits, and where a person reads of it."""

import json

import numpy as np
import pytest

from detection.ablation.own_data.detector_data import leaks_and_remarks
from detection.analysis.anchor_fit import (
    MOST_BOXES,
    anchor_remarks,
    anchor_shapes,
    best_shape_iou,
    describe_anchor_fit,
    input_boxes,
)
from detection.cli import browse, train
from detection.config import base_config, override
from detection.training.loaders import open_split
from tests.tiny_runs import draw_shapes, tiny_config, write_config


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("drawn"))


def test_shapes_and_ious_by_hand():
    shapes = anchor_shapes(np.array([10.0, 20.0]), np.array([1.0, 4.0]))
    np.testing.assert_allclose(shapes, [[10, 10], [5, 20], [20, 20], [10, 40]])
    boxes = np.array([[10.0, 10.0], [5.0, 10.0], [4.0, 40.0], [10.0, 5.0]])
    # 5x10 lies within 10x10 and 5x20; 4x40 shares 80 of 180 pixels with 5x20, 160 of 400 with 10x40; 10x5: 10x10.
    np.testing.assert_allclose(best_shape_iou(boxes, shapes), [1, 0.5, 4 / 9, 0.5])
    assert len(best_shape_iou(np.zeros((0, 2)), shapes)) == 0


def four_sizes():
    """`finetune` with square anchors of 24, 48, 96 and 192."""
    stages = "detector.regions.stages=('p3', 'p4', 'p5', 'p6')"
    return override(base_config("finetune"), [stages, "detector.regions.anchor_sizes=((24,), (48,), (96,), (192,))"])


def test_a_set_of_one_size_gets_the_factor_that_makes_the_finest_map_fit():
    config = four_sizes()
    share, better = describe_anchor_fit(np.full((50, 2), 12.0), config)
    assert share == 0 and better == "100% with detector.regions.anchor_sizes=((12,),(24,),(48,),(96,))"
    share, better = describe_anchor_fit(np.full((50, 2), 800.0), config)
    assert share == 0 and better.startswith("100% with detector.regions.anchor_sizes=((384,),(768,),")
    assert describe_anchor_fit(np.full((50, 2), 30.0), config) == (1.0, "")
    some = np.concatenate([np.full((40, 2), 12.0), np.full((10, 2), 24.0)])
    share, better = describe_anchor_fit(some, config)
    assert share == 0.2 and better == "100% with detector.regions.anchor_sizes=((12,),(24,),(48,),(96,))"
    assert describe_anchor_fit(np.full((50, 2), 24.0) * [1, 0.5], config) == (1.0, "")  # an IoU of 0.5 fits


def test_a_few_small_objects_do_not_take_the_finest_map_from_the_rest():
    config = four_sizes()
    few, many = (np.array([[12.0]] * (100 - n) + [[6.0]] * n) * np.ones(2) for n in (2, 20))
    assert describe_anchor_fit(few, config)[1] == "98% with detector.regions.anchor_sizes=((12,),(24,),(48,),(96,))"
    assert describe_anchor_fit(many, config)[1] == "100% with detector.regions.anchor_sizes=((6,),(12,),(24,),(48,))"


def test_sizes_that_gain_little_are_not_named():
    config = four_sizes()
    boxes = np.concatenate([np.full((95, 2), 48.0), np.full((5, 2), 3.0)])
    assert describe_anchor_fit(boxes, config) == (0.95, "")
    shares = [describe_anchor_fit(boxes[:count], config) for count in (0, 95)]
    assert shares == [None, (1.0, "")]
    boxes = np.concatenate([np.full((88, 2), 48.0), np.full((12, 2), 3.0)])  # with no factor more fit
    assert describe_anchor_fit(boxes, config) == (0.88, "")


def test_sizes_that_are_named_can_be_given_and_then_fit():
    config = four_sizes()
    boxes = np.random.default_rng(0).lognormal(2.2, 0.4, (3000, 1)) * np.ones(2)
    _, better = describe_anchor_fit(boxes, config)
    promised, setting = better.split(" with ")
    share, _ = describe_anchor_fit(boxes, override(config, [setting]))
    assert f"{share:.0%}" == promised and share > 0.9


def test_detectors_without_anchors_have_no_fit():
    assert describe_anchor_fit(np.ones((3, 2)), base_config("reinspect_crowd")) is None


def test_of_very_many_boxes_evenly_spaced_ones_are_taken():
    boxes = np.tile([[48.0, 48.0], [3.0, 3.0]], (MOST_BOXES, 1))[: MOST_BOXES + 1]
    share, _ = describe_anchor_fit(boxes, four_sizes())
    assert share == 1  # every second one


def test_train_browse_and_own_data_say_it(drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config_file = write_config(tmp_path / "tiny.py", drawn)
    small = "detector.regions.anchor_sizes=((2,3),)"
    sentence = f"0% of the objects of {drawn / 'train.json'} have the shape of an anchor (IoU 0.5 or more), "
    assert train.main([str(config_file), "--output", "run", small, "schedule.epochs=1"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "shape of an anchor" in line)
    assert line.startswith(f"check     {sentence}") and " with detector.regions.anchor_sizes=((" in line
    assert browse.main([str(config_file), small]) == 0
    assert "\n0% of the boxes have the shape of an anchor (IoU 0.5 or more), " in capsys.readouterr().out
    assert any(text.startswith(sentence) for text in leaks_and_remarks(tiny_config(drawn, small)))
    fitting = "detector.regions.anchor_sizes=((8,17),)"
    config = tiny_config(drawn, fitting)
    assert not anchor_remarks(open_split("data.train", config.data.train), config)
    assert browse.main([str(config_file), fitting]) == 0
    assert "of the boxes have the shape of an anchor (IoU 0.5 or more)\n" in capsys.readouterr().out


def test_boxes_in_another_format_get_no_anchors(drawn, tmp_path):
    content = json.loads((drawn / "train.json").read_text())
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]
    corners = tmp_path / "corners.json"
    corners.write_text(json.dumps(content))
    config = tiny_config(drawn, "detector.regions.anchor_sizes=((2,3),)", f"data.train.annotations={corners}")
    assert not anchor_remarks(open_split("data.train", config.data.train), config)
    fitted = input_boxes(open_split("data.train", config.data.train), config)
    assert describe_anchor_fit(fitted, config)[1]


def test_sizes_are_those_at_the_detectors_input(drawn, tmp_path):
    config = tiny_config(drawn)
    index = open_split("data.train", config.data.train)
    larger = override(config, ["detector.min_size=128", "detector.max_size=128"])
    np.testing.assert_allclose(input_boxes(index, larger), 2 * input_boxes(index, config))
    found = json.loads((drawn / "train.json").read_text())["annotations"]
    expected = [entry["bbox"][2:] for entry in found if not entry.get("iscrowd")]
    np.testing.assert_allclose(sorted(input_boxes(index, config).tolist()), sorted(expected), atol=1e-4)
    content = json.loads((drawn / "train.json").read_text())
    for image in content["images"]:
        image["width"] = 128  # twice as wide as high: halved by the longer side
    (tmp_path / "wide.json").write_text(json.dumps(content))
    wide = override(config, [f"data.train.annotations={tmp_path / 'wide.json'}", "detector.max_size=64"])
    halved = input_boxes(open_split("data.train", wide.data.train), wide)
    np.testing.assert_allclose(halved, input_boxes(index, config) / 2)
    all_boxes = input_boxes(index, config)
    np.testing.assert_allclose(input_boxes(index, config, len(all_boxes)), all_boxes)
    np.testing.assert_allclose(input_boxes(index, config, len(all_boxes) - 1), all_boxes[::2])
