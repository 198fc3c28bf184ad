"""A tiny Faster R-CNN on ContextScenes `shapes`, from a random initialization: no context needed.

    detection train shapes

Seed 0: AP 0.683, AP50 0.869 on 100 validation images; docs/results/faster_rcnn.md.
"""

from functools import partial

from detection.backbones import FPN, Tiny
from detection.config import (
    Augmentation,
    Config,
    DataConfig,
    DetectorConfig,
    OptimizerConfig,
    ScenesConfig,
    ScheduleConfig,
    SplitConfig,
)
from detection.heads import FastRCNN
from detection.pooling import RoIAlign
from detection.regions import RPN

config = Config(
    detector=DetectorConfig(
        backbone=partial(FPN, body=partial(Tiny, channels=(32, 64, 96)), stages=("c2", "c3", "c4"), out_channels=64),
        regions=partial(
            RPN,
            stages=("p3", "p4"),
            anchor_sizes=((12, 20), (32, 48)),
            pre_nms_top_n=(300, 200),
            post_nms_top_n=(150, 100),
            batch_size_per_image=64,
        ),
        pool=partial(RoIAlign, stages=("p2",), output_size=7, sampling_ratio=1),
        head=partial(FastRCNN, hidden_channels=128, batch_size_per_image=32, positive_fraction=0.5),
        min_size=128,
        max_size=128,
    ),
    data=DataConfig(
        train=SplitConfig("datasets/shapes/train.json", "datasets/shapes/train"),
        val=SplitConfig("datasets/shapes/val.json", "datasets/shapes/val"),
        augmentation=Augmentation(horizontal_flip=0.5, vertical_flip=0.5),
        scenes=ScenesConfig(task="shapes", train=1200, val=100),
    ),
    optimizer=OptimizerConfig(
        kind="adamw", lr=2e-3, reference_batch=8, weight_decay=1e-2, norm_weight_decay=0.0, clip_norm=10.0
    ),
    schedule=ScheduleConfig(epochs=12, kind="cosine", warmup=50),
    batch_size=8,
    eval_batch_size=8,
    validation_loss=True,
    evaluate_every=2,
    best_metric="AP",
)
