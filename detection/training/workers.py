"""The number of processes that load images, where a config leaves it open, and a note where it is too small."""

import os
from typing import Literal

from detection.cores import usable_cores
from detection.data.shared_batches import has_shared_memory

MOST = 8
"""Loading processes that `auto` starts at most."""


def loading_processes(setting: int | Literal["auto"], device: str, in_memory: bool) -> int:
    """Return the number of processes that load images for a training process.

    Args:
        setting: `data.workers`; a number stays what it is.
        device: kind of device that is trained on. On `cpu` the cores are the training's: there are two processes at
            most, none where a core would not be left to it.
        in_memory: all decoded images are kept in memory. On a CPU they are then loaded in the training process.
    """
    if setting != "auto":
        return setting
    if (device == "cpu" and in_memory) or not has_shared_memory():
        return 0
    return max(0, min(2 if device == "cpu" else MOST, own_cores() - 1))


def own_cores() -> int:
    """Return the cores that a process of a run has to itself, at least 1.

    They are those that the system lets it use, shared with the other processes of the run on this machine. A run of an
    ablation has its share of them in `DETECTION_CORES`.
    """
    given = os.environ.get("DETECTION_CORES", "")
    cores = int(given) if given.isdecimal() else usable_cores()
    local = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, cores // (int(local) if local.isdecimal() and int(local) else 1))


def waiting_note(share: float, workers: int) -> str:
    """Describe that training waits for data, and what helps; empty where it is less than a fifth of the time.

    Args:
        share: of the time of an epoch.
        workers: loading processes that it had.
    """
    if share < 0.2:
        return ""
    waiting, most = f"waiting for data {share:.0%} of the time", min(64, own_cores() - 1)
    if workers < most:
        return f"{waiting}: data.workers={min(most, max(2, 2 * workers))}"
    return (
        f"{waiting} with data.workers={workers}, and no core is left for more: store the images at the size at which "
        "they are trained on, or keep them in memory by data.cache_megabytes=N"
    )
