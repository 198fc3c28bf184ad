"""The smallest ablation, from runs to report: does context help where only context gives the class?

    detection ablate smoke

ContextScenes `row`, two variants, two seeds: 1.8 minutes on two cores, and AP50 0.362 ± 0.026 without context against
0.936 ± 0.090 with it. A run has 300 updates, those of `context.py` 376, with the same detector; two seeds give a wide
interval.
"""

from detection.ablation import Ablation, scenes

ablation = Ablation(
    base="context.py",
    variants={
        "none": ["detector.context=detection.context.NoContext"],
        "accumulator": [],
    },
    data={"row": [*scenes("row", size=96, train=800, val=100), "schedule.epochs=6", "optimizer.lr=3e-3"]},
    seeds=(0, 1),
    reference="none",
    metric="AP50",
    primary=[("accumulator", "none", "AP50", "row")],
)
