"""A small Faster R-CNN on ContextScenes `crowd`: what suppression by overlap costs.

    detection train faster_rcnn_crowd

The base of `sequence_head_crowd` and `reinspect_crowd`, which have the same data, backbone and schedule; all results
are in docs/results/reinspect.md.

Seeds 0 to 2: AP50 0.815 ± 0.011, MR⁻² 0.183 ± 0.009, 2 to 3 minutes a run.
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
        backbone=partial(
            FPN,
            body=partial(Tiny, channels=(32, 64, 96)),
            stages=("c2", "c3", "c4"),
            out_channels=64,
            levels=("p2",),
        ),
        regions=partial(
            RPN,
            stages=("p2",),
            anchor_sizes=((16,),),
            aspect_ratios=(1.6,),
            pre_nms_top_n=(300, 300),
            post_nms_top_n=(100, 100),
            batch_size_per_image=64,
        ),
        pool=partial(RoIAlign, stages=("p2",), output_size=5, sampling_ratio=1),
        head=partial(FastRCNN, hidden_channels=128, batch_size_per_image=64, positive_fraction=0.5),
        min_size=96,
        max_size=96,
    ),
    data=DataConfig(
        train=SplitConfig("datasets/crowd/train.json", "datasets/crowd/train"),
        val=SplitConfig("datasets/crowd/val.json", "datasets/crowd/val"),
        augmentation=Augmentation(horizontal_flip=0.5),
        scenes=ScenesConfig(task="crowd", train=2000, val=300, size=96),
    ),
    optimizer=OptimizerConfig(
        kind="adamw", lr=2e-3, reference_batch=16, weight_decay=1e-2, norm_weight_decay=0.0, clip_norm=10.0
    ),
    schedule=ScheduleConfig(epochs=8, kind="cosine", warmup=50),
    batch_size=16,
    eval_batch_size=32,
    evaluate_every=4,
    best_metric="AP50",
)
