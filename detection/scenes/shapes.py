"""ContextScenes' tasks `shapes` and `tiny`: the class is the object's own shape, so that no context is needed."""

import numpy as np

from detection.scenes import drawing
from detection.scenes.task import Knob, Scene, Task, shown_class

SHAPES = tuple(sorted(drawing.SHAPES))
TINY_SHAPES = ("circle", "cross", "square", "triangle")


def draw_shapes(rng: np.random.Generator, size: int, fading: float, control: np.random.Generator | None) -> Scene:
    """Draw 2 to 9 shapes of any size, turn, texture and color; the class is the shape.

    Objects lose the part `fading` of what sets them off from the image behind them. In the control version, the
    drawn shape does not depend on the ground truth.
    """
    scene = Scene(drawing.cluttered(rng, size))
    for _ in range(rng.integers(2, 10)):
        name = SHAPES[rng.integers(len(SHAPES))]
        shape = drawing.SHAPES[shown_class(name, SHAPES, control)]
        extent = size * np.exp(rng.uniform(np.log(12 / 128), np.log(48 / 128)))
        stretch = np.exp(rng.uniform(-0.25, 0.25))
        outline = drawing.pose(shape, extent, rng.uniform(0, 2 * np.pi), stretch)
        taken = [drawing.outline_box(other) for _, other in scene.objects]
        outline = drawing.place(rng, outline, size, taken)
        if outline is not None:
            drawing.paint(rng, scene.image, outline, fading)
            scene.objects.append((name, outline))
    return scene


def draw_tiny(rng: np.random.Generator, size: int, middle: float, control: np.random.Generator | None) -> Scene:
    """Draw 4 to 10 shapes of one strong color and 2/3 to 4/3 of `middle` pixels of 128; the class is the shape.

    At strides above 4 little is left of them: the fine feature maps are needed. In the control version, the drawn shape
    does not depend on the ground truth.
    """
    scene = Scene(drawing.background(rng, size))
    for _ in range(rng.integers(4, 11)):
        name = TINY_SHAPES[rng.integers(len(TINY_SHAPES))]
        shape = drawing.SHAPES[shown_class(name, TINY_SHAPES, control)]
        extent = size / 128 * middle * rng.uniform(2 / 3, 4 / 3)
        outline = drawing.pose(shape, extent, rng.uniform(-0.25, 0.25))
        taken = [drawing.outline_box(other) + [-2, -2, 2, 2] for _, other in scene.objects]
        outline = drawing.place(rng, outline, size, taken, overlap=0.0)
        if outline is not None:
            left, top, width, height = drawing.window(scene.image, outline)
            behind = scene.image[top : top + height, left : left + width].mean((0, 1))
            drawing.fill(scene.image, outline, drawing.contrasting_color(rng, behind, distance=150.0))
            scene.objects.append((name, outline))
    return scene


TASK = Task(draw_shapes, SHAPES, Knob("part of the objects' contrast that is taken away", 0.0, 0.0, 0.9))
TINY = Task(draw_tiny, TINY_SHAPES, Knob("middle size of the objects in pixels of an image of 128", 9.0, 6.0, 24.0))
