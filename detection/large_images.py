"""Normalization and resize of large images in little memory: only one at a time is there as floats, once.

B images, H×W an image's size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

LARGE = 4_000_000
"""Pixels from which on an image is large: as floats it takes 48 MB, in torchvision's transform three times that."""


def any_large(images: Sequence[Tensor]) -> bool:
    """Return whether one of the images (3, H, W) is large."""
    return any(image.shape[-2] * image.shape[-1] >= LARGE for image in images)


def resized_batch(
    transform: GeneralizedRCNNTransform, images: Sequence[Tensor], dtype: torch.dtype | None = None
) -> ImageList:
    """Return the batch that the transform makes of images (3, H, W) at inference, to the bit.

    Args:
        transform: has the sizes, mean and standard deviation.
        images: uint8, or float in [0, 1].
        dtype: of the batch; None: the images' own, float32 if they are uint8.
    """
    # One by one: the next image's floats are made once only the small image is left of this one's.
    resized = [_resized(transform, image, dtype) for image in images]
    sizes = [(image.shape[-2], image.shape[-1]) for image in resized]
    return ImageList(transform.batch_images(resized, transform.size_divisible), sizes)


def _resized(transform: GeneralizedRCNNTransform, image: Tensor, dtype: torch.dtype | None) -> Tensor:
    wanted = dtype or (torch.float32 if image.dtype == torch.uint8 else image.dtype)
    mean, std = (torch.tensor(values)[:, None, None] for values in (transform.image_mean, transform.image_std))
    values = image.to(wanted, copy=True)  # (3, H, W)
    if image.dtype == torch.uint8:
        values.div_(255)
    values.sub_(mean.to(values)).div_(std.to(values))
    short, long = sorted(image.shape[-2:])
    (smallest,) = transform.min_size  # pyright: ignore[reportGeneralTypeIssues]
    scale = min(smallest / short, transform.max_size / long)
    return F.interpolate(values[None], scale_factor=scale, mode="bilinear", recompute_scale_factor=True)[0]
