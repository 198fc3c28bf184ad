"""Boxes that mean something else are recognized over a complete set; sound and very small sets give no finding."""

import sys

import numpy as np
import pytest

from detection.data.box_readings import AS_GIVEN, Placement, Reading
from detection.data.format_evidence import READINGS, EdgeEvidence, find_reading, score_image

WIDTH, HEIGHT = 96, 64


def _draw(rng):
    """Return an image with three bright rectangles on noise, and their boxes."""
    pixels = rng.integers(90, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    boxes = []
    for _ in range(3):
        w, h = rng.integers(10, 24, 2)
        x, y = rng.integers(0, WIDTH - w), rng.integers(0, HEIGHT - h)
        pixels[y : y + h, x : x + w] = rng.integers(0, 255, 3)
        boxes.append((x, y, w, h))
    return pixels, np.array(boxes, float)


WRITTEN = {
    "xywh": lambda x, y, w, h: (x, y, w, h),
    "xyxy": lambda x, y, w, h: (x, y, x + w, y + h),
    "cxcywh": lambda x, y, w, h: (x + w / 2, y + h / 2, w, h),
    "yxhw": lambda x, y, w, h: (y, x, h, w),
    "yxyx": lambda x, y, w, h: (y, x, y + h, x + w),
    "xywh/1": lambda x, y, w, h: (x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT),
    "xyxy/1": lambda x, y, w, h: (x / WIDTH, y / HEIGHT, (x + w) / WIDTH, (y + h) / HEIGHT),
    "cxcywh/1": lambda x, y, w, h: ((x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT),
    "xywh*0.5": lambda x, y, w, h: (2 * x, 2 * y, 2 * w, 2 * h),
    "xywh*2": lambda x, y, w, h: (x / 2, y / 2, w / 2, h / 2),
    "xywh/100": lambda x, y, w, h: (100 * x / WIDTH, 100 * y / HEIGHT, 100 * w / WIDTH, 100 * h / HEIGHT),
    "raw": lambda x, y, w, h: (WIDTH - x - w, HEIGHT - y - h, w, h),
}


def _draw_cells(rng):
    """Return an image with eight soft ellipses, each touching its box in the middle of the sides alone."""
    pixels, boxes = rng.integers(100, 130, (HEIGHT, WIDTH)).astype(float), []
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for _ in range(8):
        w, h = rng.integers(14, 24, 2)
        left, top = rng.integers(0, WIDTH - w + 1), rng.integers(0, HEIGHT - h + 1)
        distance = np.hypot((x - left - w / 2) / w * 2, (y - top - h / 2) / h * 2)
        pixels += 40 / (1 + np.exp(10 * (distance - 1)))
        boxes.append((left, top, w, h))
    return np.repeat(pixels.astype(np.uint8)[..., None], 3, axis=2), np.array(boxes, float)


def _find(name, n, seed=0, content=True, draw=_draw):
    rng, edges, boxes, rows = np.random.default_rng(seed), EdgeEvidence(), [], []
    orientation = 3 if name == "raw" else 1
    for row in range(n):
        pixels, drawn = draw(rng)
        written = np.stack(WRITTEN[name](*drawn.T), axis=1)
        edges.scores.append(score_image(pixels, written, (WIDTH, HEIGHT), orientation, row))
        boxes.append(written)
        rows += [row] * len(drawn)
    sizes = np.tile([WIDTH, HEIGHT], (len(rows), 1))
    place = Placement(sizes, sizes, np.full(len(rows), orientation))
    return find_reading(np.concatenate(boxes), np.array(rows), place, edges if content else None)


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "xywh"])
def test_another_reading_is_found(name):
    finding = _find(name, 16)
    assert finding is not None and finding.reading.name == name
    assert finding.boxes == 48 and finding.fitting == 48
    assert "the boxes look like" in finding.sentence


@pytest.mark.parametrize("name", ["xywh/1", "xyxy/1", "cxcywh/1"])
def test_shares_of_one_have_their_evidence_in_words(name):
    # As pixels they fit their images as well, and are too small to have edges.
    sentence = _find(name, 16, content=False).sentence
    assert sentence.endswith("of the image's sides: as given they are within one pixel")


@pytest.mark.parametrize("name", ["xywh*0.5", "xywh*2", "xywh/100", "xyxy"])
def test_another_scale_of_round_soft_objects_is_found(name):
    finding = _find(name, 40, draw=_draw_cells)
    assert finding is not None and finding.reading.name == name and finding.images == 40


@pytest.mark.parametrize("draw", [_draw, _draw_cells])
@pytest.mark.parametrize("margin", [-0.2, 0.0, 0.3, 0.6, 1.0])
def test_boxes_with_a_margin_that_end_where_their_images_do_have_no_other_scale(draw, margin, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "HEIGHT", WIDTH)  # shares of 100 are then nearly pixels

    def drawn_wider(rng):
        pixels, boxes = draw(rng)
        low, high = boxes[:, :2] - margin / 2 * boxes[:, 2:], boxes[:, :2] + (1 + margin / 2) * boxes[:, 2:]
        low, high = np.maximum(low, 0), np.minimum(high, (WIDTH, HEIGHT))
        return pixels, np.concatenate([low, high - low], axis=1)

    assert _find("xywh", 40, draw=drawn_wider) is None


@pytest.mark.parametrize("seed", range(8))
def test_a_sound_set_gives_no_finding(seed):
    assert _find("xywh", 12, seed) is None and _find("xywh", 60, seed, content=False) is None


@pytest.mark.parametrize("name", ["xyxy", "xywh/1", "cxcywh"])
def test_a_few_boxes_are_no_evidence(name):
    assert _find(name, 3) is None


def test_boxes_without_edges_give_no_finding():
    rng, edges, boxes, rows = np.random.default_rng(1), EdgeEvidence(), [], []
    for row in range(30):
        drawn = _draw(rng)[1]
        noise = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        edges.scores.append(score_image(noise, drawn, (WIDTH, HEIGHT), 3, row))
        boxes.append(drawn)
        rows += [row] * len(drawn)
    sizes = np.tile([WIDTH, HEIGHT], (90, 1))
    assert find_reading(np.concatenate(boxes), np.array(rows), Placement(sizes, sizes, np.full(90, 3)), edges) is None


def test_geometry_alone_finds_corners():
    finding = _find("xyxy", 40, content=False)
    assert finding is not None and finding.reading.name == "xyxy" and finding.images == 0
    assert AS_GIVEN.name == "xywh"


@pytest.mark.parametrize(("gains", "found"), [([0.3] * 12, True), ([0.02] * 11 + [2.0], False), ([0.3] * 5, False)])
def test_images_must_agree_significantly(gains, found):
    """Scores by hand: the same in every image, in one image alone, and in too few images."""
    scores = np.full((len(gains), len(READINGS) + 1), np.nan)
    scores[:, 0], scores[:, READINGS.index(Reading("xyhw")) + 1] = 0.0, gains
    boxes = np.tile([20.0, 20.0, 12.0, 14.0], (4 * len(gains), 1))
    sizes = np.tile([WIDTH, HEIGHT], (len(boxes), 1))
    rows = np.arange(len(boxes)) // 4
    finding = find_reading(boxes, rows, Placement(sizes, sizes, np.ones(len(boxes))), EdgeEvidence(list(scores)))
    assert (finding is not None and finding.reading.name == "xyhw") == found and (found or finding is None)
