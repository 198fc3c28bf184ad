"""Choice of the Triton kernels: for CUDA tensors up to float32, where Triton is installed."""

from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor


def use_triton(x: Tensor) -> bool:
    """Return whether the kernels are for x: their states are float32, so not for float64."""
    return x.is_cuda and x.dtype != torch.float64 and find_spec("triton") is not None


def triton_kernels() -> ModuleType:
    """Return the kernels' module; only builds of PyTorch for CUDA have Triton, so it is imported at its first use."""
    from detection.ops.sweep import triton_scan

    return triton_scan


def selective_kernels() -> ModuleType:
    """Return the module of the selective scan's kernels."""
    from detection.ops.sweep import triton_selective_scan

    return triton_selective_scan


def line_kernels() -> ModuleType:
    """Return the module of line propagation's kernels."""
    from detection.ops import triton_line_propagation

    return triton_line_propagation


def grid_kernels() -> ModuleType:
    """Return the module of the linear two-dimensional recurrence's kernels."""
    from detection.ops.grid import triton_linear

    return triton_linear
