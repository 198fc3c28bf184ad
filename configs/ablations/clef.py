"""Context on real handwriting: a note head's class is told only by the clef at the far left of its staff.

    detection ablate clef

with DATA=FOLDER in the environment, and FOLDER/clef as `detection muscima ANNOTATIONS FOLDER/clef` writes it; where
there is a FOLDER/clef2, of two staves an image (`--set clef2`), it is asked, too: 504 updates, up to fourteen minutes.

MUSCIMA++ (Hajič, Pecina 2017; CC BY-NC-SA), one staff an image, three classes. The tiny detector of
`ablations/recurrences` at twice its rate, with the same 532 updates of 16 images for every context, with recurrence and
without. `default` has the quick start's context and reads it as the quick start does: sweeps of an LSTM, for classes
only; all others are read by one pool, for classes and boxes. `crossscan` and `linepropagation` are two of the newer
recurrences, `gridlstm` is the MDLSTM of 2007. 120 runs take two to nine minutes of CPU time each.
"""

from detection.ablation import Ablation, data_folder, load_ablation
from detection.config.files import find_config

data_folder("clef", "FOLDER/clef as `detection muscima ANNOTATIONS FOLDER/clef` writes it")

recurrences, _ = load_ablation(find_config("ablations/recurrences"))
joining, _ = load_ablation(find_config("ablations/joining"))
config = joining.base

ablation = Ablation(
    base=config,
    variants={
        **{name: recurrences.variants[name] for name in ("none", "average")},
        "nonlocal": ["detector.context=detection.context.NonLocal", "detector.context.hidden_channels=64"],
        **{
            name: recurrences.variants[name] for name in ("selfattention", "largekernel", "accumulator", "irnn", "lstm")
        },
        **{name: recurrences.variants[name] for name in ("crossscan", "linepropagation", "gridlstm")},
        "default": joining.variants["lstm-classes"],
    },
    data={name: changes for name, changes in joining.data.items() if name in ("clef", "clef2")},
    seeds=tuple(range(10)),
    reference="none",
    metric="AP50",
    primary=[("default", name, "AP50", "clef") for name in ("selfattention", "nonlocal")],
    chance=joining.chance,  # a third, where 0.27 was measured without context: the stricter bar
)
