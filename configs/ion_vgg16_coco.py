"""Inside-Outside Net (Bell et al. 2016) on VGG16, COCO, with all that the paper does.

    detection train ion_vgg16_coco \
        data.train.annotations=COCO/annotations/instances_train2017.json data.train.images=COCO/train2017 \
        data.val.annotations=COCO/annotations/instances_val2017.json data.val.images=COCO/val2017

Not run by us, cost unknown. The paper reports AP 31.2 (its competition entry) and 33.1 (after it) on test-dev.

The difference to `ion_vgg16_voc07` is the data, small anchors, the segmentation loss on the context's features, learned
from the annotations' polygons, and at inference two box iterations, voting and mirror images (NMS and voting IoU
recalled with doubt). These are part of every evaluation in training too: detector.inference.flip=false about halves its
cost.

Not as in the paper: an RPN alone proposes, and is trained along; the two additional 3×3 convolutions (+0.2 AP) are left
out; one exponential fall of the rate; 14 epochs; the splits of 2017.
"""

from dataclasses import replace
from functools import partial

from detection.config import SplitConfig, base_config
from detection.inference import InferenceConfig
from detection.segmentation import SegmentationLoss

base = base_config("ion_vgg16_voc07")
config = replace(
    base,
    detector=replace(
        base.detector,
        regions=partial(base.detector.regions, anchor_sizes=((32, 64, 128, 256, 512),), post_nms_top_n=(2000, 1000)),
        head=partial(base.detector.head, nms_threshold=0.475),
        segmentation=partial(SegmentationLoss),
        inference=InferenceConfig(num_box_iterations=2, voting_iou=0.85, flip=True),
    ),
    data=replace(
        base.data,
        # Boxes without area are dropped and counted, and so are training images without boxes.
        train=SplitConfig(bad_boxes="drop", empty_images="drop"),
        val=SplitConfig(bad_boxes="drop"),
    ),
    evaluate_every=2,
    best_metric="AP",
)
