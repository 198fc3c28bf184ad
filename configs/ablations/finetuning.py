"""What makes a fine-tuned detector strong at equal cost: `finetune` against its former settings and others.

    detection ablate finetuning

with DATA=FOLDER in the environment, which has a folder for each COCO-style set, with train.json, val.json and images/,
such as `detection convert` writes from the XML files of three small public sets: blood cells (BCCD), raccoons
(datitran/raccoon_dataset) and kangaroos (experiencor/kangaroo). `former` and `p3`, which has no p2, have as many epochs
as take the time of the others on a CPU. 6 to 20 minutes of CPU time a run. docs/results/faster_rcnn.md has the result.
"""

from functools import partial

from detection.ablation import Ablation, data_folder, data_set
from detection.backbones import FPN
from detection.config import base_config
from detection.config.overrides import as_overrides
from detection.errors import UserError
from detection.heads import FastRCNN
from detection.pooling import RoIAlign
from detection.regions import RPN

FOLDER = data_folder("", "FOLDER/NAME/train.json, val.json and images/ for each set NAME")
names = sorted(path.parent.name for path in FOLDER.glob("*/train.json") if (path.parent / "images").is_dir())
if not names:
    raise UserError(f"DATA={FOLDER}: no folder in it has a train.json and images/.")

BODY = base_config("finetune").detector.backbone.keywords["body"]


SGD = ["optimizer.kind=sgd", "optimizer.lr=0.01", "optimizer.reference_batch=2", "optimizer.weight_decay=1e-4"]
STEP = ["schedule.kind=step", "schedule.milestones=(0.8,)", "schedule.warmup=500"]
LARGE = as_overrides(
    {
        "detector.backbone": partial(FPN, body=BODY, norm="batch"),
        "detector.regions": partial(RPN),
        "detector.pool": partial(RoIAlign),
        "detector.head": partial(FastRCNN),
    },
    "former",
)

PYRAMID = ("p3", "p4", "p5", "p6")
P3 = [
    "detector.backbone.stages=('c3', 'c4', 'c5')",
    f"detector.regions.stages={PYRAMID}",
    "detector.regions.anchor_sizes=((24,), (48,), (96,), (192,))",
    f"detector.pool.stages={PYRAMID[:3]}",
    "schedule.epochs=24",
]

ablation = Ablation(
    base="finetune",
    variants={
        "former": [*LARGE, *SGD, *STEP, "batch_size=2", "schedule.epochs=6"],
        "default": [],
        "p3": P3,
        "sgd": [*SGD, *STEP],
        "averaged": ["ema=0.99"],
        "color-and-scale": ["data.augmentation.photometric=0.5", "data.augmentation.jitter=0.5"],
    },
    data={name: ["evaluate_every=1000", *data_set(FOLDER / name)] for name in names},
    seeds=(0, 1, 2),
    reference="former",
    metric="AP",
)
