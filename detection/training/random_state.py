"""The random state of a process: of Python, NumPy, and torch on the CPU and on its GPU, as plain values."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of all global random streams, which `torch.load` reads with `weights_only=True`."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *map(float, rest)),  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "mps": torch.mps.get_rng_state() if device.type == "mps" else None,
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Set what `random_state` returned; the GPU's where there is one both then and now."""
    name, keys, position, has_gauss, gauss = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, np.array(keys, np.uint32), int(position), int(has_gauss), gauss))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and state.get("mps") is not None:
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Leave all global random streams as they were."""
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)
