"""Tiles: windows that cover an image to its border, and an exact detector's objects, each found once and complete."""

import numpy as np
import pytest
import torch

from detection.errors import UserError
from detection.tiles import Tiles, merge_tiles

WINDOWS = [(0, 0, 200, 100), (150, 0, 400, 100)]


@pytest.mark.parametrize("overlap", [0, 0.2, 0.5])
@pytest.mark.parametrize(("height", "width"), [(4000, 6000), (640, 641), (100, 2000), (639, 640), (1153, 1025), (1, 1)])
def test_windows_cover_the_image_and_overlap_enough(height, width, overlap):
    windows = Tiles(640, overlap, full_image=False).windows(height, width)
    covered = np.zeros((height, width), dtype=bool)
    for x0, y0, x1, y1 in windows:
        assert (x1 - x0, y1 - y0) == (min(640, width), min(640, height))
        covered[y0:y1, x0:x1] = True
    assert covered.all() and len(set(windows)) == len(windows)
    assert windows[-1][2:] == (width, height)
    for side in (0, 1):
        starts = sorted({window[side] for window in windows})
        assert all(a + 640 - b >= int(640 * overlap) - 1 for a, b in zip(starts, starts[1:], strict=False))


def test_the_full_image_is_one_more_window_unless_it_is_the_only_one():
    assert Tiles(640).windows(4000, 6000)[-1] == (0, 0, 6000, 4000)
    assert Tiles(640).windows(600, 640) == [(0, 0, 640, 600)]
    assert Tiles(640).windows(600, 641) == [(0, 0, 640, 600), (1, 0, 641, 600), (0, 0, 641, 600)]


@pytest.mark.parametrize(
    ("size", "overlap", "words"), [(31, 0.2, "tiles of 31 pixels"), (64, 0.95, "overlap=0.95"), (64, -1.0, "overlap")]
)
def test_settings_out_of_range_are_named(size, overlap, words):
    with pytest.raises(UserError, match=words):
        Tiles(size, overlap)


def detect(objects, labels, tiles, height, width, seed=0, smallest_in_full=0.0, noise=0.0):
    """What a detector finds that sees exactly the part of each object inside its window, with scores by chance."""
    random = np.random.default_rng(seed)
    windows = tiles.windows(height, width)
    boxes, scores, found, positions = [], [], [], []
    for number, (x0, y0, x1, y1) in enumerate(windows):
        is_full = (x0, y0, x1, y1) == (0, 0, width, height)
        for (a, b, c, d), label in zip(objects, labels, strict=True):
            part = max(a, x0), max(b, y0), min(c, x1), min(d, y1)
            least = smallest_in_full if is_full else 4
            if part[2] - part[0] < least or part[3] - part[1] < least:
                continue
            boxes.append([value + random.uniform(-noise, noise) for value in part])
            scores.append(random.uniform(0.3, 1))
            found.append(label)
            positions.append(number)
    rows, merged = merge_tiles(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores),
        torch.tensor(found, dtype=torch.long),
        positions,
        windows,
    )
    assert torch.equal(rows, rows[torch.tensor(scores)[rows].argsort(descending=True, stable=True)])
    chosen = [found[row] for row in rows.tolist()]
    return sorted(zip(chosen, [tuple(np.round(box, 1)) for box in merged.tolist()], strict=True))


def expected(objects, labels):
    return sorted((label, tuple(map(float, box))) for box, label in zip(objects, labels, strict=True))


def scattered(random, height, width, smallest, largest, number=60):
    """Boxes by chance that do not overlap, some of which touch."""
    objects = []
    for _ in range(number):
        w, h = random.integers(smallest, largest, 2)
        x, y = random.integers(0, width - w), random.integers(0, height - h)
        box = int(x), int(y), int(x + w), int(y + h)
        if all(box[2] <= o[0] or o[2] <= box[0] or box[3] <= o[1] or o[3] <= box[1] for o in objects):
            objects.append(box)
    return objects


@pytest.mark.parametrize("seed", range(8))
def test_objects_up_to_the_overlap_are_found_once(seed):
    random = np.random.default_rng(seed)
    objects = scattered(random, 900, 1300, 16, 60)
    labels = random.integers(1, 3, len(objects)).tolist()
    tiles = Tiles(300, 0.2, full_image=False)
    assert detect(objects, labels, tiles, 900, 1300, seed) == expected(objects, labels)


@pytest.mark.parametrize("seed", range(8))
def test_objects_larger_than_tiles_are_put_together(seed):
    random = np.random.default_rng(seed)
    objects = scattered(random, 900, 1300, 150, 500, number=20)
    labels = [1] * len(objects)
    tiles = Tiles(300, 0.25, full_image=False)
    assert detect(objects, labels, tiles, 900, 1300, seed) == expected(objects, labels)


def test_the_full_image_has_the_complete_large_object_and_leaves_small_ones_in_front_of_it():
    objects = [(100, 80, 1250, 860), (400, 300, 440, 330), (700, 500, 760, 560)]
    tiles = Tiles(300, 0.25)
    assert detect(objects, [1, 1, 1], tiles, 900, 1300, smallest_in_full=200) == expected(objects, [1, 1, 1])


@pytest.mark.parametrize("scores", [(0.9, 0.5), (0.5, 0.9)])
def test_a_small_object_in_front_of_a_large_one_of_its_class_is_no_fragment(scores):
    windows = Tiles(300, 0.25).windows(900, 1300)
    boxes = torch.tensor([[100.0, 80, 1250, 860], [230.0, 230, 290, 290]])
    positions = [len(windows) - 1, windows.index((200, 200, 500, 500))]
    rows, merged = merge_tiles(boxes, torch.tensor(scores), torch.tensor([1, 1]), positions, windows)
    assert sorted(rows.tolist()) == [0, 1] and torch.equal(merged, boxes[rows])


def test_an_object_on_a_seam_is_found_once_and_its_neighbor_stays():
    objects = [(490, 10, 560, 60), (560, 10, 630, 60)]  # touching, both across the overlap of two tiles
    tiles = Tiles(320, 0.2, full_image=False)
    assert detect(objects, [2, 2], tiles, 320, 576 + 320) == expected(objects, [2, 2])


@pytest.mark.parametrize("seed", range(4))
def test_boxes_a_few_pixels_off_are_still_one_object(seed):
    random = np.random.default_rng(seed)
    objects = scattered(random, 900, 1300, 24, 60)
    found = detect(objects, [1] * len(objects), Tiles(300, 0.2), 900, 1300, seed, smallest_in_full=30, noise=1.5)
    assert len(found) == len(objects)


def test_classes_and_detections_of_one_tile_are_not_merged():
    boxes = torch.tensor([[10.0, 10, 90, 90], [12.0, 10, 92, 90], [300.0, 10, 390, 90]])
    rows, _ = merge_tiles(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 1]), [0, 0, 1], WINDOWS)
    assert rows.tolist() == [0, 1, 2]
    same_place = torch.tensor([[160.0, 10, 190, 90], [160.0, 10, 190, 90]])
    rows, _ = merge_tiles(same_place, torch.tensor([0.5, 0.6]), torch.tensor([1, 2]), [0, 1], WINDOWS)
    assert rows.tolist() == [1, 0]
    rows, boxes = merge_tiles(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), [], WINDOWS)
    assert len(rows) == 0 and boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("first", "second", "number"),
    [
        ((160, 10, 190, 90), (160, 36, 190, 116), 1),  # complete in both tiles: IoU 54 / 106
        ((160, 10, 190, 90), (160, 37, 190, 117), 2),
        ((180, 30, 200, 70), (160, 10, 300, 50), 1),  # a fragment that is half inside of the complete box
        ((180, 31, 200, 71), (160, 10, 300, 50), 2),
    ],
)
def test_half_agreement_makes_one_object(first, second, number):
    windows = [(0, 0, 200, 200), (150, 0, 400, 200)]
    boxes = torch.tensor([first, second], dtype=torch.float32)
    rows, merged = merge_tiles(boxes, torch.tensor([0.6, 0.5]), torch.tensor([1, 1]), [0, 1], windows)
    assert len(rows) == number and torch.equal(merged, boxes[rows])


def test_a_box_that_ends_a_few_pixels_off_its_tiles_edge_is_cut():
    """A fiftieth of a tile's side, 12.8 pixels here."""
    windows = [(0, 0, 640, 200), (512, 0, 1152, 200)]
    boxes = torch.tensor([[300.0, 50, 628, 100], [524.0, 50, 800, 100]])
    rows, merged = merge_tiles(boxes, torch.tensor([0.6, 0.5]), torch.tensor([1, 1]), [0, 1], windows)
    assert rows.tolist() == [0] and merged.tolist() == [[300, 50, 800, 100]]
