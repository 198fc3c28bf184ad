"""ContextScenes' task `surround`: equal rings; the pattern in the neighborhood of each shows its class.

All patterns of an image have the same two grays, in equal parts, and nearly the same period: they differ neither in
color nor in mean. Lengths are in sizes of the object (the side of its box), measured from its box. S is the image's
side, N the number of objects.
"""

import numpy as np

from detection.scenes import drawing
from detection.scenes.task import Knob, Scene, Task, shown_class

PATTERNS = ("checks", "columns", "rows")
WIDTH = 1.0
"""From its near to its far edge, a pattern is this wide, wherever it begins."""


def draw_surround(rng: np.random.Generator, size: int, gap: float, control: np.random.Generator | None) -> Scene:
    """Draw 1 or 2 rings, each in a clearing of the pattern that is its class; the classes are drawn independently.

    A clearing reaches `gap` sizes of the object from its box; around it is the pattern, a size wide. Where two
    patterns would overlap, the nearer object's is shown. It takes two sizes that a network of two stages, which sees 28
    pixels beyond a box at most, can only guess.
    """
    scene = Scene(drawing.clouds(rng, size))
    outlines = _stand(rng, size, gap)
    names = [PATTERNS[rng.integers(len(PATTERNS))] for _ in outlines]
    shown = [shown_class(name, PATTERNS, control) for name in names]
    _paint_patterns(rng, scene.image, outlines, shown, gap)
    for outline in outlines:
        drawing.paint_ring(scene.image, outline)
    scene.objects = list(zip(names, outlines, strict=True))
    scene.cues = [strip for outline in outlines for strip in _strips(outline, size, gap)]
    return scene


def _stand(rng: np.random.Generator, size: int, gap: float) -> list[np.ndarray]:
    """Return the outlines of one ring, or of two where the second finds room at a sufficient distance."""
    extent = size * rng.uniform(14 / 128, 18 / 128)
    circle = drawing.pose(drawing.SHAPES["circle"], extent, 0.0)
    first = drawing.place(rng, circle, size, [])
    assert first is not None, "an empty image has room"
    if rng.random() < 0.3:
        return [first]
    apart = np.array([-1, -1, 1, 1]) * (2 * gap + WIDTH) * extent
    second = drawing.place(rng, circle, size, [drawing.outline_box(first) + apart], overlap=0.0)
    return [first] if second is None else [first, second]


def _paint_patterns(
    rng: np.random.Generator, canvas: np.ndarray, outlines: list[np.ndarray], names: list[str], gap: float
) -> None:
    """Paint every object's pattern around it onto the canvas (S, S, 3), in place."""
    size = canvas.shape[0]
    middle, swing = rng.uniform(100, 155), rng.uniform(45, 80)
    distances = np.stack([_distance(outline, size) for outline in outlines])  # (N, S, S)
    nearest = distances.argmin(0)
    for index, (outline, name) in enumerate(zip(outlines, names, strict=True)):
        extent = float(np.ptp(outline[:, 0]))
        gray = middle + swing * _pattern(rng, name, size)
        # A pixel is changed only if all of it is beyond the gap.
        inner, outer = distances[index] - gap * extent - 0.5, (gap + WIDTH) * extent - 0.5 - distances[index]
        alpha = np.clip(np.minimum(inner, outer), 0, 1) * (nearest == index)
        canvas[:] = np.round(canvas + (gray[:, :, None] - canvas) * alpha[:, :, None])


def _distance(outline: np.ndarray, size: int) -> np.ndarray:
    """Return each pixel center's distance (S, S) from the outline's box, the larger of that along x and along y."""
    x0, y0, x1, y1 = drawing.outline_box(outline)
    centers = np.arange(size) + 0.5
    across = np.maximum(x0 - centers, centers - x1)
    down = np.maximum(y0 - centers, centers - y1)
    return np.maximum(across, down[:, None])


def _pattern(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """Return a pattern (S, S) of as much -1 as 1: a little turned, of any phase, 8 to 10 pixels of 128 a period.

    Every class takes the same numbers from the stream, so that the class shown changes nothing else.
    """
    turn, period = rng.uniform(-0.15, 0.15), size * rng.uniform(8 / 128, 10 / 128)
    phases = rng.uniform(0, period, 2)
    across = drawing.square_wave(drawing.along(turn, size, size) + phases[0], period)
    down = drawing.square_wave(drawing.along(turn + np.pi / 2, size, size) + phases[1], period)
    return {"checks": across * down, "columns": across, "rows": down}[name]


def _strips(outline: np.ndarray, size: int, gap: float) -> list[np.ndarray]:
    """Return the rectangles (4, 2) above, below, left and right of an object that hold its pattern."""
    x0, y0, x1, y1 = drawing.outline_box(outline)
    near, far = gap * (x1 - x0), (gap + WIDTH) * (x1 - x0)
    boxes = [
        (x0 - far, y0 - far, x1 + far, y0 - near),
        (x0 - far, y1 + near, x1 + far, y1 + far),
        (x0 - far, y0 - near, x0 - near, y1 + near),
        (x1 + near, y0 - near, x1 + far, y1 + near),
    ]
    boxes = np.clip(boxes, 0, size)
    visible = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return [np.array([[a, b], [c, b], [c, d], [a, d]]) for a, b, c, d in boxes[visible]]


TASK = Task(draw_surround, PATTERNS, Knob("free space between an object and the pattern, in its sizes", 2.0, 0.25, 2.5))
