"""The smallest ablation, from runs to report: does context help where only context can tell?

    python tools/ablate.py configs/ablations/smoke.py

ContextScenes `beacon`, two variants, two seeds, five and a half minutes of CPU time in all: three minutes on two cores
that have nothing else to do. A run is a sixth of the quick start's, which is too short for every seed to leave chance
(an AP50 of a third); the interval over two seeds is as wide as that deserves.
"""

from detection.ablation import Ablation

ablation = Ablation(
    base="../quickstart.py",
    variants={
        "none": ["detector.context=detection.context.NoContext"],
        "accumulator": [],
    },
    data={
        "beacon": [
            "data.train.annotations=datasets/beacon-smoke/train.json",
            "data.train.images=datasets/beacon-smoke/train",
            "data.val.annotations=datasets/beacon-smoke/val.json",
            "data.val.images=datasets/beacon-smoke/val",
            "data.scenes.train=800",
            "data.scenes.val=100",
            "schedule.epochs=5",
            "batch_size=16",
            "evaluate_every=5",
            "validation_loss=false",
            "samples=2",
            "beside=",
        ],
    },
    seeds=(0, 1),
    reference="none",
    metric="AP50",
)
