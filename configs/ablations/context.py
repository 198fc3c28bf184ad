"""Every context module against none, on tasks that need more and more context.

    detection ablate context
    detection ablate context --variants irnn,lstm,gru --data distance-6,distance-9
    detection ablate context --match params       with size-matched controls

ContextScenes: the class of all objects is given by one distant patch (`beacon`), by the marker in their row (`row`), by
the number of patches (`count`), and by a marker 3, 6 or 9 locations away (`distance`). 324 runs of about a minute of
CPU time each.

The detector is `ion_beacon`'s with half of its channels. The rings cover few pixels, so that a pixel of the
background weighs 0.02 in the segmentation loss. All contexts have 64 channels, as `ion_beacon`'s.

Baselines without recurrence are those of the Inside-Outside Net (Bell et al. 2016, section 5): two 3×3 and two 5×5
convolutions, and the global average; and a non-local block. The others are its sweeps with different recurrent cells,
the attention LSTM of AC-CNN (Li et al. 2017) and a recurrent convolution (Liang, Hu 2015).
"""

from detection.ablation import Ablation, scenes
from detection.config import base_config, override

CONTEXT = "detector.context"
CELLS = {
    "accumulator": "Accumulator",
    "irnn": "IRNN",
    "tanh": "TanhRNN",
    "lstm": "LSTM",
    "peephole": "PeepholeLSTM",
    "gru": "GRU",
    "mut1": "MUT1",
    "mut2": "MUT2",
    "mut3": "MUT3",
    "mingru": "MinGRU",
    "minlstm": "MinLSTM",
}

config = override(
    base_config("ion_beacon"),
    [
        "detector.backbone.stem_channels=8",
        "detector.backbone.channels=(16, 32)",
        "optimizer.lr=2e-3",
        "optimizer.reference_batch=16",
        "batch_size=16",
        "detector.segmentation.background_weight=0.02",
        "schedule.epochs=4",
        "evaluate_every=4",
        "validation_loss=false",
        "samples=2",
        "note=",
    ],
)


def context(name: str, **settings: object) -> list[str]:
    """A context of `detection.context` and its settings."""
    return [f"{CONTEXT}=detection.context.{name}", *(f"{CONTEXT}.{key}={value}" for key, value in settings.items())]


def task(name: str, **settings: object) -> list[str]:
    """A task of ContextScenes, with as many images as the others."""
    return scenes(name, size=96, train=1500, val=200, **settings)


ablation = Ablation(
    base=config,
    variants={
        "none": context("NoContext"),
        "conv3x3": context("ConvStack", kernel_size=3, hidden_channels=64),
        "conv5x5": context("ConvStack", kernel_size=5, hidden_channels=64),
        "average": context("GlobalAverage", hidden_channels=64),
        "nonlocal": context("NonLocal", hidden_channels=64),
        **{name: [f"{CONTEXT}.cell=detection.cells.{cell}"] for name, cell in CELLS.items()},
        "attention": context("AttentionLSTM", hidden_channels=64, score="additive"),
        "rcl": context("RecurrentConv", hidden_channels=64, num_steps=3),
    },
    data={
        "beacon": task("beacon"),
        "row": task("row"),
        "count": task("count"),
        **{f"distance-{cells}": task("distance", difficulty=cells) for cells in (3, 6, 9)},
        # Further tasks of ContextScenes are a line each here.
    },
    seeds=(0, 1, 2),
    reference="none",
    metric="AP50",
    primary=[
        ("accumulator", "average", "AP50", "row"),
        ("average", "conv5x5", "AP50", "beacon"),
        ("irnn", "conv5x5", "AP50", "distance-9"),
    ],
    curves={"distance of the marker (locations of 8 pixels)": {f"distance-{cells}": cells for cells in (3, 6, 9)}},
)
