"""ContextScenes' task `distance`: over how many locations can a detector carry the class that a marker shows?"""

import numpy as np

from detection.errors import UserError
from detection.scenes import drawing
from detection.scenes.beacon import BEACONS, COLORS
from detection.scenes.task import Knob, Scene, Task, shown_class

CELL = 8
"""Pixels of a location, whatever the image's size: the stride of `c3`."""
MARKER = 10 / 128
"""Side of the marker, in sides of the image."""
EXTENTS = (13 / 128, 16 / 128)
"""Smallest and largest ring, in sides of the image."""
DIRECTIONS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])


def draw_distance(
    rng: np.random.Generator, size: int, cells: float, control: np.random.Generator | None, canvas: int | None = None
) -> Scene:
    """Draw a marker and 1 or 2 rings of the class of its color, at exactly `cells` locations of 8 pixels from it.

    The distance is the free space between the marker and a ring's box along the row or column of their middles; two
    rings are in directions at a right angle. All else is gray. On a larger canvas the distance grows with it.

    Raises:
        UserError: the image is too small for the distance.
    """
    canvas = canvas or size
    _check_room(size, cells, canvas)
    scene = Scene(drawing.cluttered_gray(rng, size, canvas))
    name = COLORS[rng.integers(len(COLORS))]
    marker, *rings = _arrange(rng, size, cells * CELL * canvas / size, canvas)
    drawing.paint_beacon(rng, scene.image, marker, BEACONS[shown_class(name, COLORS, control)])
    for ring in rings:
        drawing.paint_ring(scene.image, ring)
    scene.objects = [(name, ring) for ring in rings]
    scene.cues = [marker]
    return scene


def _check_room(size: int, cells: float, canvas: int) -> None:
    """Raise unless a marker, a ring at this distance and half a ring beyond the marker fit in the image."""
    most = (canvas - 2 - size * (1.5 * EXTENTS[1] + MARKER / 2)) / (CELL * canvas / size)
    if cells > most:
        raise UserError(
            f"--difficulty {cells:g} (locations of {CELL} pixels) does not fit in images of {canvas} pixels: "
            f"give {int(most)} or less, or a larger --size"
        )


def _arrange(rng: np.random.Generator, size: int, gap: float, canvas: int) -> list[np.ndarray]:
    """Return the outlines of the marker and of one or two rings at this gap in pixels from it."""
    side, first = MARKER * size, rng.integers(4)
    outlines = [drawing.square(-side / 2, -side / 2, side)]
    for turn in range(rng.integers(1, 3)):
        extent = size * rng.uniform(*EXTENTS)
        middle = DIRECTIONS[(first + turn) % 4] * (side / 2 + gap + extent / 2)
        outlines.append(drawing.pose(drawing.SHAPES["circle"], extent, 0.0) - extent / 2 + middle)
    points = np.concatenate(outlines)
    room = canvas - 2 - np.ptp(points, 0)
    return [outline - points.min(0) + 1 + offset for offset in [rng.uniform(0, 1, 2) * room] for outline in outlines]


KNOB = Knob(f"locations of {CELL} pixels between an object and its marker", 5, 1, 12)
TASK = Task(draw_distance, COLORS, KNOB, scales=True)
