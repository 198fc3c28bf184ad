"""Faster R-CNN's box deltas: torchvision's `BoxCoder` to the bit, for any leading dimensions.

torchvision's copies its constants to the device in every call, for which a GPU waits each time, and its encoder splits
boxes by images.

Deltas (…, 4) are the shift of the center in sides of the box, and the logarithms of the sides' ratios, each times its
factor (Girshick et al. 2014).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

from detection.ops.ragged import to_device


def encode_deltas(coder: BoxCoder, targets: Tensor, boxes: Tensor) -> Tensor:
    """Return the deltas (…, 4) that turn boxes (…, 4) xyxy into targets (…, 4) xyxy; both have areas."""
    x, y, width, height = _centers_and_sides(boxes)
    target_x, target_y, target_width, target_height = _centers_and_sides(targets)
    dx, dy, dw, dh = coder.weights
    found = [
        dx * (target_x - x) / width,
        dy * (target_y - y) / height,
        dw * (target_width / width).log(),
        dh * (target_height / height).log(),
    ]
    return torch.stack(found, -1)


def decode_deltas(coder: BoxCoder, deltas: Tensor, boxes: Tensor) -> Tensor:
    """Return boxes (…, 4) xyxy by deltas (…, 4) of boxes (…, 4); sides grow at most exp(`bbox_xform_clip`)-fold."""
    x, y, width, height = _centers_and_sides(boxes.to(deltas.dtype))
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.unbind(-1), coder.weights, strict=True))
    x, y = dx * width + x, dy * height + y
    # An untrained prediction may be of any size: without the bound its exponential would soon be infinite.
    half_width = 0.5 * (dw.clamp(max=coder.bbox_xform_clip).exp() * width)
    half_height = 0.5 * (dh.clamp(max=coder.bbox_xform_clip).exp() * height)
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)


def clip_boxes(boxes: Tensor, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Return boxes (B, N, 4) clipped to their image of (height, width)."""
    return boxes.clamp(min=0).minimum(_limits(image_sizes, boxes)[:, None])


def clip_rows(boxes: Tensor, images: Tensor, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Return boxes (R, 4) on images (R,) clipped to their image of (height, width)."""
    return boxes.clamp(min=0).minimum(_limits(image_sizes, boxes)[images])


def _limits(image_sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """Return width, height, width and height (B, 4) of images."""
    sides = np.array(image_sizes, dtype=np.float32).reshape(-1, 2)[:, [1, 0, 1, 0]]  # (B, 4), also of no images
    return to_device(sides, like.device).to(like.dtype)


def _centers_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height
