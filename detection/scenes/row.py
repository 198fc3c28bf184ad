"""ContextScenes' task `row`: equal rings; a far marker in the same row shows the class of each."""

import numpy as np

from detection.scenes import drawing
from detection.scenes.beacon import BEACONS, COLORS, GAP
from detection.scenes.task import Knob, Scene, Task, shown_class

BANDS = 5
"""Rows of an image: each holds a ring and its marker, or a distractor, or nothing."""
MARKER = 12 / 128
"""Side of a marker, in sides of the image."""


def draw_row(
    rng: np.random.Generator,
    size: int,
    distractors: float,
    control: np.random.Generator | None,
    canvas: int | None = None,
) -> Scene:
    """Draw 1 to 3 rings whose class is the color of the marker in the same row, at least 44 pixels of 128 away.

    Each ring has its class: neither one answer for the image nor the nearest marker is right. Markers in rows without a
    ring are `distractors`. One sweep along the rows is enough.
    """
    canvas = canvas or size
    scene = Scene(drawing.cluttered_gray(rng, size, canvas))
    count = int(rng.integers(1, min(3, BANDS - int(distractors)) + 1))
    rows = (rng.permutation(BANDS) + 0.5) * (canvas - 2) / BANDS + 1
    for row in rows[:count]:
        name = COLORS[rng.integers(len(COLORS))]
        ring, marker = _pair(rng, size, row, canvas)
        drawing.paint_ring(scene.image, ring)
        drawing.paint_beacon(rng, scene.image, marker, BEACONS[shown_class(name, COLORS, control)])
        scene.objects.append((name, ring))
        scene.cues.append(marker)
    for row in rows[count : count + int(distractors)]:
        marker = drawing.square(rng.uniform(1, canvas - 1 - MARKER * size), row - MARKER * size / 2, MARKER * size)
        drawing.paint_beacon(rng, scene.image, marker, BEACONS[COLORS[rng.integers(len(COLORS))]])
    return scene


def _pair(rng: np.random.Generator, size: int, row: float, canvas: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the outlines of a ring and its marker, whose middles differ in height by at most 2 pixels of 128."""
    unit, side = size / 128, MARKER * size
    extent = rng.uniform(16, 22) * unit
    gap = rng.uniform(GAP * canvas, canvas - 2 - extent - side)
    left = rng.uniform(1, canvas - 1 - extent - gap - side)
    corner = [left, row + rng.uniform(-1, 1) * unit - extent / 2]
    ring = drawing.pose(drawing.SHAPES["circle"], extent, 0.0) + corner
    marker = drawing.square(left + extent + gap, row + rng.uniform(-1, 1) * unit - side / 2, side)
    if rng.random() < 0.5:
        return [canvas, 0] + ring * [-1, 1], [canvas, 0] + marker * [-1, 1]
    return ring, marker


KNOB = Knob("markers in other rows, which mean nothing", 2, 0, 4, integer=True)
TASK = Task(draw_row, COLORS, KNOB, scales=True)
