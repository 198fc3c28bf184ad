"""All tasks of ContextScenes by name, and the one function that draws an image of any of them."""

import numpy as np

from detection.scenes import beacon, count, crowd, distance, mixed, row, shapes, surround
from detection.scenes.task import Scene, Task

SPLITS = ("train", "val", "test")

TASKS: dict[str, Task] = {
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
    task: str, seed: int, split: str, number: int, size: int, cue: bool = True, difficulty: float | None = None
) -> Scene:
    """Return image `number` (from 1) of a split; it depends on these arguments and nothing else.

    Args:
        task: a name in `TASKS`.
        seed: random seed of all images of a data set.
        split: one of `SPLITS`.
        number: of the image in its split, from 1.
        size: side of the image in pixels.
        cue: False for the control version: the ground truth is the same, and the cue does not depend on it.
        difficulty: the task's knob; None for its default.

    Raises:
        UserError: a difficulty that the task does not know.
    """
    of_image = (seed, SPLITS.index(split), number)
    difficulty = TASKS[task].knob.check(task, difficulty)
    control = None if cue else np.random.default_rng((*of_image, 1))
    return TASKS[task].draw(np.random.default_rng(of_image), size, difficulty, control)
