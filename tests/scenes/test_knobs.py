"""ContextScenes: what the difficulty changes in each task, what is refused, and what files and configs hold of it."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from detection.cli import scenes as scenes_command
from detection.config import DataConfig, ScenesConfig, SplitConfig
from detection.errors import UserError
from detection.scenes import beacon, drawing
from detection.scenes.ensure import ensure_scenes
from detection.scenes.tasks import SPLITS, TASKS, draw_scene

SIZE = 96


def scenes(task, count, difficulty=None, cue=True):
    return [draw_scene(task, 2, "train", number, SIZE, cue, difficulty) for number in range(1, count + 1)]


def boxes(scene):
    return np.array([drawing.outline_box(outline) for _, outline in scene.objects])


def iou(a, b):
    shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_default_is_what_is_drawn_when_nothing_is_said(task):
    for plain, said in zip(scenes(task, 3), scenes(task, 3, TASKS[task].knob.default), strict=True):
        assert np.array_equal(plain.image, said.image)


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("end", ["low", "high"])
def test_both_ends_of_every_knob_can_be_drawn(task, end):
    for number in range(1, 6):
        for size in (64, 128) if task != "distance" else (128,):
            scene = draw_scene(task, 0, "val", number, size, True, getattr(TASKS[task].knob, end))
            assert scene.objects and scene.image.shape == (size, size, 3)
            x0, y0, x1, y1 = boxes(scene).T
            assert min(x0.min(), y0.min()) >= 0.9 and max(x1.max(), y1.max()) <= size - 0.9


def test_beacon_adds_patches_off_the_objects_and_changes_nothing_else():
    for plain, harder in zip(scenes("beacon", 20, 0), scenes("beacon", 20, 6), strict=True):
        assert [name for name, _ in plain.objects] == [name for name, _ in harder.objects]
        changed = (plain.image != harder.image).any(2).astype(np.uint8)
        assert 4 <= cv2.connectedComponents(changed)[0] - 1 <= 6
        for x0, y0, x1, y1 in boxes(harder).round().astype(int):
            assert not changed[y0 - 1 : y1 + 1, x0 - 1 : x1 + 1].any()


def test_patches_of_beacon_have_every_color_evenly():
    """So that no color in the image is a cue by itself: each of three in a third, within four standard deviations."""
    seen = {name: 0 for name in beacon.BEACONS}
    for plain, harder in zip(scenes("beacon", 20, 0), scenes("beacon", 20, 12), strict=True):
        _, _, _, middles = cv2.connectedComponentsWithStats((plain.image != harder.image).any(2).astype(np.uint8))
        for x, y in middles[1:].round().astype(int):
            pixel = harder.image[y, x].astype(int)
            seen[min(seen, key=lambda name, pixel=pixel: np.abs(np.array(beacon.BEACONS[name]) - pixel).sum())] += 1
    total = sum(seen.values())
    assert total > 100 and all(abs(n - total / 3) < 4 * np.sqrt(total * 2 / 9) for n in seen.values())


@pytest.mark.parametrize("markers", [0, 4])
def test_row_has_as_many_distractors(markers):
    for scene in scenes("row", 20, markers):
        colors = (np.ptp(scene.image.astype(int), axis=2) > 60).astype(np.uint8)
        assert cv2.connectedComponents(colors)[0] - 1 == markers + len(scene.objects)


@pytest.mark.parametrize("middle", [9, 18])
def test_tiny_has_objects_from_two_to_four_thirds_of_its_middle_size(middle):
    extents = np.concatenate([np.sqrt((b[:, 2:] - b[:, :2]).prod(1)) for b in map(boxes, scenes("tiny", 60, middle))])
    least, most = np.array([2, 4]) / 3 * middle * SIZE / 128
    assert least - 0.01 <= extents.min() < 1.05 * least and 0.95 * most < extents.max() <= most + 0.01


def test_shapes_lose_contrast():
    """On a flat gray, an object faded by 3/4 differs from it by a quarter of what it differs by itself."""
    outline = drawing.pose(drawing.SHAPES["star"], 40, 0.3) + 20
    plain, faded = (np.full((SIZE, SIZE, 3), 120, np.uint8) for _ in range(2))
    drawing.paint(np.random.default_rng(1), plain, outline)
    drawing.paint(np.random.default_rng(1), faded, outline, 0.75)
    assert np.abs(plain - 120.0).max() > 60
    np.testing.assert_allclose(faded - 120.0, (plain - 120.0) / 4, atol=1)


@pytest.mark.parametrize("closest, most, some", [(0.5, 0.5, 0.45), (0.3, 0.1, 0.0), (0.0, 0.1, 0.0)])
def test_crowd_overlaps_up_to_its_difficulty_and_hardly_at_all_up_to_0_3(closest, most, some):
    overlaps = [iou(a, b) for scene in scenes("crowd", 30, closest) for i, a in enumerate(boxes(scene))
                for b in boxes(scene)[:i]]  # fmt: skip
    assert some <= max(overlaps) <= most + 1e-3


@pytest.mark.parametrize("sizes", [0.25, 1.0, 2.5])
def test_surround_keeps_the_pattern_this_many_sizes_away(sizes):
    """Told by the pixels that change with the pattern: none is nearer to any box, and some are hardly farther."""
    nearest = []
    for with_cue, without in zip(scenes("surround", 20, sizes), scenes("surround", 20, sizes, cue=False), strict=True):
        for y, x in np.argwhere((with_cue.image != without.image).any(2)):
            x0, y0, x1, y1 = boxes(with_cue).T
            gaps = np.max([x0 - x - 1, x - x1, y0 - y - 1, y - y1], axis=0)
            nearest.append((gaps / (x1 - x0)).min())
    assert sizes - 1e-6 <= min(nearest) <= sizes + 0.15


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_mixed_has_this_share_of_images_that_need_context(share):
    """Rings are classed by context, all else by itself; every class of every task is met."""
    alone = {*drawing.SHAPES, "person"}
    drawn = scenes("mixed", 150, share)
    needs = [scene.objects[0][0] not in alone for scene in drawn]
    assert abs(np.mean(needs) - share) <= 4 * np.sqrt(share * (1 - share) / len(drawn))
    names = {name for scene in drawn for name, _ in scene.objects}
    if share != 0.5:
        assert names == (alone if share == 0 else set(TASKS["mixed"].categories) - alone)
    others = {name for task in TASKS if task != "mixed" for name in TASKS[task].categories}
    assert set(TASKS["mixed"].categories) == others


@pytest.mark.parametrize(
    "task, value, words",
    [
        ("beacon", -1, "from 0 to 12"),
        ("count", 2.5, "an integer from 2 to 12"),
        ("row", 5, "from 0 to 4 (markers in other rows"),
        ("shapes", 1.0, "from 0 to 0.9"),
        ("distance", float("nan"), "from 1 to 12"),
        ("mixed", 2, "from 0 to 1"),
    ],
)
def test_a_difficulty_out_of_range_is_reported_in_one_sentence(tmp_path, capsys, task, value, words):
    arguments = [str(tmp_path / "set"), f"--task={task}", f"--difficulty={value}", "--train=1"]
    assert scenes_command.main(arguments) == 2
    error = capsys.readouterr().err
    assert f"--difficulty {value:g}" in error and task in error and words in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError):
        draw_scene(task, 0, "train", 1, SIZE, True, value)


def test_a_distance_that_the_image_has_no_room_for_is_refused(tmp_path, capsys):
    assert scenes_command.main([str(tmp_path / "set"), "--task=distance", "--size=64", "--difficulty=9"]) == 2
    error = capsys.readouterr().err
    assert "images of 64 pixels: give 5 or less" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError):
        draw_scene("distance", 0, "train", 1, 64, True, 6)
    assert draw_scene("distance", 0, "train", 1, 64, True, 5).objects


def test_files_name_what_is_not_the_default_only(tmp_path, capsys):
    """So that sets made before there were controls and knobs are still known for what they are."""

    def info(*options):
        small = ["--task=row", "--train=2", "--val=0", "--size=64"]
        assert scenes_command.main([str(tmp_path / "set"), *small, *options]) == 0
        return json.loads((tmp_path / "set" / "train.json").read_text())["info"]

    plain = info()
    assert set(plain) == {"description", "task", "split", "images", "seed", "size", "version"}
    assert info("--difficulty=2", "--cue") == plain and "already there" in capsys.readouterr().out
    changed = info("--no-cue", "--difficulty=3", "--overwrite")
    assert changed["cue"] is False and changed["difficulty"] == 3 and "control" in changed["description"]
    same = set(plain) - {"description", "version"}
    assert {key: changed[key] for key in same} == {key: plain[key] for key in same}
    assert changed["version"] == 2 and plain["version"] == 1
    with Image.open(tmp_path / "set" / "train" / "000002.png") as image:
        assert np.array_equal(image, draw_scene("row", 0, "train", 2, 64, False, 3).image)
    assert scenes_command.main([str(tmp_path / "set"), "--task=row", "--train=2", "--val=0", "--size=64"]) == 2


@pytest.mark.parametrize("options", [{}, {"cue": False, "difficulty": 1.0, "test": 3}])
def test_a_config_draws_its_scenes(tmp_path, options):
    """The set of a config is the one that the command line makes with the same options."""
    scenes = ScenesConfig(task="row", train=2, val=1, size=64, **options)
    ensure_scenes(DataConfig(train=SplitConfig(str(tmp_path / "set" / "train.json")), scenes=scenes))
    found = json.loads((tmp_path / "set" / "train.json").read_text())["info"]
    assert (found.get("cue", True), found.get("difficulty")) == (options.get("cue", True), options.get("difficulty"))
    assert (tmp_path / "set" / "test.json").exists() == ("test" in options)


def test_a_config_s_training_draws_what_an_evaluation_did_not(tmp_path, capsys):
    split = {name: SplitConfig(str(tmp_path / "set" / f"{name}.json")) for name in ("train", "val", "test")}
    data = DataConfig(**split, scenes=ScenesConfig(task="row", train=2, val=1, test=3, size=64))
    for splits, printed in ((("val",), "drawing 1"), (SPLITS, "drawing 2 + 3"), (SPLITS, "")):
        ensure_scenes(data, splits)
        assert capsys.readouterr().out.partition(" images")[0] == printed
    assert len(list(tmp_path.glob("set/*/*.png"))) == 6
    with pytest.raises(UserError, match="holds ContextScenes of other parameters") as raised:
        ensure_scenes(dataclasses.replace(data, scenes=ScenesConfig(task="row", train=2, val=1, size=64, seed=1)))
    assert "another folder in data.train.annotations and data.val.annotations or" in str(raised.value)
    assert f"`detection scenes {tmp_path / 'set'} --task row … --overwrite`" in str(raised.value)
    assert "OUT" not in str(raised.value)


def test_a_figure_shows_six_images(tmp_path, capsys):
    path = tmp_path / "new" / "row.png"
    assert scenes_command.main(["--task=row", "--size=64", f"--figure={path}"]) == 0
    with Image.open(path) as image:
        assert image.width > 3 * 256 and image.height > 2 * 256 and image.mode == "RGB"
    assert [p.name for p in tmp_path.rglob("*.*")] == ["row.png"]
    assert scenes_command.main(["--task=row"]) == 2
    assert "--figure FILE.png" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert scenes_command.main([f"--figure={tmp_path / 'file' / 'row.png'}"]) == 2
    assert "cannot be written" in capsys.readouterr().err
