"""Inside-Outside Net (Bell et al. 2016) on ResNet-50 without a pyramid, COCO.

    detection train ion_resnet50_c4_coco \
        data.train.annotations=COCO/annotations/instances_train2017.json data.train.images=COCO/train2017 \
        data.val.annotations=COCO/annotations/instances_val2017.json data.val.images=COCO/val2017

Not run by us, cost unknown; the paper has VGG16 only. Proposals and context read c4. Others report AP 35.7 for a plain
ResNet-50 C4 at 12 epochs (detectron2's model zoo), which runs layer 4 on each region; here that layer runs once on the
image, c3, c4, c5 and the context are pooled, and the head is two layers of 1024 from a random initialization, for which
descriptors have the amplitude 1.

Data, schedule and head are those of `faster_rcnn_resnet50_fpn_coco`; the gradient is clipped. Not as in the paper: the
backbone and its frozen stages, the head, the schedule, no segmentation loss and one pass at inference. To add these
two:

        detector.segmentation=detection.segmentation.SegmentationLoss \
        detector.inference.num_box_iterations=2 detector.inference.voting_iou=0.85 detector.inference.flip=true
"""

from dataclasses import replace
from functools import partial

from detection.cells import Accumulator
from detection.config import base_config
from detection.context import SpatialRNN
from detection.pooling import SkipPool, Source
from detection.regions import RPN

base = base_config("faster_rcnn_resnet50_fpn_coco")
config = replace(
    base,
    detector=replace(
        base.detector,
        backbone=base.detector.backbone.keywords["body"],
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
    ),
    optimizer=replace(base.optimizer, clip_norm=20.0),
)
