"""ContextScenes' tasks `shapes` and `tiny`: the class is the object's own shape, so that no context is needed.

In their control version a shape that does not depend on the class is drawn about the middle of each object's box, with
a box of the same area: the box of the ground truth is not tight there, since its form would show the class.
"""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np

from detection.scenes import drawing
from detection.scenes.task import Knob, Scene, Task, shown_class

SHAPES = tuple(sorted(drawing.SHAPES))
TINY_SHAPES = ("circle", "cross", "square", "triangle")

Paint = Callable[[np.random.Generator, np.ndarray, np.ndarray], None]
"""Paints an outline (V, 2) onto a canvas with the numbers of a stream."""


def draw_shapes(rng: np.random.Generator, size: int, fading: float, control: np.random.Generator | None) -> Scene:
    """Draw 2 to 9 shapes of any size, turn, texture and color; the class is the shape.

    Objects lose the part `fading` of what sets them off from the image behind them.
    """
    paint = partial(drawing.paint, fading=fading)
    canvas = drawing.cluttered(rng, size)
    scene = Scene(canvas if control is None else canvas.copy())
    for _ in range(rng.integers(2, 10)):
        name = SHAPES[rng.integers(len(SHAPES))]
        extent = size * np.exp(rng.uniform(np.log(12 / 128), np.log(48 / 128)))
        stretch = np.exp(rng.uniform(-0.25, 0.25))
        turn = rng.uniform(0, 2 * np.pi)
        taken = [drawing.outline_box(other) for _, other in scene.objects]
        outline = drawing.place(rng, drawing.pose(drawing.SHAPES[name], extent, turn, stretch), size, taken)
        shown = drawing.pose(drawing.SHAPES[shown_class(name, SHAPES, control)], extent, turn, stretch)
        if outline is not None:
            _add(rng, scene, canvas, (name, outline), shown, paint)
    return scene


def draw_tiny(rng: np.random.Generator, size: int, middle: float, control: np.random.Generator | None) -> Scene:
    """Draw 4 to 10 shapes of one strong color and 2/3 to 4/3 of `middle` pixels of 128; the class is the shape.

    At strides above 4 little is left of them: the fine feature maps are needed.
    """
    canvas = drawing.background(rng, size)
    scene = Scene(canvas if control is None else canvas.copy())
    for _ in range(rng.integers(4, 11)):
        name = TINY_SHAPES[rng.integers(len(TINY_SHAPES))]
        extent = size / 128 * middle * rng.uniform(2 / 3, 4 / 3)
        turn = rng.uniform(-0.25, 0.25)
        taken = [drawing.outline_box(other) + [-2, -2, 2, 2] for _, other in scene.objects]
        outline = drawing.place(rng, drawing.pose(drawing.SHAPES[name], extent, turn), size, taken, overlap=0.0)
        shown = drawing.pose(drawing.SHAPES[shown_class(name, TINY_SHAPES, control)], extent, turn)
        if outline is not None:
            _add(rng, scene, canvas, (name, outline), shown, _paint_strongly)
    return scene


def _paint_strongly(rng: np.random.Generator, canvas: np.ndarray, outline: np.ndarray) -> None:
    left, top, width, height = drawing.window(canvas, outline)
    behind = canvas[top : top + height, left : left + width].mean((0, 1))
    drawing.fill(canvas, outline, drawing.contrasting_color(rng, behind, distance=150.0))


def _add(
    rng: np.random.Generator,
    scene: Scene,
    canvas: np.ndarray,
    item: tuple[str, np.ndarray],
    shown: np.ndarray,
    paint: Paint,
) -> None:
    """Add an object to the ground truth and the image.

    Args:
        rng: the image's stream, which moves on as if every object were drawn as what it is.
        scene: whose image is the canvas or, in the control version, another one.
        canvas: the image in which every object is drawn as what it is.
        item: name and outline of the object.
        shown: outline that the control version shows instead, about the same middle.
        paint: paints either, with the same numbers.
    """
    if scene.image is not canvas:
        middle, own = ((points.min(0) + points.max(0)) / 2 for points in (item[1], shown))
        paint(copy.deepcopy(rng), scene.image, shown + middle - own)
    paint(rng, canvas, item[1])
    scene.objects.append(item)


TASK = Task(draw_shapes, SHAPES, Knob("part of the objects' contrast that is taken away", 0.0, 0.0, 0.9))
TINY = Task(draw_tiny, TINY_SHAPES, Knob("middle size of the objects in pixels of an image of 128", 9.0, 6.0, 24.0))
