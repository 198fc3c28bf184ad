"""Larger images than trained on: objects and cues keep their sizes, and the distance between them grows."""

import json

import numpy as np
import pytest
from PIL import Image

from detection.cli import scenes as scenes_command
from detection.config import DataConfig, ScenesConfig, SplitConfig
from detection.errors import UserError
from detection.scenes import drawing
from detection.scenes.ensure import ensure_scenes
from detection.scenes.tasks import TASKS, draw_scene

SIZE = 96
SCALING = [name for name, task in TASKS.items() if task.scales]


def scenes(task, count, canvas=None):
    return [draw_scene(task, 4, "train", number, SIZE, canvas=canvas) for number in range(1, count + 1)]


def extents(outlines):
    return np.array([np.sqrt(np.ptp(outline, axis=0).prod()) for outline in outlines])


def distances(drawn):
    """Of each object's middle to the middle of its cue, or of all cues."""
    found = []
    for scene in drawn:
        for index, (_, outline) in enumerate(scene.objects):
            cues = scene.cues[index : index + 1] if len(scene.cues) == len(scene.objects) else scene.cues
            found.append(np.linalg.norm(outline.mean(0) - np.concatenate(cues).mean(0)))
    return np.array(found)


def test_these_tasks_have_larger_images():
    assert sorted(SCALING) == ["arrow", "beacon", "count", "distance", "row"]


@pytest.mark.parametrize("task", SCALING)
def test_sizes_stay_and_distances_grow(task):
    """Distributions by their quartiles; objects fit more easily where there is more room, so not one by one."""
    plain, larger = scenes(task, 120), scenes(task, 120, 2 * SIZE)
    assert all(scene.image.shape == (2 * SIZE, 2 * SIZE, 3) for scene in larger)
    for of in (lambda s: [outline for _, outline in s.objects], lambda s: s.cues):
        sizes = [extents([outline for scene in drawn for outline in of(scene)]) for drawn in (plain, larger)]
        quartiles = [np.quantile(values, [0, 0.25, 0.5, 0.75, 1]) for values in sizes]
        np.testing.assert_allclose(*quartiles, atol=0.06 * SIZE * 8 / 128 + (1.5 if task == "arrow" else 0))
    ratio = distances(larger).mean() / distances(plain).mean()
    assert 1.6 < ratio < 2.4
    boxes = np.array([drawing.outline_box(outline) for scene in larger for _, outline in scene.objects])
    assert boxes.min() >= 0.9 and boxes.max() <= 2 * SIZE - 0.9
    assert (boxes[:, :2].max(0) > 1.4 * SIZE).all(), "all of the image is used"


@pytest.mark.parametrize("task", SCALING)
def test_a_canvas_of_the_size_is_the_plain_image(task):
    for plain, same in zip(scenes(task, 3), scenes(task, 3, SIZE), strict=True):
        assert np.array_equal(plain.image, same.image)


@pytest.mark.parametrize(
    ("task", "canvas", "sentence"), [("shapes", 192, "no version in larger"), ("row", 95, "at least size=96")]
)
def test_what_makes_no_sense_is_refused(task, canvas, sentence):
    with pytest.raises(UserError, match=sentence):
        draw_scene(task, 0, "train", 1, SIZE, canvas=canvas)


def test_by_command_and_by_config(tmp_path, capsys):
    assert (
        scenes_command.main([str(tmp_path / "a"), "--task=row", "--train=2", "--val=1", "--size=96", "--canvas=160"])
        == 0
    )
    split = SplitConfig(str(tmp_path / "b" / "train.json"), str(tmp_path / "b" / "train"))
    ensure_scenes(DataConfig(train=split, scenes=ScenesConfig("row", train=2, val=1, size=96, canvas=160)))
    a, b = ((tmp_path / name / "train.json").read_bytes() for name in "ab")
    assert a == b and json.loads(a)["info"]["canvas"] == 160 and json.loads(a)["images"][0]["width"] == 160
    assert Image.open(tmp_path / "a" / "train" / "000001.png").size == (160, 160)
    assert scenes_command.main([str(tmp_path / "c"), "--task=tiny", "--canvas=160"]) == 2
    assert "no version in larger" in capsys.readouterr().err and not (tmp_path / "c").exists()
