"""Inside-Outside Net (Bell et al. 2016) on ResNet-50 without a pyramid, COCO.

    python tools/train.py configs/ion_resnet50_c4_coco.py \
        data.train.annotations=COCO/annotations/instances_train2017.json data.train.images=COCO/train2017 \
        data.val.annotations=COCO/annotations/instances_val2017.json data.val.images=COCO/val2017

Not run by us, cost unknown; the paper has VGG16 only. Proposals and context read c4. Others report AP 35.7 for a plain
ResNet-50 C4 at 12 epochs (detectron2's model zoo), which runs layer 4 on each region; here that layer runs once on the
image, c3, c4, c5 and the context are pooled, and the head is two layers of 1024 from a random start, for which
descriptors have the amplitude 1.

The difference to `ion_resnet50_fpn_coco.py` is the pyramid that is not there, and a clipped gradient. Not as in the
paper: the backbone and its frozen stages, the head, the schedule, no segmentation loss and one look at test. To add
these two:

        detector.segmentation=detection.segmentation.SegmentationLoss \
        detector.inference.num_box_iterations=2 detector.inference.voting_iou=0.85 detector.inference.flip=true
"""

from functools import partial

from detection.backbones import ResNet
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
        backbone=partial(ResNet, depth=50, weights="IMAGENET1K_V1"),
        context=partial(SpatialRNN, cell=partial(Accumulator), hidden_channels=512),
        context_source="c4",
        regions=partial(
            RPN,
            stages=("c4",),
            anchor_sizes=((32, 64, 128, 256, 512),),
            pre_nms_top_n=(12000, 6000),
            post_nms_top_n=(2000, 1000),
        ),
        pool=partial(
            SkipPool,
            sources=tuple(Source((name,), norm="channels") for name in ("c3", "c4", "c5", "context")),
            out_channels=512,
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
    optimizer=OptimizerConfig(kind="sgd", lr=0.02, reference_batch=16, clip_norm=20.0),
    schedule=ScheduleConfig(epochs=12, kind="step", milestones=(8 / 12, 11 / 12), warmup=1000),
    batch_size=2,
    freeze={"stem": None, "c2": None},
)
