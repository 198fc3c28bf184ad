"""Inside-Outside Net (Bell et al. 2016) on VGG16, VOC 2007 trainval → test.

    for SPLIT in trainval test; do
        detection convert --from voc VOC2007/Annotations VOC2007/JPEGImages $SPLIT.json \
            --ids VOC2007/ImageSets/Main/$SPLIT.txt
    done
    detection train ion_vgg16_voc07 --output RUN \
        data.train.annotations=trainval.json data.train.images=VOC2007/JPEGImages \
        data.val.annotations=test.json data.val.images=VOC2007/JPEGImages
    detection evaluate RUN detector.inference.num_box_iterations=2 detector.inference.voting_iou=0.85 \
        detector.inference.flip=true detector.head.nms_threshold=0.475

Not run by us, cost unknown. The paper reports mAP 79.2 (v1) and 80.1 (CVPR) with everything, the last command and the
segmentation loss included, trained on VOC 2012 too (recalled); 75.6 without that loss (recalled with doubt).
`VOC07_AP50` is this mAP here.

As in the paper: the pool, fc6 and fc7 from VGG16, no dropout, 128 boxes an image, 4 images an update, gradients clipped
at 20; conv1 to conv5 are frozen first, then conv1 and conv2, from 2/7 of training on, as after 40k of 140k updates
(recalled).
Not as in the paper:
- An RPN proposes, where the paper has selective search (recalled), and it is trained along.
- No segmentation loss: of VOC 2007 few images have masks, and the paper takes more from elsewhere. With
  `detector.segmentation=detection.segmentation.SegmentationLoss data.masks=boxes` it learns from filled boxes instead.
- One exponential fall of the rate from 5e-3 to 1e-5, where the paper has two: to 1e-4, and from 1e-3 (recalled).
- 14 epochs; torchvision's training of VGG16, which comes with fc6 and fc7.
"""

from functools import partial

from detection.backbones import VGG16
from detection.cells import Accumulator
from detection.config import Augmentation, Config, DataConfig, DetectorConfig, OptimizerConfig, ScheduleConfig
from detection.context import SpatialRNN
from detection.heads import FastRCNN
from detection.pooling import SkipPool, Source
from detection.regions import RPN

config = Config(
    detector=DetectorConfig(
        # conv3_3, conv4_3 and conv5_3, at strides of 4, 8 and 16 pixels, are `c2`, `c3` and `c4` here.
        backbone=partial(VGG16, weights="IMAGENET1K_V1"),
        context=partial(SpatialRNN, cell=partial(Accumulator), hidden_channels=512),
        context_source="c4",
        regions=partial(
            RPN,
            stages=("c4",),
            anchor_sizes=((128, 256, 512),),
            pre_nms_top_n=(12000, 6000),
            post_nms_top_n=(2000, 300),
        ),
        pool=partial(
            SkipPool,
            sources=tuple(Source((name,), norm="channels") for name in ("c2", "c3", "c4", "context")),
            out_channels=512,
            reference=("c4",),
        ),
        head=partial(FastRCNN, hidden_channels=4096, weights="VGG16_Weights.IMAGENET1K_V1", batch_size_per_image=128),
        min_size=600,
        max_size=1000,
    ),
    data=DataConfig(augmentation=Augmentation(horizontal_flip=0.5)),
    optimizer=OptimizerConfig(kind="sgd", lr=0.005, reference_batch=4, weight_decay=5e-4, clip_norm=20.0),
    schedule=ScheduleConfig(epochs=14, kind="exponential", gamma=0.002),
    batch_size=2,
    gradient_accumulation_steps=2,
    freeze={"stem": None, "c1": None, "c2": 4, "c3": 4, "c4": 4},
    best_metric="VOC07_AP50",
)
