"""Regions: feature maps → per image boxes (N, 4) xyxy in input pixels, and losses in training."""

from detection.regions.grid_cells import GridCells
from detection.regions.rpn import RPN

__all__ = ["GridCells", "RPN"]
