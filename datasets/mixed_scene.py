"""ContextScenes' task `mixed`: each picture is one of another task, so that one training run meets them all."""

import beacon_scene
import count_scene
import crowd_scene
import distance_scene
import numpy as np
import row_scene
import shapes_scene
import surround_scene
from scene_task import Knob, Scene, Task

WITH_CONTEXT = (beacon_scene.TASK, row_scene.TASK, distance_scene.TASK, count_scene.TASK, surround_scene.TASK)
WITHOUT = (shapes_scene.TASK, shapes_scene.TINY, crowd_scene.TASK)


def draw(rng: np.random.Generator, size: int, share: float, control: np.random.Generator | None) -> Scene:
    """Draw a picture of one of the other tasks at its default difficulty; `share` of them need context."""
    tasks = WITH_CONTEXT if rng.random() < share else WITHOUT
    task = tasks[rng.integers(len(tasks))]
    return task.draw(rng, size, task.knob.default, control)


CATEGORIES = tuple(dict.fromkeys(name for task in (*WITH_CONTEXT, *WITHOUT) for name in task.categories))
TASK = Task(draw, CATEGORIES, Knob("share of pictures whose classes context alone tells", 0.625, 0.0, 1.0))
