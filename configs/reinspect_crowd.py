"""A small ReInspect (Stewart et al. 2016) on ContextScenes `crowd`: grid cells, no proposals.

    detection train reinspect_crowd [detector.head.strategy=first_k]

People are some 16 pixels high here, so windows of 32 pixels stand 16 apart, half of the paper's. Data, backbone and
schedule are those of `faster_rcnn_crowd`; docs/results/reinspect.md has all results.

Seeds 0 to 2: AP50 0.911 ± 0.012, MR⁻² 0.409 ± 0.049, 5 to 7 minutes a run with two others at the same time.
"""

from dataclasses import replace
from functools import partial

from detection.config import base_config
from detection.heads import SequenceHead
from detection.heads.box_codes import PixelOffsets
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
            decoder=partial(LSTMDecoder, num_steps=5, hidden_size=128, dropout=0.0),
            box_coder=partial(PixelOffsets, scale=10.0),
            assigner=partial(MeetsWindow),
            # The paper's overlap at inference, and the passes and the exchange of the authors' code.
            postprocess=partial(
                Stitch,
                iou=None,
                center_offset=1.0,
                replace_iou=0.7,
                passes=(0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05),
            ),
            box_weight=0.1,
            batch_size_per_image=None,
            add_ground_truth=False,
            rezoom=partial(RoIAlign, stages=("p2",), output_size=2, sampling_ratio=1),
        ),
    ),
)
