"""Recurrent convolution (Liang, Hu 2015) after c3, on `surround`: the neighborhood is the class.

    detection train recurrent_surround

Seeds 0 to 2: AP50 0.662, 0.851 and 0.987; a plain backbone widened to as many parameters: 0.363, 0.374 and 0.379
(docs/results/accnn.md).
"""

from functools import partial

from detection.backbones import RecurrentStages, Tiny
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
        backbone=partial(RecurrentStages, body=partial(Tiny, channels=(32, 64)), recurrent_stages=("c3",)),
        regions=partial(
            RPN,
            stages=("c3",),
            anchor_sizes=((12,),),
            aspect_ratios=(1.0,),
            pre_nms_top_n=(300, 200),
            post_nms_top_n=(100, 60),
            batch_size_per_image=64,
        ),
        pool=partial(RoIAlign, stages=("c3",), output_size=5, sampling_ratio=1),
        head=partial(FastRCNN, hidden_channels=128, batch_size_per_image=16, positive_fraction=0.5),
        min_size=96,
        max_size=96,
    ),
    data=DataConfig(
        train=SplitConfig("datasets/surround/train.json", "datasets/surround/train"),
        val=SplitConfig("datasets/surround/val.json", "datasets/surround/val"),
        augmentation=Augmentation(horizontal_flip=0.5, vertical_flip=0.5),
        scenes=ScenesConfig(task="surround", train=2000, val=400, size=96, difficulty=2.0),
    ),
    optimizer=OptimizerConfig(
        kind="adamw", lr=1e-3, reference_batch=32, weight_decay=1e-2, norm_weight_decay=0.0, clip_norm=10.0
    ),
    schedule=ScheduleConfig(epochs=6, kind="cosine", warmup=40),
    batch_size=32,
    eval_batch_size=32,
    evaluate_every=3,
    best_metric="AP50",
)
