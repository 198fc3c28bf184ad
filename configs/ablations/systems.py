"""Context over complete systems of handwritten music: many lines an image, clefs that change inside of a line.

    detection muscima ANNOTATIONS FOLDER/system --set system
    detection ablate systems

with DATA=FOLDER in the environment. A note head's class is given by the last clef to its left on its own staff: 39
images of about 1570×240 to 1580×960 pixels to train, with 124 heads in the mean, and 20 to validate. The tiny detector
of `ablations/clef`, 560 updates of two images; `lstm` and `rglru` are read for classes alone, as the quick start's
context is. A run of `average` took 13 minutes beside other trainings, one of `lstm` 47.
"""

from detection.ablation import Ablation, data_folder, data_set, load_ablation
from detection.config.files import find_config

FOLDER = data_folder("system", "FOLDER/system as `detection muscima ANNOTATIONS FOLDER/system --set system` writes it")

joining, _ = load_ablation(find_config("ablations/joining"))
config = joining.base


def many(name: str, head: str = "detector.head") -> list[str]:
    """A variant of `ablations/joining` for images of many objects."""
    return [*joining.variants[name], f"{head}.detections_per_image=300", f"{head}.batch_size_per_image=128"]


ablation = Ablation(
    base=config,
    variants={
        "none": many("none"),
        "average": many("average-equal"),
        "lstm": many("lstm-classes", "detector.head.fast_rcnn"),
        "rglru": many("rglru-classes", "detector.head.fast_rcnn"),
    },
    data={
        "system": [
            *data_set(FOLDER),
            "data.scenes=none",
            "data.augmentation.horizontal_flip=0",
            "data.augmentation.vertical_flip=0",
            "detector.min_size=1576",
            "detector.max_size=1576",
            "detector.regions.anchor_sizes=((8, 12, 16),)",
            "detector.regions.pre_nms_top_n=(1200, 800)",
            "detector.regions.post_nms_top_n=(600, 400)",
            "detector.regions.batch_size_per_image=256",
            "batch_size=2",
            "eval_batch_size=2",
            "schedule.epochs=28",
            "evaluate_every=28",
        ]
    },
    seeds=(0, 1, 2),
    reference="none",
    metric="AP50",
    chance={"system": 1 / 3},
)
