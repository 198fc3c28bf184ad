"""Inside-Outside Net's context (Bell et al. 2016) on ResNet-50 with FPN, COCO; compare with the plain detector.

    python tools/train.py configs/ion_resnet50_fpn_coco.py \
        data.train.annotations=COCO/annotations/instances_train2017.json data.train.images=COCO/train2017 \
        data.val.annotations=COCO/annotations/instances_val2017.json data.val.images=COCO/val2017

Not run by us, cost unknown; the paper has no such model. The difference to `faster_rcnn_resnet50_fpn_coco.py`, for
which others report AP 37.9 and 37.4, is the context and the pool: two layers of four accumulating sweeps over p4,
pooled beside the pyramid's levels by a pool that starts as an identity on them. As there, torchvision's trained
detector can be the start, and training then begins at its detections, bit by bit:

        detector.weights=FasterRCNN_ResNet50_FPN_Weights.COCO_V1 \
        detector.backbone.body.weights=detector detector.backbone.body.norm_eps=0
"""

from functools import partial

from detection.backbones import FPN, ResNet
from detection.cells import Accumulator
from detection.config import (
    Augmentation,
    Config,
    DataConfig,
    DetectorConfig,
    OptimizerConfig,
    ScheduleConfig,
    SplitConfig,
)
from detection.context import SpatialRNN
from detection.heads import FastRCNN
from detection.pooling import SkipPool, Source
from detection.regions import RPN

config = Config(
    detector=DetectorConfig(
        backbone=partial(FPN, body=partial(ResNet, depth=50, weights="IMAGENET1K_V1")),
        context=partial(SpatialRNN, cell=partial(Accumulator), hidden_channels=256),
        context_source="p4",
        regions=partial(RPN),
        pool=partial(
            SkipPool,
            sources=(Source(("p2", "p3", "p4", "p5")), Source(("context",), norm="channels")),
            start="identity",
        ),
        head=partial(FastRCNN),
    ),
    data=DataConfig(
        # Boxes without area are dropped and counted, and so are training images without boxes.
        train=SplitConfig(bad_boxes="drop", empty_images="drop"),
        val=SplitConfig(bad_boxes="drop"),
        augmentation=Augmentation(horizontal_flip=0.5),
        workers=4,
    ),
    optimizer=OptimizerConfig(kind="sgd", lr=0.02, reference_batch=16),
    schedule=ScheduleConfig(epochs=12, kind="step", milestones=(8 / 12, 11 / 12), warmup=1000),
    batch_size=2,
    freeze={"stem": None, "c2": None},
)
