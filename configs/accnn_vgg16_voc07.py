"""AC-CNN (Li et al. 2017) on VGG16, VOC 2007 trainval → test.

    for SPLIT in trainval test; do
        detection convert --from voc VOC2007/Annotations VOC2007/JPEGImages $SPLIT.json \
            --ids VOC2007/ImageSets/Main/$SPLIT.txt
    done
    detection train accnn_vgg16_voc07 --output RUN \
        data.train.annotations=trainval.json data.train.images=VOC2007/JPEGImages \
        data.val.annotations=test.json data.val.images=VOC2007/JPEGImages

Not run by us, cost unknown. The paper reports mAP 72.0, 2.0 above its Fast R-CNN; `VOC07_AP50` is this mAP here.

Recalled with doubt, and so here: each box pooled from the last feature map at 0.8, 1.2 and 1.8 times its size, 7×7,
L2-normalized, joined, re-scaled, reduced to 512, then fc6 and fc7; the features pooled to 20×20 locations, three LSTM
layers of 512 with a linear score, the last attended vector; classes from both, boxes from the local branch.
Not as in the paper, or not known to us:
- An RPN proposes and is trained along, where the paper's +2.0 is over Fast R-CNN with given proposals.
- Three attention steps; two layers of 1024 behind the attended vector; the schedule is Fast R-CNN's (recalled), 128
  boxes an image, 2 images an update.

The base is `faster_rcnn_vgg16_voc07`. Without global context: `detector.context=none detector.head.global_pool=none`.
Without local context: `detector.pool=detection.pooling.RoIAlign detector.pool.stages=c4`. Classes from the global
branch alone: `detector.head.local=false`.
"""

from dataclasses import replace
from functools import partial

from detection.config import ScheduleConfig, base_config
from detection.context import AttentionLSTM
from detection.heads import LocalGlobal
from detection.pooling import CenterCell, SkipPool, Source

base = base_config("faster_rcnn_vgg16_voc07")
config = replace(
    base,
    detector=replace(
        base.detector,
        # torchvision's weights that come with fc6 and fc7.
        backbone=partial(base.detector.backbone, weights="IMAGENET1K_V1"),
        context=partial(AttentionLSTM, hidden_channels=512, num_layers=3, num_steps=3, size=20, score="linear"),
        context_source="c4",
        pool=partial(
            SkipPool,
            sources=tuple(Source(("c4",), box_scale=scale, norm="channels") for scale in (0.8, 1.2, 1.8)),
            out_channels=512,
            reference=("c4",),
        ),
        head=partial(
            LocalGlobal,
            global_pool=partial(CenterCell, stage="context"),
            fast_rcnn=partial(base.detector.head, weights="VGG16_Weights.IMAGENET1K_V1"),
        ),
    ),
    optimizer=replace(base.optimizer, reference_batch=2, clip_norm=20.0),
    schedule=ScheduleConfig(epochs=16, kind="step", milestones=(0.75,), gamma=0.1),
)
