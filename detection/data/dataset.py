"""Images and training targets as tensors, one item a pure function of (seed, epoch, image id, repeat)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detection.data.checks import clip_boxes, shortened
from detection.data.coco_index import Category, CocoIndex
from detection.data.image_paths import missing_and_escaping
from detection.data.images import read_image
from detection.data.masks import Masks
from detection.data.pixel_cache import PixelCache
from detection.data.repeat_factors import repeat_factors
from detection.data.semantic import IGNORED, semantic_map
from detection.data.transforms import Transform
from detection.errors import UserError

EmptyImages = Literal["keep", "drop"]


class DetectionDataset(Dataset):
    """The images of an index, with their boxes.

    Crowd regions are no boxes of the targets but `ignored`: what is there is neither learned nor background. Without a
    transform an image is yielded as it is on disk (evaluation: the detector resizes, and so answers in the image's own
    pixels).

    Attributes:
        categories: Label k is `categories[k - 1]`.

    Args:
        index: The annotations.
        images: Folder to which file names are relative.
        transform: Augmentation and resize; None: the untouched image.
        seed: Of the augmentation, at least 0.
        empty_images: Whether images without boxes (crowd regions not counted) are kept.
        masks: From `load_masks`, to have a map of labels among the targets; None for none.
        categories: What labels count, when the index lists only some of them; None: the index's own.
        cache_bytes: Decoded images and painted masks are kept in memory if all of them fit into so many bytes.

    Raises:
        UserError: Image files are missing, or names lead out of the folder.
    """

    def __init__(
        self,
        index: CocoIndex,
        images: Path,
        transform: Transform | None = None,
        seed: int = 0,
        empty_images: EmptyImages = "keep",
        masks: Masks | None = None,
        categories: tuple[Category, ...] | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.index = index
        self.categories = index.categories if categories is None else categories
        self._label_of: np.ndarray | None = None
        if self.categories != index.categories:  # by a label of the index, the background's 0 too
            labels = {category: label for label, category in enumerate(self.categories, start=1)}
            self._label_of = np.array([0, *(labels[category] for category in index.categories)])
        self.images = Path(images)
        self.transform = transform
        self.seed = seed
        self.masks = masks
        offsets, n = index.box_offsets, len(index)
        crowd = np.searchsorted(offsets, np.flatnonzero(index.iscrowd), side="right") - 1  # their images
        objects = np.diff(offsets) - np.bincount(crowd, minlength=n)
        empty = objects == 0
        if empty_images not in ("keep", "drop"):
            raise UserError(f'empty_images is {empty_images!r}, but must be "keep" or "drop".')
        self._kept = np.arange(n) if empty_images == "keep" else np.flatnonzero(~empty)
        self.counts: dict[str, int] = {
            "images": len(self._kept),
            "images_left_out": n - len(self._kept),
            "images_without_boxes": int(empty.sum()),
            "boxes": int(objects.sum()),
            "crowd_left_out": index.counts["crowd"],
            "clipped": index.counts["clipped"],
            "dropped": index.counts["dropped"],
        }
        self._check_files()
        pixels = index.widths[self._kept].astype(np.int64) * index.heights[self._kept]
        # Bytes a pixel: RGB, and a label where there are masks.
        fits = int(pixels.sum()) * (3 if masks is None else 4) <= cache_bytes
        self._image_cache = PixelCache(3 * pixels) if fits else None
        self._semantic_cache = PixelCache(pixels) if fits and masks is not None else None

    @property
    def cached_bytes(self) -> int:
        """Most bytes of decoded images and painted masks that are kept in memory."""
        return sum(cache.nbytes for cache in (self._image_cache, self._semantic_cache) if cache is not None)

    @property
    def image_ids(self) -> np.ndarray:
        """(n,) original ids of the kept images."""
        return self.index.image_ids[self._kept]

    @property
    def aspect_ratios(self) -> np.ndarray:
        """(n,) width / height of the kept images, for grouping."""
        return self.index.widths[self._kept] / self.index.heights[self._kept]

    def __len__(self) -> int:
        return len(self._kept)

    def repeat_factors(self, threshold: float) -> np.ndarray:
        """Compute the factors (n,) of repeat-factor sampling; objects that are no crowd regions count."""
        index, rows = self.index, np.repeat(np.arange(len(self.index)), np.diff(self.index.box_offsets))
        position = np.full(len(index), -1)
        position[self._kept] = np.arange(len(self))
        objects = ~np.asarray(index.iscrowd) & (position[rows] >= 0)
        return repeat_factors(position[rows[objects]], np.asarray(index.labels)[objects], len(self), threshold)

    def __getitem__(self, key: int | tuple[int, ...]) -> tuple[Tensor, dict]:
        """Load one image.

        Args:
            key: Position among the kept images, (epoch, position), or (epoch, position, repeat) with the number of
                times that the image was seen in the epoch before; what is left out is 0.

        Returns:
            The image, (3, H', W') uint8 RGB, and its target: `boxes` (N, 4) float32 xyxy in the image's pixels,
            `labels` (N,) int64 from 1, `image_id`, and `size` (height, width) before the transform; with crowd regions
            also `ignored` (I, 4) like `boxes`; with masks also `semantic` (H', W') uint8: the label at each pixel,
            0 background, 255 ignored.

        Raises:
            UserError: The image cannot be read, or its size is not the annotations'.
        """
        epoch, position, *repeats = key if isinstance(key, tuple) else (0, key)
        row = int(self._kept[position])
        image_id = int(self.index.image_ids[row])
        image = self._image(position, row)
        height, width = image.shape[:2]
        span = slice(int(self.index.box_offsets[row]), int(self.index.box_offsets[row + 1]))
        objects = ~self.index.iscrowd[span]
        boxes, ignored = (clip_boxes(self.index.boxes[span][own], width, height) for own in (objects, ~objects))
        labels = self.index.labels[span][objects].astype(np.int64)
        semantic = self._semantic(position, row)
        if self._label_of is not None:
            labels = self._label_of[labels]
        if self.transform is not None:
            seed = item_seed(self.seed, epoch, image_id, *repeats)
            image, boxes, labels, semantic, ignored = self.transform(image, boxes, labels, seed, semantic, ignored)
        target: dict = {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels)}
        target |= {"image_id": image_id, "size": (height, width)}
        if not objects.all():
            target["ignored"] = torch.from_numpy(ignored)
        if semantic is not None:
            target["semantic"] = torch.from_numpy(np.array(semantic, order="C"))
        # Copies: both may be views of what is kept for later epochs.
        return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C")), target  # (3, H', W')

    def _image(self, position: int, row: int) -> np.ndarray:
        """Return the pixels of an image (H, W, 3), to read only."""

        def read() -> np.ndarray:
            pixels = read_image(self.images / self.index.file_name(row))
            self._check_size(row, *pixels.shape[:2])
            return pixels

        shape = (int(self.index.heights[row]), int(self.index.widths[row]), 3)
        return read() if self._image_cache is None else self._image_cache.get(position, shape, read)

    def _semantic(self, position: int, row: int) -> np.ndarray | None:
        """Return the map of labels (H, W) of an image, to read only; None without masks."""
        masks = self.masks
        if masks is None:
            return None

        def paint() -> np.ndarray:
            semantic = semantic_map(self.index, masks, row)
            if self._label_of is not None:
                known = semantic != IGNORED
                semantic[known] = self._label_of[semantic[known]]
            return semantic

        shape = (int(self.index.heights[row]), int(self.index.widths[row]))
        return paint() if self._semantic_cache is None else self._semantic_cache.get(position, shape, paint)

    def _check_files(self) -> None:
        # One by one: the names of 1.7 million images would take 200 MB in every process.
        names = map(self.index.file_name, map(int, self._kept))
        missing, escaping = missing_and_escaping(self.images, names)
        doctor = f"run `detection doctor {self.index.path} {self.images} --fix OUT.json` to correct names, or to leave"
        for positions, what in ((escaping, "leads out of the folder"), (missing, "is not in")):
            if positions:
                first = positions[0]
                more = f" (and {len(positions) - 1} more of {len(self)})" if len(positions) > 1 else ""
                name = self.index.file_name(int(self._kept[first]))
                raise UserError(
                    f"{self.index.path}: image {self.image_ids[first]}, file_name {name!r}, {what} "
                    f"{self.images}{more}: check the image folder, or {doctor} such images out."
                )

    def _check_size(self, row: int, height: int, width: int) -> None:
        listed = (int(self.index.widths[row]), int(self.index.heights[row]))
        if (width, height) != listed:
            raise UserError(
                f"image {self.images / self.index.file_name(row)} is {width}x{height} pixels (EXIF applied), but "
                f"{self.index.path} has {listed[0]}x{listed[1]} for image {self.index.image_ids[row]}: run "
                f"`detection doctor {self.index.path} {self.images} --fix OUT.json` to correct the sizes, and "
                "check that boxes fit the image."
            )


def item_seed(seed: int, epoch: int, image_id: int, repeat: int = 0) -> int:
    """Return the seed of one image in one epoch, whatever its place in the data set, the worker or the process.

    Each `repeat` of the image in the epoch has another seed.
    """
    # An id may be negative, which SeedSequence refuses.
    words = (seed, epoch, image_id % 2**64, *((repeat,) if repeat else ()))
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def collate(batch: Sequence[tuple[Tensor, dict]]) -> tuple[list[Tensor], list[dict]]:
    """Put items into two lists; images keep their sizes."""
    images, targets = zip(*batch, strict=True)
    return list(images), list(targets)


def require_training_boxes(dataset: DetectionDataset) -> None:
    """Raise a `UserError` if there is nothing to learn from: no image, or not one box."""
    if len(dataset) == 0 or dataset.counts["boxes"] == 0:
        what = "no image is left" if len(dataset) == 0 else "not one image has a box"
        raise UserError(
            f"{dataset.index.path} is an empty training set: {what} ({len(dataset.index)} images, "
            f"{dataset.counts['crowd_left_out']} crowd regions, {dataset.counts['dropped']} bad boxes dropped); "
            "check the file and its split."
        )


def match_categories(train: CocoIndex, val: CocoIndex) -> None:
    """Raise a `UserError` unless `train` has every category of `val` under the same id; `val` may list fewer."""
    if set(val.categories) <= set(train.categories):
        return
    parts = []
    for first, second in ((train, val), (val, train)):
        if only := [f"{c.name!r} (id {c.id})" for c in first.categories if c not in second.categories]:
            parts.append(f"only in {first.path}: {shortened(only, 5)}")
    remedy = "use files of the same data set, with the same list of categories"
    if {category.name for category in val.categories} <= {category.name for category in train.categories}:
        # The names are there: only ids or some of the list differ.
        remedy = f"run `detection doctor {val.path} IMAGES --fix OUT.json --categories {train.path}`"
    raise UserError(f"{train.path} and {val.path} have different categories ({'; '.join(parts)}): {remedy}.")
