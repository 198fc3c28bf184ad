"""Compiled backbone and context, and a count of what was compiled."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from detection.detector import Detector


class CountedBackend:
    """A backend of `torch.compile` that counts the graphs that it compiles.

    A graph is compiled again for images of another shape, the second time for any shape, and for evaluation.
    """

    def __init__(self, name: str) -> None:
        self.graphs = 0
        self._compile: Callable[..., Any] = torch._dynamo.lookup_backend(name)  # pyright: ignore[reportAttributeAccessIssue]

    def __call__(self, graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Any:
        """Compile a graph."""
        self.graphs += 1
        return self._compile(graph, inputs)


def compile_parts(detector: Detector, backend: str = "inductor") -> CountedBackend:
    """Compile backbone and context in place, at their first forward pass; names of parameters stay."""
    counted = CountedBackend(backend)
    for part in (detector.backbone, detector.context):
        if part is not None:
            # Not `torch.compile(part)`: that returns another module, whose state dict has `_orig_mod.` before every
            # name.
            part.compile(backend=counted)
    return counted
