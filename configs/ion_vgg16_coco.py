"""Inside-Outside Net (Bell et al. 2016) on VGG16, COCO, with all that the paper does.

    python tools/train.py configs/ion_vgg16_coco.py \
        data.train.annotations=COCO/annotations/instances_train2017.json data.train.images=COCO/train2017 \
        data.val.annotations=COCO/annotations/instances_val2017.json data.val.images=COCO/val2017

Not run by us, cost unknown. The paper reports AP 31.2 (its competition entry) and 33.1 (after it) on test-dev.

The difference to `ion_vgg16_voc07.py` is the data, small anchors, the segmentation loss on the context's map, learned
from the annotations' polygons, and at test two rounds of boxes, voting and mirror images (NMS and voting IoU recalled
with doubt). These are part of every evaluation in training too: detector.inference.flip=false about halves its cost.

Not as in the paper: an RPN alone proposes, and is trained along; the two additional 3×3 convolutions (+0.2 AP) are left
out; one exponential fall of the rate; 14 epochs; the splits of 2017.
"""

from functools import partial

from detection.backbones import VGG16
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
from detection.inference import InferenceConfig
from detection.pooling import SkipPool, Source
from detection.regions import RPN
from detection.segmentation import SegmentationLoss

config = Config(
    detector=DetectorConfig(
        # conv3_3, conv4_3 and conv5_3, at strides of 4, 8 and 16 pixels, are `c2`, `c3` and `c4` here.
        backbone=partial(VGG16, weights="IMAGENET1K_V1"),
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
            sources=tuple(Source((name,), norm="channels") for name in ("c2", "c3", "c4", "context")),
            out_channels=512,
            reference=("c4",),
        ),
        head=partial(
            FastRCNN,
            hidden_channels=4096,
            weights="VGG16_Weights.IMAGENET1K_V1",
            batch_size_per_image=128,
            nms_threshold=0.475,
        ),
        segmentation=partial(SegmentationLoss),
        min_size=600,
        max_size=1000,
        inference=InferenceConfig(num_box_iterations=2, voting_iou=0.85, flip=True),
    ),
    data=DataConfig(
        # Boxes without area are dropped and counted, and so are training images without boxes.
        train=SplitConfig(bad_boxes="drop", empty_images="drop"),
        val=SplitConfig(bad_boxes="drop"),
        augmentation=Augmentation(horizontal_flip=0.5),
        workers=4,
    ),
    optimizer=OptimizerConfig(kind="sgd", lr=0.005, reference_batch=4, weight_decay=5e-4, clip_norm=20.0),
    schedule=ScheduleConfig(epochs=14, kind="exponential", gamma=0.002),
    batch_size=2,
    gradient_accumulation_steps=2,
    freeze={"stem": None, "c1": None, "c2": 4, "c3": 4, "c4": 4},
    evaluate_every=2,
)
