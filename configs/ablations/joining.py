"""How should a head read a context? Joins that must lose nothing where a context says nothing, compared.

    detection ablate joining
    DATA=FOLDER detection ablate joining      with FOLDER/clef and FOLDER/clef2, real handwriting, too

`equal`: the pool reads the context as strongly as the backbone's features, for classes and boxes; `stronger`: four
times as strongly, as ION's measured norms suggest; `classes`: boxes are read from the backbone's features alone, and
classes from both, the context through a pool and two layers of its own (AC-CNN's head); `block`: as `equal`, with the
context in a `ScanBlock`, which begins as a no-op. On the tiny detector of `ablations/recurrences`, with its updates and
twice its learning rate, and with seeds that are reported nowhere else. One to three minutes of CPU time a run, five on
`clef2`.
"""

import os
from functools import partial

from detection.ablation import Ablation, load_ablation, scenes
from detection.config import override
from detection.config.files import find_config
from detection.config.overrides import as_overrides
from detection.heads import LocalGlobal
from detection.pooling import SkipPool, Source

recurrences, _ = load_ablation(find_config("ablations/recurrences"))
config = override(recurrences.base, ["optimizer.lr=4e-3"])

LOCAL = Source(("c3",), norm="channels")
CONTEXT = Source(("context",), norm="channels")
JOINS = {
    "equal": (),
    "stronger": ("detector.pool.amplitude=(1.0, 4.0)",),
    "classes": as_overrides(
        {
            "detector.pool": partial(SkipPool, sources=(LOCAL,), output_size=5, sampling_ratio=1),
            "detector.head": partial(
                LocalGlobal,
                fast_rcnn=config.detector.head,
                global_pool=partial(SkipPool, sources=(CONTEXT,), output_size=3, sampling_ratio=1),
                global_channels=128,
            ),
        },
        "classes",
    ),
}


def joined(*names: str) -> dict[str, list[str]]:
    """Variants named CONTEXT-JOIN."""
    pairs = {name: name.split("-") for name in names}
    return {name: [*recurrences.variants[context], *JOINS[join]] for name, (context, join) in pairs.items()}


def clef2(folder: str) -> list[str]:
    """The same handwriting with two staves an image, at its own size: 504 updates."""
    files = [f"data.{split}.annotations={folder}/clef2/{split}.json" for split in ("train", "val")]
    images = [f"data.{split}.images={folder}/clef2/images" for split in ("train", "val")]
    return [*CLEF, *files, *images, "detector.min_size=256", "schedule.epochs=56", "evaluate_every=56"]


CLEF = recurrences.data.get("clef")  # where DATA is set

ablation = Ablation(
    base=config,
    variants={
        "none": recurrences.variants["none"],
        **joined("selfattention-equal", "selfattention-classes"),
        **joined("accumulator-stronger", "accumulator-equal", "accumulator-classes"),
        **joined("lstm-equal", "lstm-classes", "rglru-equal", "rglru-classes"),
        "lstm-block": [*recurrences.variants["scanblock"], "detector.context.mixer.cell=detection.cells.LSTM"],
    },
    data={
        "beacon": scenes("beacon", size=96, train=1500, val=200),
        "row": recurrences.data["row"],
        "count": recurrences.data["count"],
        **({"clef": CLEF, "clef2": clef2(os.path.abspath(os.environ["DATA"]))} if CLEF else {}),
    },
    seeds=(100, 101, 102),
    reference="none",
    metric="AP50",
    chance={"clef": 1 / 3, "clef2": 1 / 3} if CLEF else {},
)
