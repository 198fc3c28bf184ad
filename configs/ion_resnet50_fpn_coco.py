"""The Inside-Outside Net's context (Bell et al. 2016) on ResNet-50 with FPN, COCO.

    detection train ion_resnet50_fpn_coco \
        data.train.annotations=COCO/annotations/instances_train2017.json data.train.images=COCO/train2017 \
        data.val.annotations=COCO/annotations/instances_val2017.json data.val.images=COCO/val2017

Not run by us, cost unknown; the paper has no such model. The difference to `faster_rcnn_resnet50_fpn_coco`, for which
others report AP 37.9 and 37.4, is the context and the pool: two layers of four accumulating sweeps over p4, pooled
together with the pyramid's levels by a pool that is initialized as an identity on them. As there, torchvision's trained
detector can be the initialization, and training then begins at its detections, bit by bit:

        detector.weights=FasterRCNN_ResNet50_FPN_Weights.COCO_V1 \
        detector.backbone.body.weights=detector detector.backbone.body.norm_eps=0
"""

from dataclasses import replace
from functools import partial

from detection.cells import Accumulator
from detection.config import base_config
from detection.context import SpatialRNN
from detection.pooling import SkipPool, Source

base = base_config("faster_rcnn_resnet50_fpn_coco")
config = replace(
    base,
    detector=replace(
        base.detector,
        context=partial(SpatialRNN, cell=partial(Accumulator), hidden_channels=256),
        context_source="p4",
        pool=partial(
            SkipPool,
            sources=(Source(("p2", "p3", "p4", "p5")), Source(("context",), norm="channels")),
            init="identity",
        ),
    ),
)
