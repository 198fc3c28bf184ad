"""All tasks of ContextScenes by name, and the one function that draws an image of any of them."""

import numpy as np

from detection.errors import UserError
from detection.scenes import arrow, beacon, count, crowd, distance, mixed, row, shapes, surround
from detection.scenes.task import Scene, Task

SPLITS = ("train", "val", "test")

TASKS: dict[str, Task] = {
    "arrow": arrow.TASK,
    "beacon": beacon.TASK,
    "count": count.TASK,
    "crowd": crowd.TASK,
    "distance": distance.TASK,
    "mixed": mixed.TASK,
    "row": row.TASK,
    "shapes": shapes.TASK,
    "surround": surround.TASK,
    "tiny": shapes.TINY,
}


def draw_scene(
    task: str,
    seed: int,
    split: str,
    number: int,
    size: int,
    cue: bool = True,
    difficulty: float | None = None,
    canvas: int | None = None,
) -> Scene:
    """Return image `number` (from 1) of a split; it depends on these arguments and nothing else.

    Args:
        task: a name in `TASKS`.
        seed: random seed of all images of a data set.
        split: one of `SPLITS`.
        number: of the image in its split, from 1.
        size: that lengths are fractions of, in pixels; the side of the image where there is no `canvas`.
        cue: False for the control version: the ground truth is the same, and the cue does not depend on it.
        difficulty: the task's knob; None for its default.
        canvas: side of the image in pixels, at least `size`; None for `size`.

    Raises:
        UserError: a difficulty or canvas that the task does not know.
    """
    canvas = require_canvas(task, size, canvas)
    of_image = (seed, SPLITS.index(split), number)
    difficulty = TASKS[task].knob.check(task, difficulty)
    control = None if cue else np.random.default_rng((*of_image, 1))
    larger = () if canvas is None else (canvas,)
    return TASKS[task].draw(np.random.default_rng(of_image), size, difficulty, control, *larger)


def require_canvas(task: str, size: int, canvas: int | None) -> int | None:
    """Check the side of a task's images, and return it; None where it is `size`.

    Raises:
        UserError: it is smaller than `size`, or the task has no larger version.
    """
    if canvas is None or canvas == size:
        return None
    if canvas < size:
        raise UserError(f"canvas={canvas}: must be at least size={size}, the image that its lengths are made for.")
    if not TASKS[task].scales:
        known = ", ".join(name for name, other in TASKS.items() if other.scales)
        raise UserError(f"canvas={canvas}: {task} has no version in larger images; these have: {known}.")
    return canvas
