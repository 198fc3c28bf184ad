"""ContextScenes' task `arrow`: equal rings; the color of the arrow that points at a ring, from afar, is its class."""

import numpy as np

from detection.scenes import drawing
from detection.scenes.beacon import BEACONS, COLORS
from detection.scenes.task import Knob, Scene, Task

OUTLINE = np.array(
    [[-0.5, -0.11], [0.02, -0.11], [0.02, -0.32], [0.5, 0.0], [0.02, 0.32], [0.02, 0.11], [-0.5, 0.11]], np.float64
)
"""An arrow of length 1 that points along x, about its middle."""
LENGTH = 22 / 128
"""Of an arrow, in sides of the image."""
EXTENTS = (14 / 128, 20 / 128)
"""Smallest and largest ring, in sides of the image."""
MARGIN = 6 / 128
"""Least distance between an arrow's line and the rings that it does not point at, in sides of the image."""


def draw_arrow(
    rng: np.random.Generator, size: int, gap: float, control: np.random.Generator | None, canvas: int | None = None
) -> Scene:
    """Draw 2 or 3 rings and as many arrows of different colors, each pointing at one of the rings.

    Every arrow is at least `gap` 128ths of the image's side away from every ring's box, and which arrow points at which
    ring is drawn evenly: a ring's surroundings, and which arrow is nearest, are worth no more than a guess. All else is
    gray. In the control version the arrows' directions are drawn again: each points at any of the rings.
    """
    side = canvas or size
    scene = Scene(drawing.cluttered_gray(rng, size, side))
    count = int(rng.integers(2, 4))
    names = [COLORS[i] for i in rng.permutation(len(COLORS))[:count]]
    rings, extents, arrows = _arrange(rng, size, side, count, gap * side / 128)
    shown = rings if control is None else rings[control.permutation(count)]
    for name, ring, extent, arrow, target in zip(names, rings, extents, arrows, shown, strict=True):
        outline = drawing.pose(drawing.SHAPES["circle"], extent, 0.0) + ring - extent / 2
        drawing.paint_ring(scene.image, outline)
        scene.objects.append((name, outline))
        towards = target - arrow
        angle = np.arctan2(towards[1], towards[0]) + np.deg2rad(rng.uniform(-2, 2))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        cue = arrow + OUTLINE * (LENGTH * size) @ turn
        color = np.clip(np.asarray(BEACONS[name]) + rng.uniform(-20, 20, 3), 0, 255)
        drawing.fill(scene.image, cue, color.astype(np.float32))
        scene.cues.append(cue)
    return scene


def _arrange(
    rng: np.random.Generator, size: int, side: int, count: int, gap: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return middles of rings (count, 2), their extents (count,), and middles of arrows (count, 2), arrow k for ring k.

    All are drawn evenly over the image until they fit; nothing about a ring's own arrow is special but its direction.
    """
    reach = LENGTH * size / 2
    while True:
        extents = size * rng.uniform(*EXTENTS, (256, count))
        low = 1 + extents[..., None] / 2  # rings are inside of the image
        rings = low + rng.uniform(0, 1, (256, count, 2)) * (side - 2 * low)
        arrows = 1 + reach + rng.uniform(0, 1, (256, count, 2)) * (side - 2 - 2 * reach)
        offset = np.abs(rings[:, :, None] - arrows[:, None]) - extents[:, :, None, None] / 2  # (256, rings, arrows, 2)
        # Few are far enough apart, so that all else is asked of these alone.
        far = (np.hypot(*np.moveaxis(offset.clip(0), -1, 0)) - reach >= gap).all((1, 2))
        rings, extents, arrows = rings[far], extents[far], arrows[far]
        fits = _apart(rings, extents[..., None] / 2 + size * MARGIN / 2)
        fits &= _apart(arrows, np.full((len(arrows), count, 1), reach + 1))
        fits &= _clear(rings, extents, arrows, MARGIN * size)
        if fits.any():
            first = int(fits.argmax())
            return rings[first], extents[first], arrows[first]


def _apart(middles: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return in which rows all middles (n, count, 2) are farther apart than the sums of radii (n, count, 1)."""
    distance = np.linalg.norm(middles[:, :, None] - middles[:, None], axis=-1)
    least = radii + radii.transpose(0, 2, 1)
    return ((distance >= least) | np.eye(middles.shape[1], dtype=bool)).all((1, 2))


def _clear(rings: np.ndarray, extents: np.ndarray, arrows: np.ndarray, margin: float) -> np.ndarray:
    """Return for which rows the line from each arrow k on through ring k passes by all other rings at `margin`."""
    towards = rings - arrows
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    others = rings[:, None] - arrows[:, :, None]  # (n, arrows, rings, 2)
    ahead = (others * towards[:, :, None]).sum(-1)
    aside = np.abs(others[..., 0] * towards[:, :, None, 1] - others[..., 1] * towards[:, :, None, 0])
    passes = (ahead < 0) | (aside >= extents[:, None] / 2 + margin)
    return (passes | np.eye(rings.shape[1], dtype=bool)).all((1, 2))


KNOB = Knob("128ths of the image's side between an arrow and every ring, at least", 44, 0, 50)
TASK = Task(draw_arrow, COLORS, KNOB, scales=True)
