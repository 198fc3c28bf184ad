"""Does context help on your data? Eight variants with three seeds on any COCO-style data set, answered in words.

    detection ablate own_data --budget-hours 8 \
        data.train.annotations=TRAIN.json data.train.images=DIR data.val.annotations=VAL.json data.val.images=DIR

with `data.test.annotations=` and `data.test.images=` for a test split, on which the checkpoint chosen on val is then
measured. `docs/ablation.md` describes what it checks, how it estimates its time, and the answer.

The base is `finetune` (EfficientNet-Lite0 with FPN; `pip install 'context-detection[lite0]'`). Another one, a file or a
shipped config's name, is given by the environment variable BASE:

    BASE=mine.py detection ablate own_data data.train.annotations=…

A base without context gets one on the finest map of stride 8 or more (`c3`, `p3` …) that its pool reads, for its
classes alone (`detection.with_context`), or, where the head is not Fast R-CNN's, in its pool; in a base with context
the context is exchanged. Validation images are evaluated about six times (`finetune`: every 3 of its 20 epochs;
`evaluate_every=` on the command line changes it). Turn off what would hide the cue, such as
`data.augmentation.horizontal_flip=0` where left and right differ.
"""

import os
from functools import partial

from detection.ablation import Ablation, Question
from detection.cells import LSTM, RGLRU, Accumulator
from detection.config import load_config, to_plain
from detection.config.files import find_config
from detection.config.overrides import as_overrides
from detection.context import GlobalAverage, RecurrentConv, SelfAttention, SpatialRNN
from detection.errors import UserError
from detection.heads import FastRCNN, SequenceHead
from detection.heads.lstm_decoder import LSTMDecoder
from detection.insertion import with_context
from detection.pooling import RoIAlign, SkipPool, Source

BASE = find_config(os.environ.get("BASE", "finetune")).resolve()
base = load_config(BASE)
detector = base.detector


def stages() -> tuple[str, ...]:
    """Feature maps that the base's pool reads."""
    if detector.pool.func is SkipPool:
        return detector.pool.keywords["sources"][0].feature_maps
    return tuple(to_plain(detector.pool)["stages"])


def joined(part: partial) -> dict[str, object]:
    """Changes with which a base gets a context: in the place of its own, else for its classes, else in its pool."""
    if detector.context is not None:
        return {"detector.context": part}
    if detector.pool.func not in (RoIAlign, SkipPool):
        raise UserError(
            f"BASE={BASE}: its detector.pool is a {detector.pool.func.__name__}, which names no map for a context to "
            "read; give a BASE with RoIAlign or SkipPool, or one that has a context."
        )
    source = next((name for name in stages() if name[-1:] >= "3"), stages()[-1])
    if detector.head.func is FastRCNN:
        return {
            "detector.context": part,
            "detector.context_source": source,
            "detector.head": with_context(detector, part, source).head,
        }
    kept = {key: value for key, value in detector.pool.keywords.items() if key not in ("stages", "sources")}
    if detector.pool.func is RoIAlign:
        sources, kept["init"] = (Source(stages()),), "identity"
    else:
        sources = detector.pool.keywords["sources"]
    pool = partial(SkipPool, sources=(*sources, Source(("context",), norm="channels")), **kept)
    return {"detector.context": part, "detector.context_source": source, "detector.pool": pool}


def width() -> int:
    """Channels of a context: those of the base's, or of `context_lite0_finetune`'s."""
    return 64 if detector.context is None else detector.context.keywords.get("hidden_channels", 256)


def context(part: partial) -> tuple[str, ...]:
    """A variant with a context."""
    return as_overrides(joined(part), "context")


def sweeps(cell: type) -> tuple[str, ...]:
    """Two layers of four sweeps of a cell."""
    return context(partial(SpatialRNN, cell=partial(cell), hidden_channels=width(), rms_norm=detector.context is None))


def sequence_head() -> dict[str, object]:
    """Changes for a head that writes up to two boxes a proposal, of which neither suppresses the other."""
    kept = {key: detector.head.keywords[key] for key in ("batch_size_per_image", "positive_fraction")
            if key in detector.head.keywords}  # fmt: skip
    return {"detector.head": partial(SequenceHead, decoder=partial(LSTMDecoder, num_steps=2, dropout=0.0), **kept)}


def widen() -> tuple[str, ...]:
    """Key that makes the detector without context wider: of the head where the backbone has no width of its own."""
    settings = to_plain(base)["detector"]
    backbone, head = settings["backbone"], settings["head"]
    has_width = {"channels", "out_channels"} & {*backbone, *(backbone.get("body") or ())}
    return () if has_width or not head.get("hidden_channels") else ("detector.head.hidden_channels",)


RARELY = [f"evaluate_every={max(base.evaluate_every, base.schedule.epochs // 6)}", "validation_loss=false"]
"""Without a test split nothing is chosen on val, and with one some six checkpoints are enough to choose from."""

sequence = sequence_head() if detector.head.func is FastRCNN else None
plain = () if detector.context is None else ("detector.context=detection.context.NoContext",)

ablation = Ablation(
    base=BASE,
    variants={
        "none": plain,
        "average": context(partial(GlobalAverage, hidden_channels=width())),
        "selfattention": context(partial(SelfAttention, hidden_channels=width())),
        "accumulator": sweeps(Accumulator),
        "lstm": sweeps(LSTM),
        "rglru": sweeps(RGLRU),
        "rcl": context(partial(RecurrentConv, hidden_channels=width(), num_steps=3, norm="group")),
    },
    data={"own": [*RARELY, *([] if base.data.scenes is None else ["data.scenes=none"])]},
    seeds=(0, 1, 2),
    reference="none",
    metric="AP",
    widen=widen(),
    question=Question(
        default="lstm",
        drop=("rcl", *(["sequence"] if sequence else []), "accumulator", "rglru", "selfattention", "average"),
        where_crowded={"sequence": [*plain, *as_overrides(sequence, "sequence")]} if sequence else {},
    ),
)
