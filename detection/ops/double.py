"""Double precision where a device has it: the GPUs of Macs (`mps`) do not, and get float32 in its place."""

import torch
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}


def widest(device: torch.device) -> torch.dtype:
    """Return the widest floating-point type of a device."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def widen(x: Tensor) -> Tensor:
    """Return x in the widest type of its device."""
    return x.to(widest(x.device))
