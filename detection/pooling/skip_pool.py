"""Skip pooling: RoIAlign over several sources (Bell et al. 2016, ION; Li et al. 2017, AC-CNN)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from detection.contracts import Features, Pool
from detection.errors import UserError
from detection.ops.box_deltas import clip_rows
from detection.ops.ragged import image_indices
from detection.pooling.roi_align import RoIAlign, require_levels
from detection.ranges import Bins, Channels, Level, Pixels, Positive, SamplingRatio

# B images, C channels of a source, O of a descriptor, N boxes of one image, R of all, n = h = w bins on a side.

SourceNorm = Literal["channels", "region"]


@dataclass(frozen=True)
class Source:
    """One source of a descriptor: what is pooled for it, inside of which boxes, with which norm.

    Attributes:
        feature_maps: one feature map, or the levels of a pyramid, finest first.
        box_scale: boxes are scaled about their center by this and clipped to their image; at 1 they stay as they are.
        norm: L2 norm over the `channels` of each bin, or over the complete pooled `region`; None: as it is.
    """

    feature_maps: tuple[str, ...]
    box_scale: Positive = 1.0
    norm: SourceNorm | None = None


class SkipPool(Pool):
    """Skip pooling: sources pooled by `RoIAlign`, normalized and scaled, joined by a 1×1 convolution.

    ION pools VGG's conv3_3, conv4_3, conv5_3 (`c2`, `c3`, `c4` here) and the context, with a norm each; AC-CNN's local
    branch is conv5_3 (`c4`) at 0.8, 1.2 and 1.8 times the box; a pyramid with a context is two sources.

    A normalized source is ParseNet's layer (Liu et al. 2015), x / ‖x‖ · s with one s a channel, written as RMSNorm:
    s = amplitude · √C, or amplitude · √(C·n·n) where the norm is over the region. At an amplitude of 1, the default,
    its values have the root mean square that randomly initialized layers behind them expect, whatever C and norm.
    Before layers that were trained on other descriptors the amplitude should be theirs. ION's s of 1000 (recalled)
    over 512 channels is an amplitude of 44.

    Args:
        in_channels: channels of each feature map by name.
        strides: pixels a location of each stands for, by name.
        sources: what is joined, in order.
        out_channels: of a descriptor; None for the first source's.
        output_size: bins on a side of a descriptor.
        sampling_ratio: samples on a side of each bin; 0 adapts to the box.
        amplitude: initial root mean square of the normalized sources; one for all, or one for each.
        learned_amplitude: whether it is then learned, channel by channel.
        reference: feature maps, as in a `Source`, whose descriptors' root mean square is measured on training images
            and takes the place of `amplitude` before training starts (`detection.training.amplitudes`); None for none.
        init: of the convolution: Xavier's, or `identity` on the first source and 0 on the others, which gives bit by
            bit the descriptors of the first source alone.
        canonical_scale, canonical_level: as in `RoIAlign`.

    Raises:
        UserError: no source; feature maps that do not exist or are no levels as `RoIAlign` takes them; an unknown norm;
            amplitudes that are neither one number nor one for each source with a norm; or `init=identity` with a first
            source that has a norm or other channels than a descriptor.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        strides: Mapping[str, int],
        *,
        sources: tuple[Source, ...],
        out_channels: Channels | None = None,
        output_size: Bins = 7,
        sampling_ratio: SamplingRatio = 2,
        amplitude: Positive | tuple[Positive, ...] = 1.0,
        learned_amplitude: bool = True,
        reference: tuple[str, ...] | None = None,
        init: Literal["xavier", "identity"] = "xavier",
        canonical_scale: Pixels = 224,
        canonical_level: Level = 4,
    ) -> None:
        super().__init__()
        if not sources:
            raise UserError("pool.sources=(): give at least one Source.")
        for i, source in enumerate(sources):
            require_levels(f"pool.sources[{i}].feature_maps", source.feature_maps, in_channels)
            if source.norm not in (None, *get_args(SourceNorm)):
                raise UserError(f"pool.sources[{i}].norm={source.norm!r}: must be 'channels', 'region' or None.")
        if reference is not None:
            require_levels("pool.reference", reference, in_channels)
        self.sources, self.reference, self.output_size = sources, reference, output_size
        self.initial_amplitude, self.learned_amplitude = amplitude, learned_amplitude
        self.channels = [in_channels[source.feature_maps[0]] for source in sources]
        self.out_channels = self.channels[0] if out_channels is None else out_channels
        amplitudes = iter(_amplitudes(amplitude, sum(source.norm is not None for source in sources)))
        self.parts = nn.ModuleList()
        self.align_settings: dict[str, Any] = {
            "output_size": output_size,
            "sampling_ratio": sampling_ratio,
            "canonical_scale": canonical_scale,
            "canonical_level": canonical_level,
        }
        for source, channels in zip(sources, self.channels, strict=True):
            align = RoIAlign(in_channels, strides, stages=source.feature_maps, **self.align_settings)
            if source.norm is None:
                self.parts.append(_PooledSource(align, source.box_scale))
            else:
                scale = torch.full((channels,), next(amplitudes))
                self.parts.append(_NormalizedSource(align, source.box_scale, source.norm, scale, learned_amplitude))
        self.reduce = nn.Conv2d(sum(self.channels), self.out_channels, 1)
        nn.init.zeros_(self.reduce.bias)  # type: ignore[arg-type]
        if init == "identity":
            self._start_as_identity()
        else:
            nn.init.xavier_uniform_(self.reduce.weight)

    def _start_as_identity(self) -> None:
        norm, channels = self.sources[0].norm, self.channels[0]
        if norm is not None or self.out_channels != channels:  # no weights would be the identity
            raise UserError(
                f"pool.init=identity: pool.sources[0] has {channels} channels and norm={norm}, but must have the "
                f"{self.out_channels} channels of a descriptor (pool.out_channels) and no norm."
            )
        nn.init.zeros_(self.reduce.weight)
        nn.init.eye_(self.reduce.weight[:, :channels, 0, 0])

    def set_amplitude(self, amplitude: float) -> None:
        """Give all channels of the normalized sources this root mean square."""
        for part in self.parts:
            if isinstance(part, _NormalizedSource):
                nn.init.constant_(part.amplitude, amplitude)

    def forward(self, features: Features, boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> Tensor:
        """Return the descriptors (R, O, n, n) of the boxes (N, 4) xyxy of each image."""
        # A 1×1 convolution of joined channels is the sum of one for each source.
        weights = self.reduce.weight.split(self.channels, dim=1)  # (O, C, 1, 1) each
        shares = (part(features, boxes, image_sizes, weight) for part, weight in zip(self.parts, weights, strict=True))
        joined = next(shares) + self.reduce.bias[:, None, None]  # type: ignore[index]
        for share in shares:
            joined += share
        return _transposes_gradient_once(joined)


def _transposes_gradient_once(joined: Tensor) -> Tensor:
    """Return the descriptors, whose gradient every source's RoIAlign reads with channels last on a CPU."""
    compiling = torch.compiler.is_compiling()  # pyright: ignore[reportPrivateImportUsage]
    if joined.requires_grad and joined.device.type == "cpu" and not compiling:
        joined.register_hook(lambda grad: None if grad is None else grad.contiguous(memory_format=torch.channels_last))
    return joined


class _PooledSource(nn.Module):
    """One source's share (R, O, n, n) of the descriptors, `weight` (O, C, 1, 1) being its slice of the convolution.

    The convolution commutes with pooling, and with the division by a norm: it is applied where it has fewer locations.
    """

    def __init__(self, align: RoIAlign, box_scale: float) -> None:
        super().__init__()
        self.align = align
        self.box_scale = box_scale

    def forward(
        self, features: Features, boxes: list[Tensor], image_sizes: list[tuple[int, int]], weight: Tensor
    ) -> Tensor:
        if self.box_scale != 1:
            boxes = scale_boxes(boxes, self.box_scale, image_sizes)
        return self.pool({name: features[name] for name in self.align.stages}, boxes, image_sizes, weight)

    def pool(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_sizes: list[tuple[int, int]], weight: Tensor
    ) -> Tensor:
        if self._convolves_maps(features, boxes):
            return self.align({name: conv2d(m, weight) for name, m in features.items()}, boxes, image_sizes)
        return conv2d(self.align(features, boxes, image_sizes), weight)

    def _convolves_maps(self, features: dict[str, Tensor], boxes: list[Tensor]) -> bool:
        # A trace or an export must not depend on how many boxes its example has.
        if torch.jit.is_tracing() or torch.compiler.is_compiling():  # pyright: ignore[reportPrivateImportUsage]
            return True
        locations = sum(len(m) * m.shape[-2] * m.shape[-1] for m in features.values())
        return locations < sum(map(len, boxes)) * self.align.output_size**2


class _NormalizedSource(_PooledSource):
    """A source divided by its root mean square and multiplied by `amplitude` (C,), all in float32."""

    # Of the root mean square: else the gradient of a bin of zeros, such as a dead ReLU leaves, would have no bound.
    FLOOR = 1e-3

    def __init__(self, align: RoIAlign, box_scale: float, over: SourceNorm, amplitude: Tensor, learned: bool) -> None:
        super().__init__(align, box_scale)
        self.dims = (1,) if over == "channels" else (1, 2, 3)
        if learned:
            self.amplitude = nn.Parameter(amplitude)
        else:
            self.register_buffer("amplitude", amplitude)

    def pool(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_sizes: list[tuple[int, int]], weight: Tensor
    ) -> Tensor:
        weight = weight * self.amplitude[:, None, None]
        with torch.autocast(weight.device.type, enabled=False):
            features = {name: m.to(weight.dtype) for name, m in features.items()}
            # The norm is that of the pooled source, whichever side of the pooling the convolution is on.
            pooled = self.align(features, boxes, image_sizes)  # (R, C, n, n)
            if self._convolves_maps(features, boxes):
                reduced = self.align({name: conv2d(m, weight) for name, m in features.items()}, boxes, image_sizes)
            else:
                reduced = conv2d(pooled, weight)
            norm = torch.linalg.vector_norm(pooled, dim=self.dims, keepdim=True)  # (R, 1, n, n) or (R, 1, 1, 1)
            count = math.prod(pooled.shape[d] for d in self.dims)
            return reduced * (norm / math.sqrt(count)).clamp_min(self.FLOOR).reciprocal()


def scale_boxes(boxes: list[Tensor], scale: float, image_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return boxes (N, 4) xyxy of each image scaled about their centers, then clipped to it, of (height, width)."""
    corners, counts = torch.cat(boxes), [b.shape[0] for b in boxes]
    centers, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    scaled = torch.cat([centers - sides * scale / 2, centers + sides * scale / 2], 1)
    return list(clip_rows(scaled, image_indices(counts, scaled.device), image_sizes).split(counts))


def _amplitudes(amplitude: float | tuple[float, ...], normalized: int) -> tuple[float, ...]:
    """Return the initial amplitude of each normalized source.

    Raises:
        UserError: there are others than one number, or one for each.
    """
    amplitudes = amplitude if isinstance(amplitude, tuple) else (amplitude,) * normalized
    if len(amplitudes) != normalized:
        raise UserError(
            f"pool.amplitude={amplitude}: needs one number, or one for each of the {normalized} sources with a norm."
        )
    return tuple(float(a) for a in amplitudes)
