"""The Inside-Outside Net's design questions (Bell et al. 2016, sections 4 and 5), in miniature.

    detection ablate ion_table

Against `ion_beacon`'s detector, on two tasks of ContextScenes: `beacon`, which needs context, and `tiny`, which
needs high-resolution feature maps.
- Which layers are pooled (the paper's table 6), and how they are normalized before they are concatenated.
- The recurrent part: W_hh learned from the identity (IRNN), left at the identity (accumulator), or of a tanh RNN.
- Units (the paper: 128 to 2048), layers of sweeps, and which directions each has.
- The segmentation loss, without and with half or twice its weight.

132 runs of three CPU minutes or more. The same keys apply to `ion_vgg16_voc07.py` on VOC.
"""

from detection.ablation import Ablation, scenes

LEFT_RIGHT, UP_DOWN = ("right", "left"), ("down", "up")
FOUR = ("right", "left", "down", "up")
QUIET = ["validation_loss=false", "note="]


def pooled(*features: str, norm: str | None = "channels") -> list[str]:
    """Pool from these feature maps; where they are normalized, the context has four times the others' amplitude."""
    sources = [{"feature_maps": [name], "norm": norm} for name in features]
    amplitude = [4.0 if name == "context" else 1.0 for name in features]
    return [f"detector.pool.sources={sources}", f"detector.pool.amplitude={amplitude if norm else 1.0}"]


def layers(*directions: tuple[str, ...]) -> list[str]:
    """Layers of sweeps, each with its directions."""
    return [f"detector.context.layers={directions}"]


ablation = Ablation(
    base="../ion_beacon.py",
    variants={
        "ion": [],
        "pool-c3": pooled("c3"),
        "pool-context": pooled("context"),
        "pool-c2-c3": pooled("c2", "c3"),
        "pool-c2-c3-context": pooled("c2", "c3", "context"),
        "norm-region": pooled("c3", "context", norm="region"),
        "norm-none": pooled("c3", "context", norm=None),
        "irnn": ["detector.context.cell=detection.cells.IRNN"],
        "tanh": ["detector.context.cell=detection.cells.TanhRNN"],
        "units-16": ["detector.context.hidden_channels=16"],
        "units-128": ["detector.context.hidden_channels=128"],
        "one-layer": layers(FOUR),
        "three-layers": layers(FOUR, FOUR, FOUR),
        "rows-then-columns": layers(LEFT_RIGHT, UP_DOWN),
        "rows-only": layers(LEFT_RIGHT, LEFT_RIGHT),
        "columns-only": layers(UP_DOWN, UP_DOWN),
        "right-and-down": layers(("right", "down"), ("right", "down")),
        "normalized-sweeps": ["detector.context.rms_norm=true"],
        "no-segmentation": ["detector.segmentation=none"],
        "segmentation-2": ["detector.segmentation.weight=2"],
        "segmentation-8": ["detector.segmentation.weight=8"],
        "no-context": ["detector.context=detection.context.NoContext"],
    },
    data={
        "beacon": [*scenes("beacon", size=96), *QUIET],
        "tiny": [*scenes("tiny", size=96), "detector.regions.anchor_sizes=((4, 6, 9),)", *QUIET],
    },
    seeds=(0, 1, 2),
    reference="ion",
    metric="AP50",
)
