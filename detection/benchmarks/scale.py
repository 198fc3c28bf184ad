"""Hours of large trainings on 1, 8 and 64 GPUs, computed from measured steps: `docs/scale.md`.

python -m detection.benchmarks.scale > docs/scale.md
"""

import math
import textwrap
from dataclasses import dataclass

GPUS = (1, 8, 64)

STEP = 0.0726
"""Seconds of a training step of R50-FPN on 4 images of 800x1216, bf16."""
IMAGES_A_STEP = 4
SMALL_UPDATE = 0.16
"""Seconds of an update of a small ION, 32 images, 4 loading processes."""
SMALL_UPDATES = 6 * 63

PARAMETERS = 41.8e6
"""Of R50-FPN, whose gradients are exchanged in float32."""
INSIDE, BETWEEN = 300e9, 50e9
"""Bytes a second at which a GPU exchanges gradients inside a node of 8 and between nodes: assumed, not measured."""
LOADING = 0.0041
"""Seconds of a core to decode a 640x480 JPEG, flip it and resize it to 800 pixels."""


@dataclass(frozen=True)
class DataSet:
    """A training set by its number of images with boxes, and the epochs that it is trained for."""

    name: str
    images: int
    epochs: int


DATA_SETS = (DataSet("COCO train2017, 1x", 117_266, 12), DataSet("Objects365 v2 train, 1x", 1_742_289, 12))


def exchange_seconds(gpus: int) -> float:
    """Return the seconds in which gradients go around a ring of GPUs, as if none of it overlapped the backward pass."""
    rate = INSIDE if gpus <= 8 else BETWEEN
    return 2 * (gpus - 1) / gpus * 4 * PARAMETERS / rate


def training_hours(data: DataSet, gpus: int) -> float:
    """Return the hours of all steps of a training; the last batch of an epoch is filled up."""
    steps = data.epochs * math.ceil(data.images / (IMAGES_A_STEP * gpus))
    return steps * (STEP + exchange_seconds(gpus)) / 3600


def ablation_hours(runs: int, gpus: int) -> float:
    """Return the hours of the updates of runs that have a GPU each, one after another where there are more runs."""
    return math.ceil(runs / gpus) * SMALL_UPDATES * SMALL_UPDATE / 3600


def document() -> str:
    """Return the text of `docs/scale.md`."""
    measured = f"""
        Computed by `python -m detection.benchmarks.scale > docs/scale.md`; no training of this size has been run.
        Measured on one H100 80GB with torch 2.11 on 2026-11-26, commit 04373ae: a training step of Faster R-CNN with
        ResNet-50 and FPN on {IMAGES_A_STEP} images of 800x1216 in bf16, {1e3 * STEP:.1f} ms; an update of a small
        ION (`ion_beacon`) on 32 images with 4 loading processes, {1e3 * SMALL_UPDATE:.0f} ms."""
    notes = (
        f"""Steps only: no evaluation, no start, no waiting for files. The learning rate of the 1x schedule is stated
        for 16 images an update and scaled linearly; at {IMAGES_A_STEP * GPUS[-1]} images the warm-up must be longer,
        which has not been tried.""",
        f"""Gradients of {PARAMETERS / 1e6:.1f} M parameters go around a ring in float32, assumed at
        {INSIDE / 1e9:.0f} GB/s a GPU inside a node of 8 and {BETWEEN / 1e9:.0f} GB/s between nodes. torch overlaps
        most of it with the backward pass; here nothing is overlapped.""",
        f"""Loading: to decode, flip and resize a 640x480 JPEG took {1e3 * LOADING:.1f} ms of one CPU core (2026-11-27),
        so that a GPU needs {LOADING * IMAGES_A_STEP / STEP:.2f} of a core at this step. `detection benchmark loading`
        measures it on a machine, and a training prints where it waits for data. The index of annotations is one
        memory-mapped file a node.""",
        """A run of an ablation has a GPU to itself (`detection ablate`, locally or by Slurm). Thirteen at once on one
        GPU were far slower than in turn.""",
    )
    return "\n\n".join(
        (
            "# From measured steps to large trainings",
            _filled(measured),
            "\n".join(_table()),
            "What is in it, and what is not:",
            "\n".join(_filled(note, "- ") for note in notes) + "\n",
        )
    )


def _table() -> list[str]:
    rows = [["", *(f"{n} GPU{'s' * (n > 1)}" for n in GPUS)], ["---"] * (1 + len(GPUS))]
    for data in DATA_SETS:
        name = f"{data.name}: {data.epochs} epochs of {data.images:,} images"
        rows.append([name, *(_hours(training_hours(data, n)) for n in GPUS)])
    name = f"ablation of 500 runs of a small ION, {SMALL_UPDATES} updates each"
    rows.append([name, *(_hours(ablation_hours(500, n)) for n in GPUS)])
    rows.append(["images of an update", *(str(IMAGES_A_STEP * n) for n in GPUS)])
    name = f"exchange of gradients, on top of {1e3 * STEP:.1f} ms a step, at most"
    rows.append([name, *(f"{1e3 * exchange_seconds(n):.1f} ms" for n in GPUS)])
    return [f"| {' | '.join(row)} |" for row in rows]


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 2 else f"{60 * hours:.0f} min"


def _filled(text: str, start: str = "") -> str:
    words = " ".join(text.split())
    return textwrap.fill(words, 120, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False)


if __name__ == "__main__":
    print(document(), end="")
