"""How should a head read a context? Joins that must lose nothing where a context says nothing, compared.

    detection ablate joining
    DATA=FOLDER detection ablate joining      with FOLDER/clef and FOLDER/clef2, real handwriting, too

`equal`: the pool reads the context as strongly as the backbone's features, for classes and boxes; `stronger`: four
times as strongly, as ION's measured norms suggest; `classes`: boxes are read from the backbone's features alone, and
classes from both, the context through a pool and two layers of its own (AC-CNN's head, the quick start's join). A
context in a `ScanBlock` (`lstmblock`, `rglrublock`) is read through a gate that begins as a no-op.

On the tiny detector of `ablations/recurrences`, with its updates and twice its learning rate, and with seeds that are
reported nowhere else. One to four minutes of CPU time a run, seven on `clef2`. docs/results/joining.md has the result.
"""

import os

from detection.ablation import Ablation, data_set, load_ablation, scenes
from detection.config import base_config, override
from detection.config.files import find_config
from detection.config.overrides import as_overrides

quickstart = base_config("quickstart").detector
recurrences, _ = load_ablation(find_config("ablations/recurrences"))
config = override(recurrences.base, ["optimizer.lr=4e-3"])

JOINS = {
    "equal": (),
    "stronger": ("detector.pool.amplitude=(1.0, 4.0)",),
    "classes": as_overrides({"detector.pool": quickstart.pool, "detector.head": quickstart.head}, "classes"),
}


def block(cell: str) -> list[str]:
    """The ablation's `ScanBlock`, around sweeps of a cell."""
    return [*recurrences.variants["scanblock"], f"detector.context.mixer.cell=detection.cells.{cell}"]


CONTEXTS = {**recurrences.variants, "lstmblock": block("LSTM"), "rglrublock": block("RGLRU")}


def joined(*names: str) -> dict[str, list[str]]:
    """Variants named CONTEXT-JOIN."""
    pairs = {name: name.split("-") for name in names}
    return {name: [*CONTEXTS[context], *JOINS[join]] for name, (context, join) in pairs.items()}


def clef2(clef: list[str], folder: str) -> list[str]:
    """The same handwriting with two staves an image, at its own size: 504 updates."""
    return [*clef, *data_set(folder), "detector.min_size=256", "schedule.epochs=56", "evaluate_every=56"]


REAL = {name: changes for name, changes in recurrences.data.items() if name == "clef"}  # where DATA is set
if REAL and os.path.isdir(os.path.join(os.environ["DATA"], "clef2")):
    REAL["clef2"] = clef2(REAL["clef"], os.path.abspath(os.path.join(os.environ["DATA"], "clef2")))

ablation = Ablation(
    base=config,
    variants={
        "none": recurrences.variants["none"],
        **joined("average-equal", "average-classes", "selfattention-equal", "selfattention-classes"),
        **joined("accumulator-stronger", "accumulator-equal", "accumulator-classes"),
        **joined("lstm-equal", "lstm-classes", "rglru-equal", "rglru-classes"),
        **joined("lstmblock-equal", "lstmblock-classes", "rglrublock-equal", "rglrublock-classes"),
    },
    data={
        "beacon": scenes("beacon", size=96, train=1500, val=200),
        "row": recurrences.data["row"],
        "count": recurrences.data["count"],
        **REAL,
    },
    seeds=(100, 101, 102),
    reference="none",
    metric="AP50",
    # A third is what finding all objects and guessing among three classes would have. Without context AP50 on `clef`
    # was 0.27, so the bar is the stricter of the two.
    chance=dict.fromkeys(REAL, 1 / 3),
)
