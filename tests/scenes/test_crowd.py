"""ContextScenes `crowd`: who overlaps whom and by how much, who stays visible, and that images repeat."""

import json

import numpy as np
import pytest

from detection.cli import scenes as scenes_command
from detection.scenes import crowd, drawing
from detection.scenes.tasks import draw_scene

SIZE = 96


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene("crowd", 0, "train", number, SIZE) for number in range(1, 151)]


def iou(a, b):
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def overlaps(scene):
    """IoU of every two objects of a scene, 0 of an object with itself."""
    boxes = [drawing.outline_box(outline) for _, outline in scene.objects]
    return np.array([[iou(a, b) if a is not b else 0.0 for b in boxes] for a in boxes])


def inside(outline, points):
    """Whether points lie within a polygon, by the number of its edges to their right."""
    within = np.zeros(len(points), dtype=bool)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, 0), strict=True):
        if y0 != y1:
            between = (points[:, 1] >= min(y0, y1)) & (points[:, 1] < max(y0, y1))
            within ^= between & (points[:, 0] < x0 + (points[:, 1] - y0) * (x1 - x0) / (y1 - y0))
    return within


def test_a_image_is_fixed_by_its_arguments():
    a, b = (draw_scene("crowd", 3, "val", 7, SIZE) for _ in range(2))
    assert np.array_equal(a.image, b.image)
    assert all(np.array_equal(p, q) for (_, p), (_, q) in zip(a.objects, b.objects, strict=True))
    other = draw_scene("crowd", 4, "val", 7, SIZE)
    assert not np.array_equal(a.image, other.image)


def test_a_image_has_6_to_14_people(scenes):
    counts = [len(scene.objects) for scene in scenes]
    assert set(counts) == set(range(6, 15))
    assert {name for scene in scenes for name, _ in scene.objects} == {"person"}


def test_overlaps_are_as_promised(scenes):
    """About half overlap a neighbor by 0.3 or more, a third by 0.5 or more, and none by more than 0.8."""
    highest = np.concatenate([overlaps(scene).max(1) for scene in scenes])
    assert 0.77 < highest.max() <= 0.8
    assert 0.45 <= (highest >= 0.299).mean() <= 0.65
    assert 0.25 <= (highest >= 0.5).mean() <= 0.45
    assert (highest >= 0.7).mean() >= 0.03
    assert 0.3 <= (highest < 0.1).mean()


def test_no_two_of_a_group_overlap_more_than_drawn():
    rng = np.random.default_rng(0)
    for _ in range(300):
        first, second, third = crowd.draw_group(rng, 3, 20.0)
        overlapping = sorted([iou(first, second), iou(first, third), iou(second, third)])
        assert overlapping[2] <= 0.791 and overlapping[1] >= 0.299


def test_everyone_is_visible(scenes):
    """Painted by number into a map of 4 by 4 points a pixel, those in front last, each keeps 15 % of its points."""
    grid = (np.stack(np.meshgrid(np.arange(4 * SIZE), np.arange(4 * SIZE)), -1).reshape(-1, 2) + 0.5) / 4
    least = 1.0
    for scene in scenes[:15]:
        numbers = np.full(len(grid), -1)
        areas = []
        for number, (_, outline) in enumerate(scene.objects):
            within = inside(outline, grid)
            areas.append(within.sum())
            numbers[within] = number
        seen = np.bincount(numbers[numbers >= 0], minlength=len(areas))
        least = min(least, *(seen / areas))
    assert 0.13 <= least < 0.3


def test_who_stands_lower_stands_in_front(scenes):
    for scene in scenes:
        feet = [outline[:, 1].max() for _, outline in scene.objects]
        assert feet == sorted(feet)


def test_a_later_figure_covers_an_earlier_one_and_has_a_dark_rim():
    figures = np.full((256, 256, 3), 128, np.uint8)
    boxes = [np.array([40.0, 40, 100, 140]), np.array([70.0, 60, 130, 160])]
    crowd.paint_people(np.random.default_rng(1), figures, boxes)
    row = figures.max(2)[110].astype(int)
    assert row[40:45].min() < 60 and row[70:75].min() < 60 and row[125:130].min() < 60
    assert row[45:68].min() > 95 and row[76:124].min() > 95  # no rim of the one behind, which would end at 99


def test_people_are_nearly_alike(scenes):
    for scene in scenes:
        boxes = np.array([drawing.outline_box(outline) for _, outline in scene.objects])
        heights = (boxes[:, 3] - boxes[:, 1]) * 128 / SIZE
        assert heights.min() > 17 and heights.max() < 26.5 and heights.max() / heights.min() < 1.16
        assert boxes.min() >= 0.9 and boxes.max() <= SIZE - 0.9


@pytest.mark.parametrize("size", [64, 256])
def test_it_is_drawn_at_any_size(tmp_path, size):
    out = tmp_path / "crowd"
    assert scenes_command.main([str(out), "--task=crowd", "--train=6", "--val=2", f"--size={size}"]) == 0
    ground_truth = json.loads((out / "train.json").read_text())
    assert [c["name"] for c in ground_truth["categories"]] == ["person"] and ground_truth["info"]["task"] == "crowd"
    assert len(ground_truth["annotations"]) >= 36
    for item in ground_truth["annotations"]:
        x, y, width, height = item["bbox"]
        assert 16 < height * 128 / size < 27 and 0.5 < width / height < 0.75
        xs, ys = np.reshape(item["segmentation"][0], (-1, 2)).T
        np.testing.assert_allclose([xs.min(), ys.min(), np.ptp(xs), np.ptp(ys)], [x, y, width, height], atol=0.02)
        assert 0.6 < item["area"] / (width * height) < 0.9
