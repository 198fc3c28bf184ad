"""AC-CNN (Li et al. 2017) on VGG16, VOC 2007 trainval → test.

    for SPLIT in trainval test; do
        python datasets/voc_to_coco.py VOC2007/Annotations VOC2007/JPEGImages $SPLIT.json \
            --ids VOC2007/ImageSets/Main/$SPLIT.txt
    done
    python tools/train.py configs/accnn_vgg16_voc07.py --output RUN \
        data.train.annotations=trainval.json data.train.images=VOC2007/JPEGImages \
        data.val.annotations=test.json data.val.images=VOC2007/JPEGImages

Not run by us, cost unknown. The paper reports mAP 72.0, 2.0 above its Fast R-CNN; `VOC07_AP50` is this mAP here.

Recalled with doubt, and so here: each box pooled from the last map at 0.8, 1.2 and 1.8 times its size, 7×7,
L2-normalized, joined, re-scaled, reduced to 512, then fc6 and fc7; the map pooled to 20×20 cells, three LSTM layers of
512 with a linear score, the last attended vector; classes from both, boxes from the local branch.
Not as in the paper, or not known to us:
- An RPN proposes and is trained along, where the paper's +2.0 is over Fast R-CNN with given proposals.
- Three attention steps; two layers of 1024 behind the attended vector; the schedule is Fast R-CNN's (recalled), 128
  boxes an image, 2 images an update.

Without global context: `detector.context=none detector.global_pool=none`. Without local context:
`detector.pool=detection.pooling.RoIAlign detector.pool.stages=c4`. Classes from the global branch alone:
`detector.head.local=false`.
"""

from functools import partial

from detection.backbones import VGG16
from detection.config import Augmentation, Config, DataConfig, DetectorConfig, OptimizerConfig, ScheduleConfig
from detection.context import AttentionLSTM
from detection.heads import FastRCNN, LocalGlobal
from detection.pooling import CenterCell, SkipPool, Source
from detection.regions import RPN

config = Config(
    detector=DetectorConfig(
        # conv5_3, at a stride of 16 pixels, is `c4` here.
        backbone=partial(VGG16, weights="IMAGENET1K_V1"),
        context=partial(AttentionLSTM, hidden_channels=512, num_layers=3, num_steps=3, size=20, score="linear"),
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
            sources=tuple(Source(("c4",), box_scale=scale, norm="channels") for scale in (0.8, 1.2, 1.8)),
            out_channels=512,
            reference=("c4",),
        ),
        global_pool=partial(CenterCell, stage="context"),
        head=partial(
            LocalGlobal,
            fast_rcnn=partial(
                FastRCNN, hidden_channels=4096, weights="VGG16_Weights.IMAGENET1K_V1", batch_size_per_image=128
            ),
        ),
        min_size=600,
        max_size=1000,
    ),
    data=DataConfig(augmentation=Augmentation(horizontal_flip=0.5), workers=4),
    optimizer=OptimizerConfig(kind="sgd", lr=0.001, reference_batch=2, weight_decay=5e-4, clip_norm=20.0),
    schedule=ScheduleConfig(epochs=16, kind="step", milestones=(0.75,), gamma=0.1),
    batch_size=2,
    freeze={"stem": None, "c1": None},
    best_metric="VOC07_AP50",
)
