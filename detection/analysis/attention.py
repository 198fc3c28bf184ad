"""Where a context with attention looks (`AttentionLSTM.glimpses`): its weights over the pixels of pictures, drawn."""

# T glimpses, H×W pixels of a picture.

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import convert_image_dtype

from detection.analysis.visualize import contact_sheet
from detection.detector import Detector, valid_mask
from detection.errors import UserError

_LIGHT = np.array([255, 190, 0])
"""Colour of what is looked at, over the picture in dark grey."""


def require_glimpses(detector: Detector) -> None:
    """Check that a detector's context has glimpses.

    Raises:
        UserError: it has none.
    """
    if not hasattr(detector.context, "glimpses"):
        kind = "no context" if detector.context is None else f"a {type(detector.context).__name__} for context"
        raise UserError(
            f"--attention: the run has {kind}, which has no glimpses to draw; leave it out, or train with "
            "detector.context=detection.context.AttentionLSTM."
        )


@torch.no_grad()
def glimpses(detector: Detector, images: Sequence[Tensor]) -> list[Tensor]:
    """How much each glimpse looks at each pixel.

    Args:
        detector: in evaluation mode, with an attention context.
        images: (3, H, W) each, of any sizes; uint8, or float in [0, 1].

    Returns:
        Per image (T, H, W) float32 on the CPU: shares that add up to 1 in each glimpse; the pixels of a cell have equal
        ones.
    """
    batch, _ = detector.transform([convert_image_dtype(image) for image in images])
    source = detector.backbone(batch.tensors)[detector.context_source]
    stride = detector.backbone.strides[detector.context_source]
    weights = detector.context.glimpses(source, valid_mask(batch.image_sizes, stride, source))  # type: ignore[union-attr]
    found = []
    for own, image, (height, width) in zip(weights.float().cpu(), images, batch.image_sizes, strict=True):
        pixels = own.repeat_interleave(stride, 1).repeat_interleave(stride, 2)[:, :height, :width]
        pixels = interpolate(pixels[None], size=image.shape[-2:], mode="nearest-exact")[0]
        found.append(pixels / pixels.sum((1, 2), keepdim=True))
    return found


def draw_glimpses(image: np.ndarray, weights: np.ndarray, min_side: int = 192) -> np.ndarray:
    """The picture beside itself once a glimpse, in grey and lit where it looks.

    Args:
        image: (H, W, 3) uint8 RGB.
        weights: (T, H, W), see `glimpses`; each glimpse's largest is lit fully.
        min_side: a picture whose shorter side is below this many pixels is enlarged by a whole factor.

    Returns:
        One (H', W', 3) uint8 picture with titles.
    """
    factor = max(1, -(-min_side // min(image.shape[:2])))
    grey = 0.6 * image.mean(2, keepdims=True)
    light = 0.8 * (weights / weights.max((1, 2), keepdims=True))[..., None]
    drawn = [image, *((grey + (_LIGHT - grey) * alpha).round().astype(np.uint8) for alpha in light)]
    titles = ["picture", *(f"glimpse {t}" for t in range(1, len(weights) + 1))]
    return contact_sheet([d.repeat(factor, 0).repeat(factor, 1) for d in drawn], columns=len(drawn), titles=titles)


def write_glimpses(path: Path, image: Tensor, weights: Tensor) -> None:
    """Write `draw_glimpses` of an image (3, H, W) uint8 as a PNG file."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(draw_glimpses(pixels, weights.numpy())).save(path, compress_level=3)
