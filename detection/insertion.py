"""A context for a detector that is trained already, as a no-op at first."""

from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from detection.contracts import require_feature_maps
from detection.detector import Detector
from detection.errors import UserError
from detection.pooling import RoIAlign, SkipPool, Source


def add_context(
    detector: Detector, context: partial, source: str, *, norm: Literal["channels", "region"] | None = "channels"
) -> Detector:
    """Put a context on a detector, so that it detects bit by bit what it did until it is trained further.

    The context's map becomes one more source of the pool, whose 1×1 convolution starts as the identity on the
    descriptors that the head knows and as 0 on the context: its weights learn from the first step on, the context
    itself from the second.

    Args:
        detector: changed in place; with weights of ours or of torchvision.
        context: a partial of a class of `detection.context`.
        source: the map that it reads, such as `p4` of a pyramid or `c4`.
        norm: of the context's descriptors, see `detection.pooling.Source`.

    Returns:
        The detector.

    Raises:
        UserError: it has a context already, there is no such map, or its pool is neither `RoIAlign` nor `SkipPool`.
    """
    if detector.context is not None:
        raise UserError("add_context: the detector has a context already.")
    channels, strides = dict(detector.backbone.out_channels), dict(detector.backbone.strides)
    require_feature_maps("add_context source", (source,), channels)
    part: nn.Module = context(channels[source])
    channels["context"], strides["context"] = part.out_channels, strides[source]  # type: ignore[assignment]
    like = next(detector.parameters())
    pool = _with_context(detector.pool, channels, strides, norm)
    detector.context, detector.context_source = part.to(like.device, like.dtype), source
    detector.pool = pool.to(like.device, like.dtype)
    detector.train(detector.training)
    return detector


def _with_context(
    pool: nn.Module, channels: dict[str, int], strides: dict[str, int], norm: Literal["channels", "region"] | None
) -> SkipPool:
    context = Source(("context",), norm=norm)
    if isinstance(pool, RoIAlign):
        return SkipPool(channels, strides, sources=(Source(pool.stages), context), init="identity", **_settings(pool))
    if not isinstance(pool, SkipPool):
        raise UserError(f"add_context: the pool is a {type(pool).__name__}; it must be RoIAlign or SkipPool.")
    settings = _settings(pool.parts[0].align)  # type: ignore[arg-type]
    new = SkipPool(channels, strides, sources=(*pool.sources, context), out_channels=pool.out_channels, **settings)
    new.load_state_dict(pool.state_dict() | {"reduce.weight": _widened(pool, new)}, strict=False)
    return new


def _widened(pool: SkipPool, new: SkipPool) -> torch.Tensor:
    """The old convolution, and 0 for the new source."""
    weight = pool.reduce.weight.detach()
    extra = new.reduce.in_channels - pool.reduce.in_channels
    return torch.cat([weight, weight.new_zeros(len(weight), extra, 1, 1)], dim=1)


def _settings(pool: RoIAlign) -> dict[str, Any]:
    align = pool.align
    return {
        "output_size": pool.output_size,
        "sampling_ratio": align.sampling_ratio,
        "canonical_scale": align.canonical_scale,
        "canonical_level": align.canonical_level,
    }
