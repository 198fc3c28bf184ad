"""ContextScenes `beacon`: the far beacon shows the class, and nothing else in the image does."""

import json

import numpy as np
import pytest

from detection.cli import scenes as scenes_command
from detection.scenes import beacon, drawing
from detection.scenes.tasks import draw_scene

SIZE = 96


def scenes(count):
    return [draw_scene("beacon", 3, "train", number, SIZE) for number in range(1, count + 1)]


def test_another_color_of_the_beacon_changes_no_other_pixel(monkeypatch):
    """And those pixels are farther from every object's box than the gap that the task promises."""
    before = scenes(60)
    names = sorted(beacon.BEACONS)
    rotated = {name: beacon.BEACONS[names[i - 1]] for i, name in enumerate(names)}
    monkeypatch.setattr(beacon, "BEACONS", rotated)
    for a, b in zip(before, scenes(60), strict=True):
        assert [name for name, _ in a.objects] == [name for name, _ in b.objects]
        ys, xs = np.nonzero((a.image != b.image).any(2))
        assert 3 < np.ptp(xs) < SIZE * 20 / 128 and 3 < np.ptp(ys) < SIZE * 20 / 128
        for _, outline in a.objects:
            x0, y0, x1, y1 = drawing.outline_box(outline)
            across = max(x0 - xs.max() - 1, xs.min() - x1)
            down = max(y0 - ys.max() - 1, ys.min() - y1)
            assert max(across, down) >= SIZE * 44 / 128


def test_each_image_has_one_class_and_classes_are_balanced():
    drawn = scenes(600)
    assert all(len({name for name, _ in s.objects}) == 1 for s in drawn)
    counts = np.array([sum(s.objects[0][0] == name for s in drawn) for name in sorted(beacon.BEACONS)])
    assert counts.min() > 165 and counts.sum() == 600
    assert {len(s.objects) for s in drawn} == {2, 3, 4, 5}


def test_number_place_and_size_of_objects_do_not_tell_the_class():
    """Their means differ between classes by less than four standard errors."""
    drawn = scenes(600)
    for measure in (
        lambda s: len(s.objects),
        lambda s: np.mean([drawing.outline_box(o)[0] for _, o in s.objects]),
        lambda s: np.mean([drawing.outline_box(o)[1] for _, o in s.objects]),
        lambda s: np.mean([np.ptp(o[:, 0]) for _, o in s.objects]),
    ):
        groups = [np.array([measure(s) for s in drawn if s.objects[0][0] == name]) for name in sorted(beacon.BEACONS)]
        spread = np.std(np.concatenate(groups)) / np.sqrt(min(map(len, groups)))
        assert max(g.mean() for g in groups) - min(g.mean() for g in groups) < 4 * spread


@pytest.mark.parametrize("size", [64, 128])
def test_it_is_drawn_at_any_size(tmp_path, size):
    out = tmp_path / "beacon"
    scenes_command.main([str(out), "--task=beacon", "--train=6", "--val=2", f"--size={size}"])
    ground_truth = json.loads((out / "train.json").read_text())
    assert [c["name"] for c in ground_truth["categories"]] == ["blue", "green", "red"]
    assert len(ground_truth["annotations"]) >= 12 and ground_truth["info"]["task"] == "beacon"
