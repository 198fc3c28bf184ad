"""Channels-last memory for a network's weights, and so for its maps."""

from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

_LANES = 16
Network = TypeVar("Network", bound=nn.Module)


def to_channels_last(network: Network) -> Network:
    """Lay out all weights of convolutions in channels-last memory, in place; returns the network.

    A 1×1 convolution with a stride and fewer than 16 input channels then reads every stride-th location of its input
    and has no stride: as it was, its weights' gradient on a CPU is written beyond its memory (oneDNN 3.12, seen with
    torch 2.14 and AVX-512; 400 convolutions of other kinds, sizes and groups gave the right gradients).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and _writes_beyond(module):
            module.register_forward_pre_hook(partial(_every, (module.stride[0], module.stride[1])))
            module.stride = (1, 1)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _writes_beyond(convolution: nn.Conv2d) -> bool:
    return (
        tuple(convolution.kernel_size) == (1, 1)
        and tuple(convolution.stride) != (1, 1)
        and convolution.padding in ("valid", "same", (0, 0))
        and convolution.in_channels // convolution.groups < _LANES
    )


def _every(stride: tuple[int, int], module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    (x,) = inputs
    return (x[..., :: stride[0], :: stride[1]],)  # (B, C, ⌈H / stride⌉, ⌈W / stride⌉)
