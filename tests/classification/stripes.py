"""A small set of images made here: stripes that lie or stand, in any color, phase and width."""

import numpy as np
from PIL import Image

CONFIG = """
from functools import partial

from detection.backbones import RCNN
from detection.classification import Classifier, ClassifierConfig, ImageAugmentation, ImageData
from detection.config import OptimizerConfig, ScheduleConfig

config = ClassifierConfig(
    network=partial(Classifier, backbone=partial(RCNN, channels=(8, 8), first_stride=1, num_steps=2)),
    data=ImageData(kind="folder", root="stripes", augmentation=ImageAugmentation(shift=1)),
    optimizer=OptimizerConfig(kind="adamw", lr=5e-3, reference_batch=8, weight_decay=0.0),
    schedule=ScheduleConfig(epochs=4, kind="cosine"),
    batch_size=8,
)
"""


def draw(rng, standing, size=16):
    """Pixels (size, size, 3) of one image."""
    wave = np.sin(np.arange(size) * rng.uniform(1.2, 2.0) + rng.uniform(0, 6))[:, None, None]
    pixels = 128 + 90 * wave * rng.uniform(0.5, 1, 3) + rng.normal(0, 8, (size, size, 3))
    return (pixels.transpose(1, 0, 2) if standing else pixels).clip(0, 255).astype(np.uint8)


def write_stripes(folder, counts=(("train", 32), ("test", 12)), size=16, seed=0):
    """Write `folder/PART/lying/*.png` and `folder/PART/standing/*.png`; without a part's name where it is empty."""
    rng = np.random.default_rng(seed)
    for part, count in counts:
        for standing, name in enumerate(("lying", "standing")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw(rng, standing, size)).save(folder / part / name / f"{number:03}.png")
    return folder
