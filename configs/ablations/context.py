"""What does each context do? Each beside none, where only context can tell the class, and where none is needed.

    python tools/ablate.py configs/ablations/context.py
    python tools/ablate.py configs/ablations/context.py --match params      and none, made as large as each

The quick start's detector (the tiny backbone, from a random start) on ContextScenes, three seeds, 96 runs of three CPU
minutes or more each: an evening on sixteen cores. All contexts have 64 channels, as the quick start's.

Rivals without recurrence are those of the Inside-Outside Net (Bell et al. 2016, section 5): two 3×3 and two 5×5
convolutions, and the global average; and a non-local block. The others are its sweeps with different recurrent cells.
"""

from detection.ablation import Ablation

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


def context(name: str, **settings: object) -> list[str]:
    """A context of `detection.context` and its settings."""
    return [f"{CONTEXT}=detection.context.{name}", *(f"{CONTEXT}.{key}={value}" for key, value in settings.items())]


def scenes(task: str, *more: str) -> list[str]:
    """The quick start's pictures with another question asked of them."""
    folder = f"datasets/{task}-96"
    splits = [
        f"data.{split}.{key}={folder}/{split}{ending}"
        for split in ("train", "val")
        for key, ending in (("annotations", ".json"), ("images", ""))
    ]
    return [*splits, f"data.scenes.task={task}", "validation_loss=false", "beside=", *more]


ablation = Ablation(
    base="../quickstart.py",
    variants={
        "none": context("NoContext"),
        "conv3x3": context("ConvStack", kernel_size=3, hidden_channels=64),
        "conv5x5": context("ConvStack", kernel_size=5, hidden_channels=64),
        "average": context("GlobalAverage", hidden_channels=64),
        "nonlocal": context("NonLocal"),
        **{name: [f"{CONTEXT}.cell=detection.cells.{cell}"] for name, cell in CELLS.items()},
        # Further contexts, such as attention or recurrent convolutions, are a line each here.
    },
    data={
        "beacon": scenes("beacon"),  # the class is told far away
        "shapes": scenes("shapes", "detector.regions.anchor_sizes=((10, 18, 32),)"),  # the class is the shape
        # Further tasks of ContextScenes are a line each here.
    },
    seeds=(0, 1, 2),
    reference="none",
    metric="AP50",
)
