"""All tasks of ContextScenes by name, and the one function that draws a picture of any of them."""

import beacon_scene
import count_scene
import crowd_scene
import distance_scene
import mixed_scene
import numpy as np
import row_scene
import shapes_scene
import surround_scene
from scene_task import Scene, Task

SPLITS = ("train", "val", "test")

TASKS: dict[str, Task] = {
    "beacon": beacon_scene.TASK,
    "count": count_scene.TASK,
    "crowd": crowd_scene.TASK,
    "distance": distance_scene.TASK,
    "mixed": mixed_scene.TASK,
    "row": row_scene.TASK,
    "shapes": shapes_scene.TASK,
    "surround": surround_scene.TASK,
    "tiny": shapes_scene.TINY,
}


def draw_scene(
    task: str, seed: int, split: str, number: int, size: int, cue: bool = True, difficulty: float | None = None
) -> Scene:
    """Return picture `number` (from 1) of a split; it depends on these arguments and nothing else.

    Args:
        task: a name in `TASKS`.
        seed: of all pictures of a data set.
        split: one of `SPLITS`.
        number: of the picture in its split, from 1.
        size: side of the picture in pixels.
        cue: False for the control version: the truth is the same, and what told it tells nothing.
        difficulty: the task's knob; None for its default.

    Raises:
        UserError: a difficulty that the task does not know.
    """
    of_picture = (seed, SPLITS.index(split), number)
    difficulty = TASKS[task].knob.check(task, difficulty)
    control = None if cue else np.random.default_rng((*of_picture, 1))
    return TASKS[task].draw(np.random.default_rng(of_picture), size, difficulty, control)
