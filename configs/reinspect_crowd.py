"""A small ReInspect (Stewart et al. 2016) on `crowd` (datasets/context_scenes.py): grid cells, no proposals.

    python tools/train.py configs/reinspect_crowd.py [detector.head.strategy=first_k]

People are some 16 pixels high here, so windows of 32 pixels stand 16 apart, half of the paper's. Same data, backbone
and schedule as `faster_rcnn_crowd.py`; docs/results/reinspect.md has the figures.

Seeds 0 to 2: AP50 0.911 ± 0.012, MR⁻² 0.409 ± 0.049, 5 to 7 minutes a run beside two others.
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
from detection.heads import SequenceHead
from detection.heads.box_codes import PixelOffsets
from detection.heads.lstm_decoder import LSTMDecoder
from detection.heads.sequence_head import Embed, MeetsWindow
from detection.heads.stitching import Stitch
from detection.pooling import CenterCell, RoIAlign
from detection.regions import GridCells

config = Config(
    detector=DetectorConfig(
        backbone=partial(
            FPN,
            body=partial(Tiny, channels=(32, 64, 96)),
            stages=("c2", "c3", "c4"),
            out_channels=64,
            levels=("p2", "p4"),
        ),
        regions=partial(GridCells, window=32, stride=16),
        pool=partial(CenterCell, stage="p4"),
        head=partial(
            SequenceHead,
            embed=partial(Embed, features=256),
            decoder=partial(LSTMDecoder, num_steps=5, hidden_size=128, dropout=0.0),
            box_coder=partial(PixelOffsets, scale=10.0),
            assigner=partial(MeetsWindow),
            # The paper's overlap at test, and the passes and the exchange of the authors' code.
            postprocess=partial(
                Stitch,
                iou=None,
                center_offset=1.0,
                replace_iou=0.7,
                passes=(0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05),
            ),
            box_weight=0.1,
            batch_size_per_image=None,
            add_ground_truth=False,
        ),
        rezoom=partial(RoIAlign, stages=("p2",), output_size=2, sampling_ratio=1),
        min_size=96,
        max_size=96,
    ),
    data=DataConfig(
        train=SplitConfig("datasets/crowd/train.json", "datasets/crowd/train"),
        val=SplitConfig("datasets/crowd/val.json", "datasets/crowd/val"),
        augmentation=Augmentation(horizontal_flip=0.5),
        workers=0,
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
