"""Random shifts, turns, sizes and mirror images of a batch at once, on any device.

An image is changed by one affine map of its coordinates, from five numbers in [0, 1). The caller draws them, so that
they may depend on (seed, epoch, image) alone. Pixels from beyond the border are black.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from detection.ranges import NonNegative, ProperFraction, Range

NUMBERS = 5


@dataclass(frozen=True)
class ImageAugmentation:
    """Limits of the random changes of training images; each amount is drawn evenly from its range.

    Attributes:
        shift: most pixels to each side, an integer. With `data.crop` 8 smaller than the image, a shift of 4 reaches
            all crops and none beyond the border.
        rotation: most degrees to each side.
        scale: most change of size: 0.1 for 0.9 to 1.1 times.
        flip: mirror every second image, left to right.
    """

    shift: Annotated[int, Range(0)] = 0
    rotation: NonNegative = 0.0
    scale: ProperFraction = 0.0
    flip: bool = False


def augment(images: Tensor, settings: ImageAugmentation, numbers: Tensor, crop: int | None = None) -> Tensor:
    """Change each image by its own numbers, and cut out the middle of what that gives.

    Args:
        images: (B, C, S, S).
        settings: how far.
        numbers: (B, 5) in [0, 1): shift along x and y, rotation, scale, flip.
        crop: side of what is cut out; None for S.

    Returns:
        (B, C, crop, crop).
    """
    side, crop = images.shape[-1], crop or images.shape[-1]
    x, y, turn, size, mirror = numbers.to(images.dtype).unbind(1)
    shift = torch.stack([x, y], 1).mul(2 * settings.shift + 1).floor() - settings.shift
    angle = (2 * turn - 1) * math.radians(settings.rotation)
    # From a pixel of the result back to the place it is read at: a larger image is read at smaller steps.
    step = crop / side / (1 + (2 * size - 1) * settings.scale)
    across = step * (1 - 2 * (mirror < 0.5) * settings.flip)
    cosine, sine = angle.cos(), angle.sin()
    rows = [torch.stack([across * cosine, -step * sine], 1), torch.stack([across * sine, step * cosine], 1)]
    theta = torch.cat([torch.stack(rows, 1), (shift * 2 / side)[:, :, None]], 2)  # (B, 2, 3)
    grid = affine_grid(theta, [len(images), 1, crop, crop], align_corners=False)  # (B, crop, crop, 2)
    return grid_sample(images, grid, align_corners=False)
