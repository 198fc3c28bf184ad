"""Context on real handwriting: a note head's class is told only by the clef at the far left of its staff.

    detection ablate clef

with DATA=FOLDER in the environment, and FOLDER/clef as `detection muscima ANNOTATIONS FOLDER/clef` writes it.

MUSCIMA++ (Hajič, Pecina 2017; CC BY-NC-SA), one staff an image, three classes. The tiny detector of
`ablations/recurrences`, whose head reads the context as strongly as local features, with the same 532 updates of 16
images for every context, with recurrence and without. 24 runs take two to three minutes of CPU time each.
"""

import os

from detection.ablation import Ablation, load_ablation
from detection.config.files import find_config
from detection.errors import UserError

if not os.environ.get("DATA"):
    raise UserError("set DATA=FOLDER, with FOLDER/clef as `detection muscima ANNOTATIONS FOLDER/clef` writes it.")

recurrences, _ = load_ablation(find_config("ablations/recurrences"))
config = recurrences.base

ablation = Ablation(
    base=config,
    variants={
        **{name: recurrences.variants[name] for name in ("none", "average")},
        "nonlocal": ["detector.context=detection.context.NonLocal", "detector.context.hidden_channels=64"],
        **{
            name: recurrences.variants[name] for name in ("selfattention", "largekernel", "accumulator", "irnn", "lstm")
        },
    },
    data={"clef": recurrences.data["clef"]},
    seeds=(0, 1, 2),
    reference="none",
    metric="AP50",
    primary=[(name, "selfattention", "AP50", "clef") for name in ("lstm", "irnn", "accumulator")],
    chance=recurrences.chance,
)
