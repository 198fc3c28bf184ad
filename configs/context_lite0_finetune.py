"""Fine-tune EfficientNet-Lite0 with FPN and a context that its classes read.

    pip install 'context-detection[lite0]'
    detection train context_lite0_finetune \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

The difference to `finetune` is the context: two layers of four sweeps of an LSTM over p3, which only the classes read
(`detection.with_context`); regions and boxes are found as by `finetune`. On handwriting in which only context tells the
class, a context so joined brings AP50 from 0.39 to 0.97 (`detection ablate pretrained`, seed 0).
"""

from dataclasses import replace
from functools import partial

from detection.cells import LSTM
from detection.config import base_config
from detection.context import SpatialRNN
from detection.insertion import with_context

base = base_config("finetune")
context = partial(SpatialRNN, cell=partial(LSTM), hidden_channels=64, rms_norm=True)
config = replace(base, detector=with_context(base.detector, context, "p3"))
