"""AC-CNN (Li et al. 2017) in miniature on `beacon` images, where the class is told by one patch far away.

    python tools/train.py configs/accnn_beacon.py

Classes are read from what an attention LSTM glimpsed at last; to see where it looked:

    python tools/predict.py runs/accnn_beacon datasets/beacon/val --attention

AP50 1.000 with seeds 0, 1 and 2, in 6.3 minutes of CPU time each; 0.61, 0.69 and 0.68 of the last attention step's
weight lies on the beacon's cell and its neighbors (docs/results/accnn.md).

The additive score, which rates what is seen in a cell and not where the cell is, learns this soonest. There is no
segmentation loss as in `quickstart.py`: this context is the same at every cell and could not tell pixels apart.
"""

from functools import partial

from detection.backbones import Tiny
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
from detection.context import AttentionLSTM
from detection.heads import FastRCNN, LocalGlobal
from detection.pooling import CenterCell, RoIAlign
from detection.regions import RPN

config = Config(
    detector=DetectorConfig(
        backbone=partial(Tiny, channels=(32, 64)),
        context=partial(AttentionLSTM, hidden_channels=64, score="additive"),
        context_source="c3",
        regions=partial(
            RPN,
            stages=("c3",),
            anchor_sizes=((12, 18, 24),),
            aspect_ratios=(1.0,),
            pre_nms_top_n=(300, 200),
            post_nms_top_n=(100, 60),
            batch_size_per_image=64,
        ),
        pool=partial(RoIAlign, stages=("c3",), output_size=5, sampling_ratio=1),
        global_pool=partial(CenterCell, stage="context"),
        head=partial(
            LocalGlobal,
            fast_rcnn=partial(FastRCNN, hidden_channels=128, batch_size_per_image=16, positive_fraction=0.5),
            global_channels=128,
        ),
        min_size=96,
        max_size=96,
    ),
    data=DataConfig(
        train=SplitConfig("datasets/beacon/train.json", "datasets/beacon/train"),
        val=SplitConfig("datasets/beacon/val.json", "datasets/beacon/val"),
        augmentation=Augmentation(horizontal_flip=0.5, vertical_flip=0.5),
        workers=0,
        scenes=ScenesConfig(task="beacon", train=2000, val=200, size=96),
    ),
    optimizer=OptimizerConfig(
        kind="adamw", lr=1e-3, reference_batch=32, weight_decay=1e-2, norm_weight_decay=0.0, clip_norm=10.0
    ),
    schedule=ScheduleConfig(epochs=20, kind="cosine", warmup=40),
    batch_size=32,
    eval_batch_size=32,
    evaluate_every=5,
    best_metric="AP",
)
