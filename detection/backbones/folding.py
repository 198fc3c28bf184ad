"""Frozen batch norm folded into the convolution before it, which saves a pass over each map, forward and backward.

Frozen statistics make the norm an affine map of each channel, s·x + t. Its s goes into the convolution's weights and
its t into the convolution's bias, at every call, so that weights, statistics and their names stay what they are, and
gradients reach the weights through s. What is computed is equal but for rounding.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


class FoldingConv(nn.Conv2d):
    """A convolution that computes the norm after it.

    Attributes:
        norm: the norm in a tuple, so that it is no module of this one.
        only_in_training: at inference both compute apart, as they did, to the bit.
    """

    norm: tuple[Any]
    only_in_training: bool

    @property
    def is_folded(self) -> bool:
        """True where the norm is computed here."""
        return self.training or not self.only_in_training

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weights and bias with the norm in them."""
        (norm,) = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()  # (C,), s
        shift = norm.bias - norm.running_mean * scale  # t
        if self.bias is not None:
            shift = shift + self.bias * scale  # which the norm scales, too
        return self.weight * scale[:, None, None, None], shift

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve (B, C, H, W)."""
        return self._conv_forward(x, weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, H, W), and normalize where folded."""
        return self.convolve(x, *(self.folded() if self.is_folded else (self.weight, self.bias)))


class FoldedNorm(FrozenBatchNorm2d):
    """A norm that the convolution before it computes.

    Attributes:
        convolution: in a tuple, so that it is no module of this one.
    """

    convolution: tuple[FoldingConv]

    def forward(self, x: Tensor) -> Tensor:
        """Return what the convolution has normalized, or normalize it."""
        return x if self.convolution[0].is_folded else super().forward(x)


Classes = dict[type[nn.Module], type[nn.Module]]
"""Classes of convolutions and norms, exactly these, and what they become."""

TORCHVISION: Classes = {nn.Conv2d: FoldingConv, FrozenBatchNorm2d: FoldedNorm}


def fold_frozen_norms(
    network: nn.Module, *, only_in_training: bool = False, classes: Classes = TORCHVISION, stride: int = 32
) -> int:
    """Fold each frozen norm that reads a convolution's output, if nothing else reads it.

    They are found by a forward pass of one image of zeros; a network that cannot read an image of 2 × `stride` pixels a
    side is left as it is.

    Args:
        network: with float32 weights that require gradients; its modules change their classes.
        only_in_training: leave inference equal to the bit.
        classes: to be changed.
        stride: of the coarsest map.

    Returns:
        The number of norms that were folded.
    """
    if not any(type(module) in classes and not isinstance(module, nn.Conv2d) for module in network.modules()):
        return 0
    pairs = _pairs(network, classes, 2 * stride)
    for convolution, norm in pairs:
        # Another class for the same module: its weights, its name and its hooks stay.
        convolution.__class__, norm.__class__ = classes[type(convolution)], classes[type(norm)]
        convolution.norm, convolution.only_in_training = (norm,), only_in_training
        norm.convolution = (convolution,)
    return len(pairs)


def _pairs(network: nn.Module, classes: Classes, side: int) -> list[tuple[Any, Any]]:
    """Find convolutions and the norms that alone read them."""
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}
    reads: list[tuple[nn.Module, nn.Module, Tensor]] = []
    calls: Counter[nn.Module] = Counter()

    def note_output(module: nn.Module, _: Any, output: Tensor) -> None:
        calls[module] += 1
        outputs[id(output)] = (module, output)  # held, or a later tensor could get its id

    def note_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if inputs and id(inputs[0]) in outputs:
            reads.append((outputs[id(inputs[0])][0], module, inputs[0]))

    handles, modes = [], [(module, module.training) for module in network.modules()]
    for module in network.modules():
        if type(module) in classes:
            is_convolution = isinstance(module, nn.Conv2d)
            handles.append(
                module.register_forward_hook(note_output)
                if is_convolution
                else module.register_forward_pre_hook(note_input)
            )
    try:
        network.eval()  # or batch norms would count the image of zeros
        with torch.enable_grad():
            found = network(torch.zeros(1, 3, side, side))
    except Exception:  # whatever a network raises on an image that it cannot read
        return []
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    maps = found.values() if isinstance(found, dict) else [found] if isinstance(found, Tensor) else found
    # Hooks see the modules that read a tensor; the graph also what reads it outside of modules, such as a sum.
    readers = _readers(maps)
    return [
        (convolution, norm)
        for convolution, norm, output in reads
        if readers[output.grad_fn] == 1 and calls[convolution] == calls[norm] == 1
    ]


def _readers(outputs: Iterable[Tensor]) -> Counter[Any]:
    """Count how often the result of each operation is read, or is an output."""
    found: Counter[Any] = Counter(output.grad_fn for output in outputs if output.grad_fn is not None)
    waiting = list(found)  # nodes whose inputs are not counted yet, each once
    while waiting:
        nodes: Sequence[tuple[Any, int]] = waiting.pop().next_functions
        for node, _ in nodes:
            if node is not None:
                if node not in found:
                    waiting.append(node)
                found[node] += 1
    return found
