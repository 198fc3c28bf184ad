"""AC-CNN's own questions (Li et al. 2017): what do its global and its local branch give, each without the other?

    python tools/ablate.py configs/ablations/accnn.py

The miniature of `accnn_beacon.py` on two tasks of ContextScenes: `beacon`, where only the global branch can tell the
class, and `surround`, where what lies round the box does and two boxes of an image have different ones. 72 runs of six
CPU minutes or more.

The paper's local scales are 0.8, 1.2 and 1.8 of the box (recalled); `both-wide-local` reaches as far as the pattern of
`surround`, which begins beyond all three.
"""

from detection.ablation import Ablation, scenes


def local(*scales: float) -> str:
    """The pool that reads c3 within boxes of these sizes."""
    sources = [{"feature_maps": ["c3"], "box_scale": scale, "norm": "channels"} for scale in scales]
    settings = {"class": "detection.pooling.SkipPool", "sources": sources, "output_size": 5, "sampling_ratio": 1}
    return f"detector.pool={settings}"


GLOBAL_OFF = ["detector.context=none", "detector.head.global_pool=none"]
AVERAGE = ["detector.context=detection.context.GlobalAverage", "detector.context.hidden_channels=64"]
LOCAL = local(0.8, 1.2, 1.8)

ablation = Ablation(
    base="../accnn_beacon.py",
    variants={
        "neither": GLOBAL_OFF,
        "global": [],
        "global-alone": ["detector.head.local=false"],
        "local": [LOCAL, *GLOBAL_OFF],
        "both": [LOCAL],
        "both-wide-local": [local(1, 2, 5)],
        "both-1.2-only": [local(1.2)],
        "both-one-attention step": [LOCAL, "detector.context.num_steps=1"],
        "both-linear-score": [LOCAL, "detector.context.score=linear"],
        "both-one-layer": [LOCAL, "detector.context.num_layers=1"],
        "both-GRU": [LOCAL, "detector.context.run=detection.cells.GRU"],
        "global-average": [
            LOCAL,
            "detector.context=detection.context.GlobalAverage",
            "detector.context.hidden_channels=64",
        ],
    },
    data={"beacon": scenes("beacon", size=96), "surround": scenes("surround", size=96, difficulty=1)},
    seeds=(0, 1, 2),
    reference="neither",
    metric="AP50",
)
