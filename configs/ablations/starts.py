"""What a gated cell's start is worth: forget bias and chrono at three rates, for a marker 6 locations away.

    detection ablate starts
    detection ablate starts --seeds 2 --variants lstm-bias-half      seed by seed, for what is still of interest

The cells of `ablations/recurrences` that fell short of four seeds of five there with the settings chosen for them.
`bias` is their default, gates that begin by keeping σ(5) of the state; `chrono` begins with a memory of up to 40
locations, another for each channel. 95 runs of a minute of CPU time each.
"""

from detection.ablation import Ablation, load_ablation
from detection.config.files import find_config

recurrences, _ = load_ablation(find_config("ablations/recurrences"))
config = recurrences.base

STARTS = {
    "bias": [],
    "chrono": ["detector.context.cell.init=detection.cells.chrono", "detector.context.cell.init.longest=40"],
}
RATES = {"half": ["optimizer.lr=1e-3"], "asis": [], "twice": ["optimizer.lr=4e-3"]}

ablation = Ablation(
    base=config,
    variants={
        "none": recurrences.variants["none"],
        **{
            f"{cell}-{start}-{rate}": [*recurrences.variants[cell], *STARTS[start], *RATES[rate]]
            for cell in ("lstm", "gru", "minlstm")
            for start in STARTS
            for rate in RATES
        },
    },
    data={"distance-6": recurrences.data["distance-6"]},
    seeds=(0, 1, 2, 3, 4),
    reference="none",
    metric="AP50",
)
