"""The pools in an ONNX trace: descriptors of as many boxes of every image, on a batch of any size."""

# B images, N boxes of one, R = B·N of all, C channels, O of a descriptor, n bins on its side.

from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torchvision.ops import roi_align

from detection.contracts import Features, PooledRegions
from detection.errors import UserError
from detection.export.boxes import clip
from detection.pooling import CenterCell, RoIAlign, SkipPool
from detection.pooling.skip_pool import _NormalizedSource


@dataclass(frozen=True)
class Regions:
    """Boxes that are pooled.

    Attributes:
        boxes: (B, N, 4) xyxy in pixels of the batch.
        sizes: (B, 2) int64, height and width of each image inside the batch.
    """

    boxes: Tensor
    sizes: Tensor

    def images(self) -> Tensor:
        """Return the image (R,) of each box."""
        return torch.arange(self.boxes.shape[0])[:, None].expand(-1, self.boxes.shape[1]).flatten()

    def rois(self) -> Tensor:
        """Return the image and the corners (R, 5) of each box."""
        return torch.cat([self.images().to(self.boxes.dtype)[:, None], self.boxes.flatten(0, 1)], 1)


class TracedRegions(PooledRegions):
    """The regions of a batch, as a head reads them, whose own pools are those of this module."""

    def __init__(self, descriptors: Tensor, regions: Regions, features: Features) -> None:
        super().__init__(descriptors, [regions.boxes.flatten(0, 1)], [], features)
        object.__setattr__(self, "regions", regions)

    def pooled_by(self, pool: nn.Module, boxes: list[Tensor] | None = None) -> Tensor:
        """Return the descriptors (R, C, h, w) of the same boxes by a head's own pool."""
        assert boxes is None
        return pooled(pool, self.features, self.regions)  # type: ignore[attr-defined]


@singledispatch
def pooled(pool: nn.Module, features: Features, regions: Regions) -> Tensor:
    """Return the descriptors (R, O, n, n) of regions.

    Raises:
        UserError: a pool that is none of the package's.
    """
    raise UserError(f"{type(pool).__name__}: only RoIAlign, SkipPool and CenterCell can be exported as a pool.")


@pooled.register
def _(pool: RoIAlign, features: Features, regions: Regions) -> Tensor:
    rois, size, ratio = regions.rois(), pool.align.output_size, pool.align.sampling_ratio
    maps = [features[stage] for stage in pool.stages]
    if len(maps) == 1:
        return roi_align(maps[0], rois, size, pool.scales[0], ratio)
    levels = pool.map_levels([rois[:, 1:]])  # type: ignore[operator]
    rows = [torch.where(levels == level)[0] for level in range(len(maps))]
    found = [roi_align(m, rois[own], size, scale, ratio) for m, own, scale in zip(maps, rows, pool.scales, strict=True)]
    order = torch.cat(rows)
    place = torch.zeros_like(order).scatter(0, order, torch.arange(order.shape[0]))
    return torch.cat(found)[place]


@pooled.register
def _(pool: SkipPool, features: Features, regions: Regions) -> Tensor:
    weights = pool.reduce.weight.split(pool.channels, dim=1)
    joined = pool.reduce.bias[:, None, None]  # type: ignore[index]
    for part, weight in zip(pool.parts, weights, strict=True):
        scaled = Regions(_scaled(regions, part.box_scale), regions.sizes)  # type: ignore[arg-type]
        own = pooled(part.align, features, scaled)  # type: ignore[arg-type]
        if isinstance(part, _NormalizedSource):
            mean = own.square().mean(part.dims, keepdim=True)
            own = own * part.amplitude[:, None, None] / mean.sqrt().clamp_min(part.FLOOR)
        joined = joined + conv2d(own, weight)
    return joined


@pooled.register
def _(pool: CenterCell, features: Features, regions: Regions) -> Tensor:
    cells = features[pool.stage]
    height, width = cells.shape[-2:]
    corners = regions.boxes.flatten(0, 1)
    column, row = ((corners[:, :2] + corners[:, 2:]) / (2 * pool.stride)).floor().long().unbind(1)
    column, row = column.clamp(min=0).minimum(_scalar(width - 1)), row.clamp(min=0).minimum(_scalar(height - 1))
    place = (regions.images() * height + row) * width + column
    return cells.permute(0, 2, 3, 1).flatten(0, 2)[place][..., None, None]  # (R, C, 1, 1)


def _scalar(value: int | Tensor) -> Tensor:
    """Return a size, which is a tensor in a trace and else a number."""
    return torch.as_tensor(value, dtype=torch.int64)


def _scaled(regions: Regions, scale: float) -> Tensor:
    """Return the boxes (B, N, 4) scaled about their centers, then clipped to their image; at 1 as they are."""
    if scale == 1:
        return regions.boxes
    low, high = regions.boxes[..., :2], regions.boxes[..., 2:]
    centers, sides = (low + high) / 2, high - low
    return clip(torch.cat([centers - sides * scale / 2, centers + sides * scale / 2], -1), regions.sizes)
