"""ContextScenes: the cue of each task shows every class, is where it should be, and is all that its control changes.

`reading` is a naive reader of each cue, written here; it knows where to look and is right in every image.
"""

import json

import cv2
import numpy as np
import pytest

from detection.scenes import beacon, drawing
from detection.scenes.files import split_info, write_split
from detection.scenes.tasks import TASKS, draw_scene

SIZE = 128
SHOWN_BY_CONTEXT = ("arrow", "beacon", "count", "distance", "row", "surround")
LEAST_GAP = {"arrow": 30, "beacon": 44, "count": 44, "distance": 40, "row": 44, "surround": 2 * 14}
"""Least distance in pixels between an object's box and the cue that shows its class, at the default difficulty."""


def scenes(task, count, cue=True, difficulty=None, size=SIZE):
    return [draw_scene(task, 5, "train", number, size, cue, difficulty) for number in range(1, count + 1)]


def color_name(pixel):
    return min(beacon.BEACONS, key=lambda name: np.abs(np.array(beacon.BEACONS[name]) - pixel).sum())


def colored(image):
    """Where an image is not gray."""
    return np.ptp(image.astype(int), axis=2) > 60


def gap(a, b):
    """Distance of two boxes xyxy, the larger of that along x and that along y; negative where they overlap."""
    return max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])


def marker_reading(scene, index):
    """The color in the middle of the object's own marker, or of the only one there is."""
    x, y = scene.cues[min(index, len(scene.cues) - 1)].mean(0).astype(int)
    return color_name(scene.image[y, x])


def count_reading(scene, index):
    """The number of colored patches; 1, 2 or 3 at the default difficulty."""
    return ("few", "some", "many")[cv2.connectedComponents(colored(scene.image).astype(np.uint8))[0] - 2]


def surround_reading(scene, index):
    """In which directions the gray changes in the ring from 2 to 3 sizes around the object."""
    x0, y0, x1, y1 = drawing.outline_box(scene.objects[index][1])
    centers = np.arange(SIZE) + 0.5
    far = np.maximum(np.maximum(x0 - centers, centers - x1), np.maximum(y0 - centers, centers - y1)[:, None])
    ring = (far > 2 * (x1 - x0) + 2) & (far < 3 * (x1 - x0) - 2)
    gray = scene.image.mean(2)
    down, across = (np.abs(change)[ring].mean() for change in np.gradient(gray))
    if max(down, across) < 2 * min(down, across):
        return "checks"
    return "columns" if across > down else "rows"


def arrow_reading(scene, index):
    """The color of the arrow whose line passes nearest to the object's middle; its head is where it is wider."""
    ring, nearest = scene.objects[index][1].mean(0), {}
    count, parts = cv2.connectedComponents(colored(scene.image).astype(np.uint8))
    for part in range(1, count):
        y, x = np.nonzero(parts == part)
        points = np.stack([x, y], 1) + 0.5
        middle = points.mean(0)
        along = np.linalg.svd(points - middle, full_matrices=False)[2][0]
        place, aside = (points - middle) @ along, np.abs((points - middle) @ [-along[1], along[0]])
        if aside[place > 0].max() < aside[place < 0].max():
            along = -along
        towards = ring - middle
        angle = np.arccos(towards @ along / np.linalg.norm(towards))
        nearest[angle] = color_name(np.median(scene.image[y, x], 0))
    return nearest[min(nearest)]


READING = {
    "arrow": arrow_reading,
    "beacon": marker_reading,
    "count": count_reading,
    "distance": marker_reading,
    "row": marker_reading,
    "surround": surround_reading,
}


@pytest.mark.parametrize("task", SHOWN_BY_CONTEXT)
def test_the_cue_shows_every_class(task):
    for scene in scenes(task, 60):
        assert [name for name, _ in scene.objects] == [READING[task](scene, i) for i in range(len(scene.objects))]


@pytest.mark.parametrize("task", SHOWN_BY_CONTEXT)
def test_in_the_control_version_the_cue_shows_nothing(task):
    """One object an image: right in a third of the images, within four standard deviations.

    Of `arrow` in one of as many as there are arrows, whose colors are there.
    """
    drawn = scenes(task, 120, cue=False)
    right = [scene.objects[0][0] == READING[task](scene, 0) for scene in drawn]
    chance = np.mean([1 / len(scene.objects) for scene in drawn]) if task == "arrow" else 1 / 3
    assert abs(np.mean(right) - chance) < 4 * np.sqrt(2 / 9 / 120)


@pytest.mark.parametrize("task", SHOWN_BY_CONTEXT)
def test_the_control_version_changes_the_cue_and_nothing_else(task):
    """Boxes are equal; pixels that differ are in the cues' outlines and as far from the boxes as the task promises."""
    differing = 0
    for with_cue, without in zip(scenes(task, 60), scenes(task, 60, cue=False), strict=True):
        for (name, outline), (other_name, other) in zip(with_cue.objects, without.objects, strict=True):
            assert name == other_name and np.array_equal(outline, other)
        changed = (with_cue.image != without.image).any(2)
        differing += changed.any()
        cues = np.zeros_like(changed)
        for cue in (*with_cue.cues, *without.cues):
            left, top, width, height = drawing.window(with_cue.image, cue)
            cues[top : top + height, left : left + width] = True
        assert not (changed & ~cues).any()
        # In `row`, another object's marker may come nearer than the own one.
        least = 2 if task == "row" else LEAST_GAP[task] - 1e-6
        for y, x in np.argwhere(changed):
            assert all(gap((x, y, x + 1, y + 1), drawing.outline_box(o)) >= least for _, o in with_cue.objects)
    assert differing > 30


@pytest.mark.parametrize("task", TASKS)
def test_a_control_set_has_the_same_ground_truth_and_other_images(task, tmp_path):
    """File by file, at the default difficulty and at the ends of its range."""
    knob, differing = TASKS[task].knob, 0
    for difficulty, count in ((None, 25), (knob.low, 4), (knob.high, 4)):
        written = []
        for cue in (True, False):
            folder = tmp_path / f"{difficulty}-{cue}"
            folder.mkdir()
            write_split(folder, split_info(task, "val", count, SIZE, 3, cue, difficulty))
            written.append(json.loads((folder / "val.json").read_text()))
        assert all(written[0][key] == written[1][key] for key in ("images", "annotations", "categories"))
        assert written[0]["info"] != written[1]["info"]
        for item in written[0]["images"]:
            images = [
                (tmp_path / f"{difficulty}-{cue}" / "val" / item["file_name"]).read_bytes() for cue in (True, False)
            ]
            differing += images[0] != images[1]
    assert differing > 11


@pytest.mark.parametrize("task", ["shapes", "tiny"])
def test_the_control_version_of_shapes_changes_them_and_nothing_else(task):
    """Pixels that differ are in the squares about the objects' middles that hold any shape of their size."""
    changes = 0
    for with_cue, without in zip(scenes(task, 20), scenes(task, 20, cue=False), strict=True):
        near = np.zeros(with_cue.image.shape[:2], bool)
        for _, outline in with_cue.objects:
            x0, y0, x1, y1 = drawing.outline_box(outline)
            reach = 0.85 * np.sqrt((x1 - x0) * (y1 - y0)) + 1
            (left, top), (right, bottom) = (np.array([(x0 + x1) / 2, (y0 + y1) / 2]) + s * reach for s in (-1, 1))
            near[max(0, int(top)) : int(bottom) + 1, max(0, int(left)) : int(right) + 1] = True
        changed = (with_cue.image != without.image).any(2)
        assert not (changed & ~near).any()
        changes += changed.any()
    assert changes > 15


@pytest.mark.parametrize("task", SHOWN_BY_CONTEXT)
@pytest.mark.parametrize("size, easiest", [(64, False), (128, False), (128, True)])
def test_no_cue_touches_a_box(task, size, easiest):
    for scene in scenes(task, 40, difficulty=TASKS[task].knob.low if easiest else None, size=size):
        assert scene.cues
        for _, outline in scene.objects:
            assert all(gap(drawing.outline_box(cue), drawing.outline_box(outline)) >= 1 for cue in scene.cues)


def test_the_own_marker_in_row_is_farther_than_a_small_network_sees():
    for scene in scenes("row", 60):
        for (_, outline), cue in zip(scene.objects, scene.cues, strict=True):
            assert gap(drawing.outline_box(cue), drawing.outline_box(outline)) >= LEAST_GAP["row"] - 1e-6


def test_row_holds_one_marker_beside_each_ring_and_distractors_elsewhere():
    numbers = set()
    for scene in scenes("row", 60):
        colors = colored(scene.image)
        for index, (_, outline) in enumerate(scene.objects):
            _, y0, _, y1 = drawing.outline_box(outline)
            beside = np.nonzero(colors[int(y0) : int(np.ceil(y1))].any(0))[0]
            marker = drawing.outline_box(scene.cues[index])
            assert marker[0] <= beside.min() and beside.max() <= marker[2]
            assert abs((marker[1] + marker[3]) / 2 - (y0 + y1) / 2) <= 2.01
        markers = cv2.connectedComponents(colors.astype(np.uint8))[0] - 1
        assert markers == len(scene.objects) + 2
        numbers.add(len(scene.objects))
    assert numbers == {1, 2, 3}


@pytest.mark.parametrize("cells", [1, 2.5, 5, 12])
def test_distance_is_exact_along_a_row_or_a_column(cells):
    directions, numbers = set(), set()
    for scene in scenes("distance", 60, difficulty=cells):
        assert len(scene.cues) == 1 and cv2.connectedComponents(colored(scene.image).astype(np.uint8))[0] == 2
        marker = drawing.outline_box(scene.cues[0])
        numbers.add(len(scene.objects))
        for _, outline in scene.objects:
            box = drawing.outline_box(outline)
            assert gap(marker, box) == pytest.approx(8 * cells)
            apart = (box[:2] + box[2:] - marker[:2] - marker[2:]) / 2
            assert min(np.abs(apart)) < 1e-6
            directions.add(tuple(np.sign(apart.round(3)).astype(int).tolist()))
    assert directions == {(1, 0), (-1, 0), (0, 1), (0, -1)} and numbers == {1, 2}


@pytest.mark.parametrize("most", [2, 6, 12])
def test_count_is_of_the_most_beacons_and_one_or_two_fewer(most):
    seen = set()
    for scene in scenes("count", 40, difficulty=most):
        beacons = cv2.connectedComponents(colored(scene.image).astype(np.uint8))[0] - 1
        assert beacons == most - ["many", "some", "few"].index(scene.objects[0][0])
        assert len({name for name, _ in scene.objects}) == 1
        seen.add(beacons)
    assert seen == {most - 2, most - 1, most}


def test_patterns_share_their_grays():
    """Where cue and control show different patterns, their pixels have nearly the same mean and spread."""
    differences = []
    for with_cue, without in zip(scenes("surround", 60), scenes("surround", 60, cue=False), strict=True):
        changed = cv2.dilate((with_cue.image != without.image).any(2).astype(np.uint8), np.ones((5, 5))) > 0
        if changed.any():
            a, b = with_cue.image[changed].astype(float), without.image[changed].astype(float)
            differences.append((a.mean() - b.mean(), a.std() - b.std()))
    assert len(differences) > 30 and np.abs(differences).max() < 8


def test_neighbors_in_surround_have_classes_of_their_own_and_room_for_their_patterns():
    pairs = [scene for scene in scenes("surround", 120) if len(scene.objects) == 2]
    equal = [a == b for (a, _), (b, _) in (scene.objects for scene in pairs)]
    assert len(pairs) > 20 and abs(np.mean(equal) - 1 / 3) < 4 * np.sqrt(2 / 9 / len(pairs))
    for scene in pairs:
        first, second = (drawing.outline_box(outline) for _, outline in scene.objects)
        assert gap(first, second) >= 5 * (first[2] - first[0]) - 1e-6
