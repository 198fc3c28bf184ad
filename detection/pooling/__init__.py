"""Pools: feature maps and boxes → descriptors (R, C, h, w), R the boxes of all images in order."""

from detection.pooling.center_cell import CenterCell
from detection.pooling.roi_align import RoIAlign
from detection.pooling.skip_pool import SkipPool, Source

__all__ = ["CenterCell", "RoIAlign", "SkipPool", "Source"]
