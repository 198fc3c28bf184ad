"""Insertion of a context: into settings, for the classes to read, and into a trained detector, as a no-op at first."""

import dataclasses
from functools import partial
from typing import Any, cast

import torch

from detection.config import DetectorConfig, Part, from_plain, to_plain
from detection.contracts import Context, Pool, require_feature_maps
from detection.detector import Detector
from detection.errors import UserError
from detection.heads import FastRCNN, LocalGlobal
from detection.pooling import RoIAlign, SkipPool, Source
from detection.pooling.skip_pool import SourceNorm
from detection.ranges import Bins


def with_context(
    detector: DetectorConfig, context: partial[Context], source: str, *, output_size: Bins = 3
) -> DetectorConfig:
    """Return settings of a detector whose classes are also read from a context; regions and boxes are as before.

    The head becomes a `LocalGlobal`: a second pool and two fully connected layers as wide as the head's read the
    context alone, and the class scores read these next to the head's own. docs/results/joining.md compares this with
    one pool for both.

    Args:
        detector: without a context, and with a `FastRCNN` head.
        context: a partial of a class of `detection.context`.
        source: the feature map that it reads, such as `p3` of a pyramid or `c4`.
        output_size: bins on a side of the context's descriptors.

    Raises:
        UserError: it has a context already, or another head.
    """
    if not isinstance(detector, DetectorConfig):
        name = type(detector).__name__
        raise UserError(f"with_context: needs a DetectorConfig, such as config.detector, not a {name}.")
    detector = from_plain(detector, DetectorConfig, "detector")  # a class becomes a partial of it
    if detector.context is not None:
        raise UserError("with_context: the detector has a context already.")
    if detector.head.func is not FastRCNN:
        name = getattr(detector.head.func, "__name__", detector.head.func)
        raise UserError(f"with_context: the head is a {name}; it must be FastRCNN.")
    sources = (Source(("context",), norm="channels"),)
    pool: partial[Pool] = partial(SkipPool, sources=sources, output_size=output_size)
    width = to_plain(detector.head)["hidden_channels"]
    fast_rcnn = cast("partial[FastRCNN]", detector.head)
    head = partial(LocalGlobal, fast_rcnn=fast_rcnn, global_pool=pool, global_channels=width)
    return dataclasses.replace(detector, context=context, context_source=source, head=head)


def add_context(
    detector: Detector, context: partial[Context], source: str, *, norm: SourceNorm | None = "channels"
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
        UserError: it is no `Detector` of ours or has a context already, there is no such map, the context's settings do
            not fit it, or its pool is neither `RoIAlign` nor `SkipPool`.
    """
    if not isinstance(detector, Detector):
        raise UserError(
            f"add_context: needs a detection.Detector, not a {type(detector).__module__}.{type(detector).__name__}; "
            "build ours with torchvision's weights: `detector.weights` of a config may be their name."
        )
    if detector.context is not None:
        raise UserError("add_context: the detector has a context already.")
    context = from_plain(context, cast("Any", Part[Context]), "add_context context")
    norm = from_plain(norm, cast("Any", SourceNorm | None), "add_context norm")
    channels, strides = dict(detector.backbone.out_channels), dict(detector.backbone.strides)
    require_feature_maps("add_context source", (source,), channels)
    part = context(channels[source])
    channels["context"], strides["context"] = part.out_channels, strides[source]
    like = next(detector.parameters())
    pool = _with_context(detector.pool, channels, strides, norm)
    detector.context, detector.context_source = part.to(like.device, like.dtype), source
    detector.pool = pool.to(like.device, like.dtype)
    # A new module is in training mode; the detector's mode is given to it.
    detector.train(detector.training)
    return detector


def _with_context(pool: Pool, channels: dict[str, int], strides: dict[str, int], norm: SourceNorm | None) -> SkipPool:
    """Return a pool with the context for one more source, which at first gives the descriptors of the old pool."""
    context = Source(("context",), norm=norm)
    if isinstance(pool, RoIAlign):
        return SkipPool(channels, strides, sources=(Source(pool.stages), context), init="identity", **_settings(pool))
    if not isinstance(pool, SkipPool):
        raise UserError(f"add_context: the pool is a {type(pool).__name__}; it must be RoIAlign or SkipPool.")
    amplitude = pool.initial_amplitude
    if isinstance(amplitude, tuple) and norm is not None:
        amplitude = (*amplitude, 1.0)  # one for each source with a norm
    new = SkipPool(
        channels,
        strides,
        sources=(*pool.sources, context),
        out_channels=pool.out_channels,
        amplitude=amplitude,
        learned_amplitude=pool.learned_amplitude,
        reference=pool.reference,
        **pool.align_settings,
    )
    # Not strict: the amplitude of the new source keeps its initial value.
    new.load_state_dict(pool.state_dict() | {"reduce.weight": _widened(pool, new)}, strict=False)
    return new


def _widened(pool: SkipPool, new: SkipPool) -> torch.Tensor:
    """Return the weights (out, in, 1, 1) of the old convolution, and 0 for the channels of the new source."""
    weight = pool.reduce.weight.detach()
    extra = new.reduce.in_channels - pool.reduce.in_channels
    return torch.cat([weight, weight.new_zeros(len(weight), extra, 1, 1)], dim=1)


def _settings(pool: RoIAlign) -> dict[str, Any]:
    """Return the settings of a `RoIAlign` that a `SkipPool` shares with it."""
    align = pool.align
    return {
        "output_size": pool.output_size,
        "sampling_ratio": align.sampling_ratio,
        "canonical_scale": align.canonical_scale,
        "canonical_level": align.canonical_level,
    }
