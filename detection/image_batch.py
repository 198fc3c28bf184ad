"""Images of any sizes as one normalized batch, with their boxes.

B images, N boxes and I crowd regions of one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from detection.large_images import any_large, resized_batch
from detection.ops.ragged import Ragged, image_indices, to_device

Size = tuple[int, int]
"""Height and width."""


class BatchTransform(GeneralizedRCNNTransform):
    """torchvision's transform to the bit, of all images at once where none is resized or all have one size.

    torchvision's takes 20 operations an image, two of which wait for a GPU, here one or two. Images of different sizes
    that are to be resized go through torchvision's, one by one.
    """

    def forward(
        self,
        images: Sequence[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """Return the batch, and the targets with `boxes` and `ignored` in its pixels.

        Args:
            images: (3, H, W) each; uint8, or float in [0, 1].
            targets: per image `boxes` (N, 4), and what else there is.
            dtype: of the batch; None: the images' own, float32 if they are uint8.
        """
        if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return super().forward([as_float(image, dtype) for image in images], targets)
        given = [(image.shape[-2], image.shape[-1]) for image in images]
        resize = not (self.training and self._skip_resize)
        if resize and any_large(images):
            batch = resized_batch(self, images, dtype)
        elif resize and len(set(given)) > 1:
            batch, _ = super().forward([as_float(image, dtype) for image in images])
        else:
            batch = self._together(images, given, resize, dtype)
        if targets is not None:
            targets = resized(targets, given, batch.image_sizes) if resize else [dict(target) for target in targets]
        return batch, targets

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: list[Size], original_image_sizes: list[Size]
    ) -> list[dict[str, Tensor]]:
        """Return the detections with their boxes in pixels of the images as they were given."""
        if self.training or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return super().postprocess(result, image_shapes, original_image_sizes)
        return resized(result, image_shapes, original_image_sizes)

    def _together(
        self, images: Sequence[Tensor], sizes: list[Size], resize: bool, dtype: torch.dtype | None
    ) -> ImageList:
        if len({image.dtype for image in images}) > 1:
            images = [as_float(image, dtype) for image in images]
        equal = len(set(sizes)) == 1
        batch = torch.stack(list(images)) if equal else padded_images(images, self._padded_size(sizes))
        batch = as_float(batch, dtype)
        mean, std = (
            to_device(np.array(values).reshape(-1, 1, 1), batch.device).to(batch.dtype)  # (3, 1, 1)
            for values in (self.image_mean, self.image_std)
        )
        batch = batch.sub_(mean).div_(std)
        if resize:
            short, long = min(sizes[0]), max(sizes[0])
            (min_size,) = self.min_size  # pyright: ignore[reportGeneralTypeIssues] - torchvision makes it a tuple
            scale = min(min_size / short, self.max_size / long)
            batch = F.interpolate(batch, scale_factor=scale, mode="bilinear", recompute_scale_factor=True)
            sizes = [(batch.shape[-2], batch.shape[-1])] * len(images)
        height, width = self._padded_size(sizes)
        if not equal:  # padding is 0 after it is normalized, too
            batch = batch.mul_(inside_images(sizes, height, width, batch.device)[:, None])
        elif sizes[0] != (height, width):
            batch = F.pad(batch, (0, width - batch.shape[-1], 0, height - batch.shape[-2]))
        return ImageList(batch, sizes)

    def _padded_size(self, sizes: Sequence[Size]) -> Size:
        height, width = (
            -(-max(sides) // self.size_divisible) * self.size_divisible for sides in zip(*sizes, strict=True)
        )
        return height, width


def as_float(images: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return images as floats in [0, 1] of a type; None: their own, float32 for uint8. Floats may stay the tensor."""
    if images.dtype != torch.uint8:
        return images.to(dtype or images.dtype)
    return images.to(dtype or torch.float32).div_(255)


def padded_images(images: Sequence[Tensor], size: Size, fill: int = 0) -> Tensor:
    """Return images (…, H, W) of one type in the top left of a batch (B, …, *size), by two operations each."""
    batch = images[0].new_full((len(images), *images[0].shape[:-2], *size), fill)
    for i, image in enumerate(images):
        # One view where slices would be three.
        batch.as_strided(image.shape, batch.stride()[1:], i * batch.stride(0)).copy_(image)
    return batch


def inside_images(sizes: Sequence[Size], height: int, width: int, device: torch.device, stride: int = 1) -> Tensor:
    """Return booleans (B, H, W): the first pixel of location (i, j) of a map of this stride is inside of its image."""
    sides = to_device(np.array(sizes).reshape(-1, 2), device)  # (B, 2)
    rows = torch.arange(height, device=device) * stride < sides[:, :1]  # (B, H)
    columns = torch.arange(width, device=device) * stride < sides[:, 1:]  # (B, W)
    return rows[:, :, None] & columns[:, None, :]


def resized(items: Sequence[Mapping[str, Tensor]], old: Sequence[Size], new: Sequence[Size]) -> list[dict[str, Tensor]]:
    """Return targets or detections of images with `boxes` and `ignored` scaled from old to new sizes."""
    found = [dict(item) for item in items]
    for key in ("boxes", "ignored"):
        images = [i for i, item in enumerate(found) if key in item]
        if not images:
            continue
        own = Ragged.of([found[i][key] for i in images])
        ratios = np.array([new[i] for i in images], np.float32) / np.array([old[i] for i in images], np.float32)
        factors = to_device(ratios[:, [1, 0, 1, 0]], own.rows.device).to(own.rows.dtype)  # (B, 4)
        scaled = Ragged(own.rows * factors[image_indices(own.counts, own.rows.device)], own.counts)
        for i, boxes in zip(images, scaled.split(), strict=True):
            found[i][key] = boxes
    return found
