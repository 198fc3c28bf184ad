"""Context on real handwriting: a note head's class is told only by the clef at the far left of its staff.

    detection ablate clef

with DATA=FOLDER in the environment, and FOLDER/clef as `detection muscima ANNOTATIONS FOLDER/clef` writes it.

MUSCIMA++ (Hajič, Pecina 2017; CC BY-NC-SA), one staff an image, three classes. The tiny detector of
`ablations/recurrences`, whose head reads the context as strongly as local features, with the same 532 updates of 16
images for every context, with recurrence and without. 24 runs take two to three minutes of CPU time each.
"""

import os
from pathlib import Path

from detection.ablation import Ablation
from detection.config import base_config, override
from detection.errors import UserError

CONTEXT = "detector.context"
if not os.environ.get("DATA"):
    raise UserError("set DATA=FOLDER, with FOLDER/clef as `detection muscima ANNOTATIONS FOLDER/clef` writes it.")
DATA = Path(os.environ["DATA"]).absolute() / "clef"

config = override(
    base_config("ablations/recurrences"),
    [
        *(f"data.{split}.annotations={DATA / split}.json" for split in ("train", "val")),
        *(f"data.{split}.images={DATA / 'images'}" for split in ("train", "val")),
        "data.scenes=none",
        "data.augmentation.horizontal_flip=0",
        "data.augmentation.vertical_flip=0",
        "detector.min_size=128",
        "detector.max_size=320",
        "detector.regions.anchor_sizes=((8, 12, 16),)",
        "schedule.epochs=14",
        "evaluate_every=14",
    ],
)


def context(name: str, **settings: object) -> list[str]:
    """A context of `detection.context` and its settings."""
    return [f"{CONTEXT}=detection.context.{name}", *(f"{CONTEXT}.{key}={value}" for key, value in settings.items())]


ablation = Ablation(
    base=config,
    variants={
        "none": context("NoContext"),
        "average": context("GlobalAverage", hidden_channels=64),
        "nonlocal": context("NonLocal", hidden_channels=64),
        "selfattention": context("SelfAttention", hidden_channels=64),
        "largekernel": context("LargeKernel", hidden_channels=64),
        **{name.lower(): [f"{CONTEXT}.cell=detection.cells.{name}"] for name in ("Accumulator", "IRNN", "LSTM")},
    },
    data={"clef": []},
    seeds=(0, 1, 2),
    reference="none",
    metric="AP50",
    primary=[(name, "selfattention", "AP50", "clef") for name in ("lstm", "irnn", "accumulator")],
    chance={"clef": 1 / 3},
)
