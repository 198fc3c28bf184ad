"""Stages and modules that stay as they are for some epochs: no gradients, and no new batch statistics."""

import difflib
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from detection.errors import UserError


def freezable(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Return what can be frozen by name: the backbone's stages, and modules by their path (`backbone`, `head` …)."""
    backbone: Any = model.backbone
    return {**{name: [module] for name, module in model.named_modules() if name}, **backbone.stages()}


def freeze(model: nn.Module, frozen: Mapping[str, int | None], epoch: int) -> tuple[str, ...]:
    """Freeze what is to be frozen in an epoch, let go of the rest, and put the model in training mode.

    Parameters that had no gradients before the first call, which a part's author has fixed, stay so.

    Args:
        model: a detector or a classifier; changed in place.
        frozen: name → the epoch (from 0) at which it is let go; None for never.
        epoch: the epoch that begins.

    Returns:
        The names that are frozen now.

    Raises:
        UserError: no such stage or module (names the nearest), or no parameter is left to train.
    """
    known = freezable(model)
    for name in frozen:
        if name not in known:
            names = sorted(n for n in known if n.count(".") < 2)
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}."
            raise UserError(f"freeze.{name}: the detector has no such stage or module; {hint}")
    now = tuple(name for name, until in frozen.items() if until is None or epoch < until)
    # Everything first, because what was frozen in the epoch before may be trained in this one.
    model.train()
    fixed = _fixed(model)
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) not in fixed)
    for name in now:
        for module in known[name]:
            module.eval()
            module.requires_grad_(False)
    if now and not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"freeze: no parameter is trained in epoch {epoch + 1}; leave out one of {', '.join(now)}.")
    return now


_FIXED: WeakKeyDictionary[nn.Module, frozenset[int]] = WeakKeyDictionary()


def _fixed(model: nn.Module) -> frozenset[int]:
    """Return the identities of the parameters that a model had without gradients when this was first asked of it."""
    # Not their names: wrappers around stages change those.
    if model not in _FIXED:
        _FIXED[model] = frozenset(id(parameter) for parameter in model.parameters() if not parameter.requires_grad)
    return _FIXED[model]
