"""Box coders: boxes as the codes that a decoder learns, relative to their region; the units of the box loss."""

# R regions, N boxes of each.

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder as DeltaCoder
from torchvision.ops import box_convert

from detection.ops.box_deltas import decode_deltas, encode_deltas
from detection.ranges import Positive


class BoxCoder(ABC):
    """Boxes to codes and back.

    Attributes:
        scale: codes that a decoder's 1 stands for.
    """

    scale: float

    @abstractmethod
    def decode(self, codes: Tensor, regions: Tensor) -> Tensor:
        """Return boxes (R, N, 4) xyxy from codes (R, N, 4) of regions (R, 4) xyxy."""

    @abstractmethod
    def encode(self, boxes: Tensor, regions: Tensor) -> Tensor:
        """Return codes (R, N, 4) of boxes (R, N, 4) xyxy with regions (R, 4) xyxy."""


@dataclass(frozen=True)
class PixelOffsets(BoxCoder):
    """(cx, cy, w, h) in pixels: the center from the region's, width and height as they are (Stewart et al. 2016).

    Attributes:
        scale: pixels that a decoder's 1 stands for.
    """

    scale: Positive = 100.0

    def decode(self, codes: Tensor, regions: Tensor) -> Tensor:
        """Return boxes (R, N, 4) xyxy from codes (R, N, 4) of regions (R, 4) xyxy; negative sides become 0."""
        x, y, w, h = codes.unbind(-1)
        center_x, center_y, _, _ = _centers_and_sides(regions[:, None])
        found = torch.stack([x + center_x, y + center_y, w.clamp(min=0), h.clamp(min=0)], -1)
        return box_convert(found, "cxcywh", "xyxy")

    def encode(self, boxes: Tensor, regions: Tensor) -> Tensor:
        """Return codes (R, N, 4) of boxes (R, N, 4) xyxy with regions (R, 4) xyxy."""
        x, y, w, h = _centers_and_sides(boxes)
        center_x, center_y, _, _ = _centers_and_sides(regions[:, None])
        return torch.stack([x - center_x, y - center_y, w, h], -1)


@dataclass(frozen=True)
class Deltas(BoxCoder):
    """Faster R-CNN's: centers in sides of the region, logarithms of the sides' ratios (Girshick et al. 2014).

    Attributes:
        factors: of x, y, w and h.
        scale: codes that a decoder's 1 stands for.
    """

    factors: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    scale: Positive = 1.0

    def decode(self, codes: Tensor, regions: Tensor) -> Tensor:
        """Return boxes (R, N, 4) xyxy from codes (R, N, 4), at most 62.5 times as wide or high as regions (R, 4)."""
        return decode_deltas(DeltaCoder(self.factors), codes, regions[:, None])

    def encode(self, boxes: Tensor, regions: Tensor) -> Tensor:
        """Return codes (R, N, 4) of boxes (R, N, 4) xyxy with sides above 0, with regions (R, 4) xyxy."""
        return encode_deltas(DeltaCoder(self.factors), boxes, regions[:, None])


def _centers_and_sides(boxes: Tensor) -> tuple[Tensor, ...]:
    return box_convert(boxes, "xyxy", "cxcywh").unbind(-1)
