"""Context over complete systems of handwritten music: many lines an image, clefs that change inside of a line.

    detection muscima ANNOTATIONS FOLDER/system --set system
    detection ablate systems

with DATA=FOLDER in the environment. A note head's class is given by the last clef to its left on its own staff: 39
images of about 1570×240 to 1580×960 pixels to train, with 124 heads in the mean, and 20 to validate. The tiny detector
of `ablations/clef`, 560 updates of two images; `lstm` and `rglru` are read for classes alone, as the quick start's
context is. A run of `average` took 13 minutes next to other trainings, one of `lstm` 47, an epoch of `lite0`, the
pretrained detector of `ablations/pretrained` with an LSTM for the classes, 7, and of `lite0-none`, without, 5
(`[lite0]`).
"""

from detection.ablation import Ablation, data_folder, data_set, load_ablation
from detection.config import override
from detection.config.files import find_config
from detection.config.overrides import as_overrides

FOLDER = data_folder("system", "FOLDER/system as `detection muscima ANNOTATIONS FOLDER/system --set system` writes it")

joining, _ = load_ablation(find_config("ablations/joining"))
pretrained, _ = load_ablation(find_config("ablations/pretrained"))
config = joining.base
HEAD, CLASSES_HEAD = "detector.head", "detector.head.fast_rcnn"
PARTS = ("backbone", "context", "context_source", "regions", "pool", "head", "segmentation")
PROPOSALS = [
    "detector.regions.pre_nms_top_n=(1200, 800)",
    "detector.regions.post_nms_top_n=(600, 400)",
    "detector.regions.batch_size_per_image=256",
]


def many(head: str) -> list[str]:
    """What a head needs for images of many objects."""
    return [f"{head}.detections_per_image=300", f"{head}.batch_size_per_image=128"]


def lite0(variant: str, head: str) -> list[str]:
    """The detector of a variant of `ablations/pretrained`."""
    detector = override(pretrained.base, pretrained.variants[variant]).detector
    parts = {f"detector.{part}": getattr(detector, part) for part in PARTS}
    return [*as_overrides(parts, variant), *PROPOSALS, *many(head)]


ablation = Ablation(
    base=config,
    variants={
        "none": [*joining.variants["none"], *many(HEAD)],
        "average": [*joining.variants["average-equal"], *many(HEAD)],
        "lstm": [*joining.variants["lstm-classes"], *many(CLASSES_HEAD)],
        "rglru": [*joining.variants["rglru-classes"], *many(CLASSES_HEAD)],
        "lite0-none": lite0("none", HEAD),
        "lite0": lite0("context", CLASSES_HEAD),
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
            *PROPOSALS,
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
