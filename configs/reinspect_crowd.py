"""A small ReInspect (Stewart et al. 2016) on ContextScenes `crowd`: grid cells, no proposals.

    detection train reinspect_crowd [detector.head.strategy=first_k]

As the authors trained it: h = o·c, no biases in the cell, weights in ±0.1, matching by 100·off + step + L1 / 2000, the
mean over steps of the classes' loss, the backbone's rate × 4, their overlap, passes and exchange of boxes in merging.
Not theirs: people are some 16 pixels high here, so windows of 32 pixels stand 16 apart, half of the paper's; data,
backbone, optimizer and schedule are those of `faster_rcnn_crowd`; the refinement (`rezoom`) is TensorBox's.

Seeds 0 to 2: AP50 0.917 ± 0.003; docs/results/reinspect.md has all results; 2 to 3 minutes a run.
"""

from dataclasses import replace
from functools import partial

from detection.cells import TiedLSTM
from detection.config import base_config
from detection.heads import SequenceHead
from detection.heads.box_codes import PixelOffsets
from detection.heads.costs import ReInspectCost
from detection.heads.lstm_decoder import LSTMDecoder
from detection.heads.sequence_head import Embed, MeetsWindow
from detection.heads.stitching import Stitch
from detection.pooling import CenterCell, RoIAlign
from detection.regions import GridCells

base = base_config("faster_rcnn_crowd")
config = replace(
    base,
    detector=replace(
        base.detector,
        backbone=partial(base.detector.backbone, levels=("p2", "p4")),
        regions=partial(GridCells, window=32, stride=16),
        pool=partial(CenterCell, stage="p4"),
        head=partial(
            SequenceHead,
            embed=partial(Embed, features=256),
            decoder=partial(
                LSTMDecoder,
                num_steps=5,
                cell=partial(TiedLSTM, bias=False),
                hidden_size=128,
                dropout=0.0,
                init_range=0.1,
            ),
            box_coder=partial(PixelOffsets, scale=10.0),
            assigner=partial(MeetsWindow),
            cost=partial(ReInspectCost),
            postprocess=partial(
                Stitch,
                overlap="authors",
                replace_iou=0.7,
                passes=(0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05),
            ),
            classifier_weight=1 / 5,
            box_weight=0.1,
            batch_size_per_image=None,
            add_ground_truth=False,
            rezoom=partial(RoIAlign, stages=("p2",), output_size=2, sampling_ratio=1),
        ),
    ),
    optimizer=replace(base.optimizer, lr_multipliers={"backbone": 4.0}),
)
