"""Faster R-CNN, ResNet-50, FPN on COCO: torchvision's recipe at 12 epochs (the "1x" schedule).

    detection train faster_rcnn_resnet50_fpn_coco \
        data.train.annotations=COCO/annotations/instances_train2017.json data.train.images=COCO/train2017 \
        data.val.annotations=COCO/annotations/instances_val2017.json data.val.images=COCO/val2017

Not run by us. Others report for this model and schedule: AP 37.9 (detectron2's model zoo), 37.4 (mmdetection);
torchvision's own weights have 37.0. To fine-tune those, whose class layers are kept for COCO's classes, add

        detector.weights=FasterRCNN_ResNet50_FPN_Weights.COCO_V1 \
        detector.backbone.body.weights=detector detector.backbone.body.norm_eps=0
"""

from functools import partial

from detection.backbones import FPN, ResNet
from detection.config import (
    Augmentation,
    Config,
    DataConfig,
    DetectorConfig,
    OptimizerConfig,
    ScheduleConfig,
    SplitConfig,
)
from detection.heads import FastRCNN
from detection.pooling import RoIAlign
from detection.regions import RPN

config = Config(
    detector=DetectorConfig(
        backbone=partial(FPN, body=partial(ResNet, depth=50, weights="IMAGENET1K_V1")),
        regions=partial(RPN),
        pool=partial(RoIAlign),
        head=partial(FastRCNN),
    ),
    data=DataConfig(
        # Boxes without area are dropped and counted, and so are training images without boxes.
        train=SplitConfig(bad_boxes="drop", empty_images="drop"),
        val=SplitConfig(bad_boxes="drop"),
        augmentation=Augmentation(horizontal_flip=0.5),
    ),
    optimizer=OptimizerConfig(kind="sgd", lr=0.02, reference_batch=16),
    schedule=ScheduleConfig(epochs=12, kind="step", milestones=(8 / 12, 11 / 12), warmup=1000),
    batch_size=2,
    freeze={"stem": None, "c2": None},
)
