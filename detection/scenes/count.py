"""ContextScenes' task `count`: equal rings; the number of beacons shows the class of all of them."""

import numpy as np

from detection.scenes import drawing
from detection.scenes.beacon import BEACONS, GAP
from detection.scenes.task import Knob, Scene, Task, shown_class

NUMBERS = ("few", "some", "many")
STRIP = 36 / 128
"""Depth of the strip along one border that holds the beacons, in sides of the image."""
SLOTS = (6, 2)
"""Places for beacons along the border and away from it."""
SIDE = 14 / 128
"""Side of a beacon, in sides of the image."""


def draw_count(
    rng: np.random.Generator, size: int, most: float, control: np.random.Generator | None, canvas: int | None = None
) -> Scene:
    """Draw 2 to 4 rings; their class is `few`, `some` or `many` for `most` - 2, `most` - 1 or `most` beacons.

    Presence shows nothing, the number does: it has to be accumulated. All beacons are equal and by one border, at least
    44 pixels of 128 from every ring's box. Wherever they are, the rings are placed alike.
    """
    canvas = canvas or size
    scene = Scene(drawing.cluttered_gray(rng, size, canvas))
    name = NUMBERS[rng.integers(len(NUMBERS))]
    side = int(rng.integers(4))
    scene.cues = [_onto_side(outline, canvas, side) for outline in _beacons(rng, size, canvas)[: int(most)]]
    for outline in _rings(rng, size, canvas):
        outline = _onto_side(outline, canvas, side)
        drawing.paint_ring(scene.image, outline)
        scene.objects.append((name, outline))
    # Last, so that their number changes nothing else.
    shown = int(most) - 2 + NUMBERS.index(shown_class(name, NUMBERS, control))
    for outline in scene.cues[:shown]:
        drawing.paint_beacon(rng, scene.image, outline, BEACONS["blue"])
    return scene


def _beacons(rng: np.random.Generator, size: int, canvas: int) -> list[np.ndarray]:
    """Return the outlines of as many beacons as there are slots by the upper border, in random order."""
    slot = np.array([(canvas - 2) / SLOTS[0], (STRIP * size - 1) / SLOTS[1]])
    corners = np.stack(np.meshgrid(*map(np.arange, SLOTS)), -1).reshape(-1, 2) * slot + 1  # (12, 2)
    # Two pixels of 128 stay free between beacons.
    corners = corners + rng.uniform(0, 1, corners.shape) * (slot - (SIDE + 2 / 128) * size)
    return [drawing.square(x, y, SIDE * size) for x, y in rng.permutation(corners)]


def _rings(rng: np.random.Generator, size: int, canvas: int) -> list[np.ndarray]:
    """Return the outlines of 2 to 4 rings far below the upper border."""
    taken = [np.array([-1, -1, canvas + 1, STRIP * size + GAP * canvas])]
    outlines = []
    for _ in range(rng.integers(2, 5)):
        circle = drawing.pose(drawing.SHAPES["circle"], size * rng.uniform(14 / 128, 22 / 128), 0.0)
        outline = drawing.place(rng, circle, canvas, taken, overlap=0.0)
        if outline is not None:
            taken.append(drawing.outline_box(outline))
            outlines.append(outline)
    return outlines


def _onto_side(outline: np.ndarray, size: int, side: int) -> np.ndarray:
    """Return an outline of the image whose upper border becomes its upper, lower, left or right one (0 to 3)."""
    if side % 2:
        outline = [0, size] + outline * [1, -1]
    return outline[:, ::-1] if side >= 2 else outline


KNOB = Knob("beacons of the class `many`", 3, 2, 12, integer=True)
TASK = Task(draw_count, NUMBERS, KNOB, scales=True)
