"""ContextScenes' task `mixed`: each image is one of another task, so that one training run meets them all."""

import numpy as np

from detection.scenes import beacon, count, crowd, distance, row, shapes, surround
from detection.scenes.task import Knob, Scene, Task

WITH_CONTEXT = (beacon.TASK, row.TASK, distance.TASK, count.TASK, surround.TASK)
WITHOUT = (shapes.TASK, shapes.TINY, crowd.TASK)


def draw_mixed(rng: np.random.Generator, size: int, share: float, control: np.random.Generator | None) -> Scene:
    """Draw an image of one of the other tasks at its default difficulty; `share` of them need context."""
    tasks = WITH_CONTEXT if rng.random() < share else WITHOUT
    task = tasks[rng.integers(len(tasks))]
    return task.draw(rng, size, task.knob.default, control)


CATEGORIES = tuple(dict.fromkeys(name for task in (*WITH_CONTEXT, *WITHOUT) for name in task.categories))
TASK = Task(
    draw_mixed, CATEGORIES, Knob("share of images whose classes only context shows", 0.625, 0.0, 1.0), even=False
)
