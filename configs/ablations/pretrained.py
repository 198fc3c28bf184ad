"""Adding context to a pretrained detector: what matters, one change at a time, on real handwriting.

    pip install 'context-detection[lite0]'
    detection ablate pretrained

with DATA=FOLDER in the environment, and FOLDER/clef as `detection muscima ANNOTATIONS FOLDER/clef` writes it: a
note head's class is given by the clef at the left end of its staff, up to 295 pixels away. Where there is a
FOLDER/clef2, of two staves an image (`--set clef2`), it is asked, too. EfficientNet-Lite0 with ImageNet weights and a
pyramid of three levels, 532 updates of 16 images (504 on clef2), 11 to 15 minutes of CPU time a run on clef. `lite1`
and `lite2` need the extras of these names.
"""

from dataclasses import replace
from functools import partial

from detection.ablation import Ablation, load_ablation
from detection.cells import LSTM
from detection.config import OptimizerConfig, ScheduleConfig, base_config, override
from detection.config.files import find_config
from detection.config.overrides import as_overrides
from detection.context import NoContext, SpatialRNN
from detection.heads import FastRCNN
from detection.insertion import with_context
from detection.pooling import RoIAlign, SkipPool, Source
from detection.regions import RPN

LEVELS = ("p3", "p4", "p5")

base = base_config("finetune")
plain = replace(
    base,
    detector=replace(
        base.detector,
        backbone=partial(base.detector.backbone, stages=("c3", "c4", "c5"), levels=LEVELS),
        regions=partial(
            RPN,
            stages=LEVELS,
            anchor_sizes=((10,), (20,), (40,)),
            pre_nms_top_n=(300, 200),
            post_nms_top_n=(200, 100),
            batch_size_per_image=64,
        ),
        pool=partial(RoIAlign, stages=LEVELS),
        head=partial(FastRCNN, hidden_channels=256, batch_size_per_image=32),
    ),
    optimizer=OptimizerConfig(kind="adamw", lr=1e-3, reference_batch=16, weight_decay=1e-2, clip_norm=10.0),
    schedule=ScheduleConfig(epochs=14, kind="cosine", warmup=40),
    batch_size=16,
    evaluate_every=14,
    best_metric="AP50",
    validation_loss=False,
    samples=0,
)
context = partial(SpatialRNN, cell=partial(LSTM), hidden_channels=64, rms_norm=True)
handwriting, _ = load_ablation(find_config("ablations/clef"))
REGIONS, TIME = "detector.regions", ("schedule", "evaluate_every")
clef = [change for change in handwriting.data["clef"] if not change.startswith((REGIONS, *TIME))]
two_staves = {
    name: [change for change in changes if not change.startswith(REGIONS)]
    for name, changes in handwriting.data.items()
    if name == "clef2"
}

config = override(replace(plain, detector=with_context(plain.detector, context, "p3")), clef)


def larger(name: str) -> list[str]:
    """A larger backbone of the same family."""
    return [f"detector.backbone.body.name=tf_efficientnet_{name}"]


def pooled(init: str) -> tuple[str, ...]:
    """One pool reads the pyramid and the context, for classes and boxes."""
    pool = partial(SkipPool, sources=(Source(LEVELS), Source(("context",), norm="channels")), init=init)
    return as_overrides({"detector.pool": pool, "detector.head": plain.detector.head}, "pooled")


NONE = as_overrides({"detector.head": plain.detector.head, "detector.context": partial(NoContext)}, "none")

ablation = Ablation(
    base=config,
    variants={
        "none": NONE,
        "context": [],
        "rglru": ["detector.context.cell=detection.cells.RGLRU"],
        "accumulator": ["detector.context.cell=detection.cells.Accumulator"],
        "selfattention": [
            "detector.context=detection.context.SelfAttention",
            "detector.context.hidden_channels=64",
        ],
        "coarse": ["detector.context_source=p4"],
        "pooled": pooled("xavier"),
        "pooled-identity": pooled("identity"),
        "segmentation": [
            "detector.segmentation=detection.segmentation.SegmentationLoss",
            "detector.segmentation.background_weight=0.02",
        ],
        "raw": ["detector.context.rms_norm=false"],
        "sgd": [
            "optimizer.kind=sgd",
            "optimizer.lr=0.01",
            "optimizer.reference_batch=2",
            "optimizer.weight_decay=1e-4",
        ],
        "none-lite1": [*NONE, *larger("lite1")],
        "lite1": larger("lite1"),
        "none-lite2": [*NONE, *larger("lite2")],
        "lite2": larger("lite2"),
    },
    data={"clef": [], **two_staves},
    seeds=(0, 1, 2),
    reference="none",
    metric="AP50",
)
