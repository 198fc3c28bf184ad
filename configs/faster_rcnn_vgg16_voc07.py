"""Faster R-CNN on one feature map of VGG16 (Ren et al. 2015), VOC 2007 trainval → test.

    for SPLIT in trainval test; do
        detection convert --from voc VOC2007/Annotations VOC2007/JPEGImages $SPLIT.json \
            --ids VOC2007/ImageSets/Main/$SPLIT.txt
    done
    detection train faster_rcnn_vgg16_voc07 \
        data.train.annotations=trainval.json data.train.images=VOC2007/JPEGImages \
        data.val.annotations=test.json data.val.images=VOC2007/JPEGImages

Not run by us. The paper reports mAP 69.9 (`VOC07_AP50` here). Its two fully connected layers are
initialized from VGG16's fc6 and fc7; here they are random. conv1 and conv2 are frozen as in the paper.
"""

from functools import partial

from detection.backbones import VGG16
from detection.config import Augmentation, Config, DataConfig, DetectorConfig, OptimizerConfig, ScheduleConfig
from detection.heads import FastRCNN
from detection.pooling import RoIAlign
from detection.regions import RPN

config = Config(
    detector=DetectorConfig(
        backbone=partial(VGG16, weights="IMAGENET1K_FEATURES"),
        # conv5_3, at a stride of 16 pixels, is `c4` here.
        regions=partial(
            RPN,
            stages=("c4",),
            anchor_sizes=((128, 256, 512),),
            pre_nms_top_n=(12000, 6000),
            post_nms_top_n=(2000, 300),
        ),
        pool=partial(RoIAlign, stages=("c4",)),
        head=partial(FastRCNN, hidden_channels=4096, batch_size_per_image=128),
        min_size=600,
        max_size=1000,
    ),
    data=DataConfig(augmentation=Augmentation(horizontal_flip=0.5)),
    optimizer=OptimizerConfig(kind="sgd", lr=0.001, reference_batch=1, weight_decay=5e-4, clip_norm=35.0),
    schedule=ScheduleConfig(epochs=14, kind="step", milestones=(0.714,), warmup=500),
    batch_size=2,
    freeze={"stem": None, "c1": None},
    best_metric="VOC07_AP50",
)
