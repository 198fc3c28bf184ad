"""The sequence head on ContextScenes `crowd`: up to three people a proposal, one after another.

    detection train sequence_head_crowd

The head is the only difference to `faster_rcnn_crowd`; docs/results/reinspect.md has all results.

Seeds 0 to 2: AP50 0.978 ± 0.000, MR⁻² 0.051 ± 0.006, 3 minutes a run.
"""

from dataclasses import replace
from functools import partial

from detection.config import base_config
from detection.heads import SequenceHead
from detection.heads.lstm_decoder import LSTMDecoder
from detection.heads.sequence_head import Embed

base = base_config("faster_rcnn_crowd")
config = replace(
    base,
    detector=replace(
        base.detector,
        head=partial(
            SequenceHead,
            embed=partial(Embed, features=128),
            decoder=partial(LSTMDecoder, num_steps=3, hidden_size=128, dropout=0.0),
            batch_size_per_image=64,
            positive_fraction=0.5,
        ),
    ),
)
