"""ContextScenes' task `beacon`: equal rings; one far patch shows the class of all of them."""

import numpy as np

from detection.scenes import drawing
from detection.scenes.task import Knob, Scene, Task, shown_class

BEACONS = {"blue": (40, 70, 235), "green": (30, 200, 60), "red": (230, 40, 40)}
COLORS = tuple(sorted(BEACONS))
GAP = 44 / 128
"""Least distance between the beacon and an object's box, in sides of the image."""


def draw_beacon(
    rng: np.random.Generator, size: int, patches: float, control: np.random.Generator | None, canvas: int | None = None
) -> Scene:
    """Draw 2 to 5 equal rings; their class is the color of one framed beacon by the image's border.

    No object's box comes nearer to the beacon than 44 pixels of an image of 128, more than a network of two stages
    sees around a box: without more context it can only guess. All else is gray, but for `patches` without a frame, of
    any of the colors, which mean nothing.
    """
    canvas = canvas or size
    scene = Scene(drawing.cluttered_gray(rng, size, canvas))
    name = COLORS[rng.integers(len(COLORS))]
    frame = _by_the_border(rng, canvas, side=size * 20 / 128, depth=size / 16)
    drawing.paint_beacon(rng, scene.image, frame, BEACONS[shown_class(name, COLORS, control)])
    scene.cues = [frame]
    far = drawing.outline_box(frame) + np.array([-1, -1, 1, 1]) * GAP * canvas
    for _ in range(rng.integers(2, 6)):
        extent = size * rng.uniform(16 / 128, 30 / 128)
        outline = drawing.pose(drawing.SHAPES["circle"], extent, 0.0)
        taken = [drawing.outline_box(other) for _, other in scene.objects]
        outline = drawing.place(rng, outline, canvas, [*taken, far], overlap=0.0)
        if outline is not None:
            drawing.paint_ring(scene.image, outline)
            scene.objects.append((name, outline))
    _add_patches(rng, scene, int(patches), size)
    return scene


def _by_the_border(rng: np.random.Generator, canvas: int, side: float, depth: float) -> np.ndarray:
    """Return a square outline (4, 2) within `depth` pixels of one of the image's borders."""
    corner = np.array([rng.uniform(1, canvas - 1 - side), rng.uniform(1, depth)])
    if rng.random() < 0.5:
        corner[1] = canvas - side - corner[1]
    if rng.random() < 0.5:
        corner = corner[::-1]
    return drawing.square(corner[0], corner[1], side)


def _add_patches(rng: np.random.Generator, scene: Scene, count: int, size: int) -> None:
    """Paint unframed squares of random beacon colors, as large as its middle, off the beacon and the objects."""
    square = drawing.square(0, 0, size * 14 / 128)
    outlines = [*(outline for _, outline in scene.objects), *scene.cues]
    for _ in range(count):
        taken = [drawing.outline_box(other) + np.array([-3, -3, 3, 3]) for other in outlines]
        outline = drawing.place(rng, square, scene.image.shape[0], taken, overlap=0.0)
        color = np.asarray(BEACONS[COLORS[rng.integers(len(COLORS))]], np.float32)
        if outline is not None:
            drawing.fill(scene.image, outline, np.clip(color + rng.uniform(-20, 20, 3), 0, 255))
            outlines.append(outline)


KNOB = Knob("patches of the beacons' colors, unframed, that mean nothing", 0, 0, 12, integer=True)
TASK = Task(draw_beacon, COLORS, KNOB, scales=True)
