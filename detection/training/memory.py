"""The most memory that a process has taken so far."""

import sys

import torch


def peak_memory(device: torch.device) -> str:
    """Describe the most memory of tensors on a GPU, or the largest resident size on a CPU; empty where unknown."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e6:.0f} MB on the GPU"
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:  # Windows
        return ""
    # getrusage counts bytes on macOS, and units of 1024 bytes on Linux.
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{getrusage(RUSAGE_SELF).ru_maxrss * unit / 1e6:.0f} MB"
