"""Activation checkpointing (Chen et al. 2016): what is inside a stage is computed again in the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

from detection.backbones.backbone import Backbone
from detection.errors import UserError


def checkpoint_stages(backbone: Backbone) -> None:
    """Have the stages of a backbone keep their inputs only, in training; gradients and batch statistics stay the same.

    The modules are changed in place; copies of them made later would run the original's.

    Raises:
        UserError: the backbone has nothing that could be computed again.
    """
    found = backbone.recomputed()
    if not found:
        name = type(backbone).__name__
        raise UserError(f"checkpoint_backbone=true: {name} has no blocks that could be computed again; leave it out.")
    for module, name in found:
        # Replaced on the instance, not wrapped: parameters keep their names, and checkpoints fit either way.
        setattr(module, name, partial(_recomputed, module, getattr(module, name)))


def _recomputed(module: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    # The reentrant form knows no context_fn, and gives no gradients to a stage whose only input, the images, needs
    # none.
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, module))


def _contexts(module: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    # For the forward pass, and for its repetition in the backward pass.
    return nullcontext(), _statistics_kept(module)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch norm as they are: they have taken in the batch already."""
    norms = [m for m in module.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # Momentum 0 gives the batch no weight, and without a counter it is not counted.
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
