"""Images with a class: held in memory, split by class, and put into batches as the engine takes them.

N images, C = 1 or 3 channels, S pixels a side.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detection.classification.augment import NUMBERS, ImageAugmentation, augment
from detection.data.sampling import TrainBatches


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """A set of images.

    Attributes:
        pixels: (N, C, S, S) uint8.
        labels: (N,) int64, the class of each from 0.
        classes: their names.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, positions: Tensor) -> "Images":
        return Images(self.pixels[positions], self.labels[positions], self.classes)

    def to(self, device: torch.device) -> "Images":
        """Return the same images on a device; their labels stay where they are."""
        return dataclasses.replace(self, pixels=self.pixels.to(device))

    def batch(self, positions: Tensor) -> Tensor:
        """Return the images (B, 3, S, S) at positions (B,) on the CPU, in [0, 1]; gray becomes three equal channels."""
        pixels = self.pixels[positions.to(self.pixels.device, non_blocking=True)]
        return pixels.expand(-1, 3, -1, -1) / 255

    def digest(self) -> str:
        """Return the SHA-256 of pixels and labels as hex."""
        digest = hashlib.sha256(self.pixels.contiguous().numpy().data)
        digest.update(self.labels.numpy().data)
        return digest.hexdigest()


def split_by_class(images: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """Divide images at random, each class by the same fraction up to rounding.

    Args:
        images: in any order, which both parts keep.
        fraction: of the second part.
        seed: random seed of the choice.

    Returns:
        The larger and the smaller part: at least one image of each class is in each, if there are two.
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(images), bool)
    for label in range(len(images.classes)):
        places = rng.permutation(np.flatnonzero(images.labels.numpy() == label))
        chosen[places[: np.clip(round(fraction * len(places)), 1, len(places) - 1)]] = True
    second = torch.from_numpy(chosen)
    return images[~second], images[second]


def middle(images: Tensor, crop: int | None) -> Tensor:
    """Cut the middle (…, crop, crop) out of images (…, S, S); None for all of them."""
    if crop is None:
        return images
    start = (images.shape[-1] - crop) // 2
    return images[..., start : start + crop, start : start + crop]


class Batches:
    """An epoch of training batches: a pure function of (seed, epoch), whatever the device."""

    def __init__(
        self, images: Images, order: TrainBatches, augmentation: ImageAugmentation | None, crop: int | None
    ) -> None:
        self.images, self.order, self.augmentation, self.crop = images, order, augmentation, crop
        self._epoch, self._tables = -1, dict[int, Tensor]()

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[list[Tensor], list[dict[str, Any]]]]:
        labels = self.images.labels.tolist()
        for keys in self.order:
            positions = torch.tensor([position for _, position, _ in keys])
            batch = self.images.batch(positions)
            if self.augmentation is None:
                batch = middle(batch, self.crop)
            else:
                numbers = self._numbers(keys).to(batch.device, non_blocking=True)
                batch = augment(batch, self.augmentation, numbers, self.crop)
            yield list(batch), [{"label": labels[p], "image_id": p} for p in positions.tolist()]

    def _numbers(self, keys: list[tuple[int, int, int]]) -> Tensor:
        """Return the random numbers (B, NUMBERS) of a batch; an image has others each time that it is seen."""
        return torch.stack([self._table(epoch, repeat)[position] for epoch, position, repeat in keys])

    def _table(self, epoch: int, repeat: int) -> Tensor:
        """Return the random numbers (n, NUMBERS) of all images, as they are seen for the (repeat + 1)-th time."""
        if self._epoch != epoch:
            self._epoch, self._tables = epoch, {}
        if repeat not in self._tables:
            # The third number makes it another stream than that of the order.
            rng = np.random.default_rng([self.order.seed, epoch, 1 + repeat])
            self._tables[repeat] = torch.from_numpy(rng.random((len(self.images), NUMBERS), np.float32))
        return self._tables[repeat]
