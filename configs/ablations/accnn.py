"""AC-CNN's design questions (Li et al. 2017): the global and the local branch, each without the other.

    detection ablate accnn

The miniature of `accnn_beacon.py` on two tasks of ContextScenes: `beacon`, where only the global branch sees the cue of
the class, and `surround`, where the cue surrounds each box and differs between the boxes of an image. 72 runs of six
CPU minutes or more.

The paper's local scales are 0.8, 1.2 and 1.8 of the box (recalled); `both-wide-local` covers the pattern of `surround`,
which begins beyond all three.
"""

from detection.ablation import Ablation, scenes


def local(*scales: float) -> str:
    """A pool of c3 within boxes scaled by these factors."""
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
        "both-one-step": [LOCAL, "detector.context.num_steps=1"],
        "both-linear-score": [LOCAL, "detector.context.score=linear"],
        "both-one-layer": [LOCAL, "detector.context.num_layers=1"],
        "both-GRU": [LOCAL, "detector.context.cell=detection.cells.GRU"],
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
