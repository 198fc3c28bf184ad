"""AC-CNN (Li et al. 2017) in miniature on ContextScenes `beacon`: one patch far away gives the class.

    detection train accnn_beacon

Classes are read from the last vector that an attention LSTM attended to; to draw its attention:

    detection predict runs/accnn_beacon datasets/beacon/val --attention

AP50 1.000 with seeds 0, 1 and 2, in 6.3 minutes of CPU time each; 0.61, 0.69 and 0.68 of the last attention step's
weight is on the beacon's location and its neighbors (docs/results/accnn.md).

The additive score, which rates a location by its features and not by where it is, learns this soonest. The difference
to `quickstart` is the context, what reads it, half the rate and a longer schedule. There is no segmentation loss: this
context is the same at every location and could not tell pixels apart.
"""

from dataclasses import replace
from functools import partial

from detection.config import base_config
from detection.context import AttentionLSTM
from detection.heads import LocalGlobal
from detection.pooling import CenterCell, RoIAlign

base = base_config("quickstart")
config = replace(
    base,
    detector=replace(
        base.detector,
        context=partial(AttentionLSTM, hidden_channels=64, score="additive"),
        pool=partial(RoIAlign, stages=("c3",), output_size=5, sampling_ratio=1),
        segmentation=None,
        head=partial(
            LocalGlobal,
            global_pool=partial(CenterCell, stage="context"),
            fast_rcnn=base.detector.head.keywords["fast_rcnn"],
            global_channels=128,
        ),
    ),
    optimizer=replace(base.optimizer, lr=1e-3),
    schedule=replace(base.schedule, epochs=20),
    validation_loss=False,
    evaluate_every=5,
    best_metric="AP",
    note="",
)
