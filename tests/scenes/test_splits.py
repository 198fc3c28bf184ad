"""ContextScenes: the published splits stay what they are. Golden values: boxes exactly, images by their mean."""

import hashlib
import json

import pytest

from detection.scenes import files as scene_files
from detection.scenes.tasks import SPLITS, TASKS

SIZE = 128
GOLDEN = {
    "arrow": ("8275d25e1c71", 121.53),
    "beacon": ("064bfc4f6a15", 122.0),
    "count": ("847731c103ad", 122.26),
    "crowd": ("d667886b51b5", 121.93),
    "distance": ("4c8f460c58c6", 120.93),
    "mixed": ("8fe5df844e0e", 113.82),
    "row": ("7c27d1f9a8fc", 122.11),
    "shapes": ("1ed994a9acd5", 122.14),
    "surround": ("468afb6643dc", 140.88),
    "tiny": ("0ff04dc5673b", 120.71),
}


def first_images(task):
    """Hash of the ground-truth boxes of the first two images of each split, and the mean of these images."""
    targets, means = [], []
    for split in SPLITS:
        info = scene_files.split_info(task, split, 2, SIZE, 0)
        for scene in (scene_files.scene_of(info, number) for number in (1, 2)):
            targets += [scene_files.annotation(name, o, TASKS[task].categories) for name, o in scene.objects]
            means.append(scene.image.mean())
    return hashlib.sha256(json.dumps(targets).encode()).hexdigest()[:12], sum(means) / len(means)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_published_splits_are_unchanged(task):
    targets, mean = first_images(task)
    assert targets == GOLDEN[task][0] and mean == pytest.approx(GOLDEN[task][1], abs=0.05)
