"""Attention of a context (`AttentionLSTM.attention_weights`) over the pixels of images, and drawings of it."""

# T attention steps, H×W pixels of an image.

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
"""Color of full attention, over the image in dark gray."""


def require_attention(detector: Detector) -> None:
    """Check that a detector's context has attention weights.

    Raises:
        UserError: it has none.
    """
    if not hasattr(detector.context, "attention_weights"):
        kind = "no context" if detector.context is None else f"a {type(detector.context).__name__} for context"
        raise UserError(
            f"--attention: the run has {kind}, which has no attention to draw; leave it out, or train with "
            "detector.context=detection.context.AttentionLSTM."
        )


@torch.no_grad()
def attention_over_pixels(detector: Detector, images: Sequence[Tensor]) -> list[Tensor]:
    """Compute the attention of each step to each pixel.

    Args:
        detector: in evaluation mode, with an attention context.
        images: (3, H, W) each, of any sizes; uint8, or float in [0, 1].

    Returns:
        Per image (T, H, W) float32 on the CPU, with a sum of 1 in each step; pixels of one location have equal weights.
    """
    batch, _ = detector.transform([convert_image_dtype(image) for image in images])
    source = detector.backbone(batch.tensors)[detector.context_source]
    stride = detector.backbone.strides[detector.context_source]
    weights = detector.context.attention_weights(source, valid_mask(batch.image_sizes, stride, source))  # type: ignore[union-attr]
    found = []
    for own, image, (height, width) in zip(weights.float().cpu(), images, batch.image_sizes, strict=True):
        pixels = own.repeat_interleave(stride, 1).repeat_interleave(stride, 2)[:, :height, :width]
        pixels = interpolate(pixels[None], size=image.shape[-2:], mode="nearest-exact")[0]
        found.append(pixels / pixels.sum((1, 2), keepdim=True))
    return found


def draw_attention(image: np.ndarray, weights: np.ndarray, min_side: int = 192) -> np.ndarray:
    """Draw the image, and next to it once for each step in gray, highlighted by attention.

    Args:
        image: (H, W, 3) uint8 RGB.
        weights: (T, H, W), of `attention_over_pixels`; the largest of each step is highlighted fully.
        min_side: an image whose shorter side is below this many pixels is enlarged by an integer factor.

    Returns:
        One (H', W', 3) uint8 image with titles.
    """
    factor = max(1, -(-min_side // min(image.shape[:2])))
    gray = 0.6 * image.mean(2, keepdims=True)
    light = 0.8 * (weights / weights.max((1, 2), keepdims=True))[..., None]
    drawn = [image, *((gray + (_LIGHT - gray) * alpha).round().astype(np.uint8) for alpha in light)]
    titles = ["image", *(f"attention step {t}" for t in range(1, len(weights) + 1))]
    return contact_sheet([d.repeat(factor, 0).repeat(factor, 1) for d in drawn], columns=len(drawn), titles=titles)


def write_attention_image(path: Path, image: Tensor, weights: Tensor) -> None:
    """Write `draw_attention` of an image (3, H, W) uint8 as a PNG file."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()  # (H, W, 3)
    Image.fromarray(draw_attention(pixels, weights.numpy())).save(path, compress_level=3)
