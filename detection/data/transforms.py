"""Augmentation and resize of an image and its boxes; the albumentations adapter.

Order: crop, jitter, flips, photometric changes (albumentations, on the original pixels), then one bilinear resize, all
in uint8. Flips alone are views of the image, by the same draws. A result depends on the arguments and the seed only.
H×W the image, N boxes, xyxy in pixels. A map of labels moves with the image, by nearest pixel, and changes no draw.
"""

import os
import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch.utils.data import get_worker_info

from detection.data.crop import crop_window
from detection.data.extra_augmentation import VISIBLE, Counts, Sample, Step, StepSetting, build_steps, seed_parts
from detection.data.semantic import IGNORED, nearest
from detection.ranges import Fraction, Pixels

_WORKERS = 64
"""Most loading processes of a run."""
_JITTER_SHIFT = 0.1
_JITTER_SCALE = (0.9, 1.1)
_FILL = (124, 116, 104)
"""The ImageNet mean: near zero once normalized."""
_PROBES = np.array([[0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.75, 0.75]])
"""Boxes, in shares of the image, that no jitter moves to the border: they show where it takes crowd regions, which are
not left out where little of them is visible."""
_NONE = np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images; every one but the flip is off unless set.

    Attributes:
        horizontal_flip: Probability.
        vertical_flip: Probability.
        min_sizes: Multi-scale: the shorter side, in pixels, is drawn from these; () takes the detector's.
        crop: Probability of a random crop (sides 30 to 100 %) that leaves no object half seen.
        photometric: Probability of a change of brightness, contrast, saturation (each ±30 %) and hue (±5 %).
        jitter: Probability of a shift by up to 10 % of each side and a scaling by 0.9 to 1.1 of image and boxes.
        extra: Further steps before the resize, partials: of albumentations transforms and groups, or of your own
            functions `(image, boxes, labels) → (image, boxes, labels)` (`data.extra_augmentation`).
    """

    horizontal_flip: Fraction = 0.5
    vertical_flip: Fraction = 0.0
    min_sizes: tuple[Pixels, ...] = ()
    crop: Fraction = 0.0
    photometric: Fraction = 0.0
    jitter: Fraction = 0.0
    extra: tuple[StepSetting, ...] = ()


def resized_shape(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """Return the (height, width) to which torchvision's detectors resize an image of this size, in pixels.

    The shorter side becomes `min_size`, unless the longer one would become longer than `max_size`.
    """
    scale = min(min_size / min(height, width), max_size / max(height, width))
    return max(int(height * scale), 1), max(int(width * scale), 1)


class Transform:
    """Augments and resizes one image with its boxes and labels, and its map of labels if there is one.

    Args:
        augmentation: What to vary; None: only the resize.
        min_size: Length of the shorter side after the resize, pixels.
        max_size: Upper limit of the longer side, pixels.
    """

    def __init__(self, augmentation: Augmentation | None, min_size: int, max_size: int) -> None:
        self.augmentation = augmentation or Augmentation(horizontal_flip=0.0)
        self.min_sizes = self.augmentation.min_sizes or (min_size,)
        self.max_size = max_size
        build_steps(self.augmentation.extra)  # what cannot be built is reported before loading processes start
        # Of the loading processes and this one; shared, so that one line can report them.
        counts = torch.zeros(_WORKERS + 1, 3, dtype=torch.int64) if self.augmentation.extra else None
        self._counts = None if counts is None else counts.share_memory_()

    def take_counts(self) -> Counts | None:
        """Return what extra steps did to boxes since the last call, in all loading processes; None without such."""
        if self._counts is None:
            return None
        counts = Counts(*self._counts.sum(0).tolist())
        self._counts.zero_()
        return counts

    def __call__(
        self,
        image: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        seed: int,
        semantic: np.ndarray | None = None,
        ignored: np.ndarray = _NONE,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
        """Transform one image with its boxes, labels, map of labels and crowd regions.

        Objects whose box a jitter leaves out stay in the map: what is still visible of them is theirs.

        Args:
            image: (H, W, 3) uint8 RGB.
            boxes: (N, 4) float32 xyxy in pixels, inside the image and of positive size.
            labels: (N,) int64.
            seed: Decides every draw; at least 0.
            semantic: (H, W) uint8 labels, or None; all else comes out the same with and without it.
            ignored: (I, 4) crowd regions, like `boxes`; all else comes out the same with and without them.

        Returns:
            (H', W', 3) uint8, which may be a view of the one given; (N', 4) float32 boxes inside it and of positive
            size, and their (N',) labels, N' ≤ N; the (H', W') map, 255 (ignored) outside the old image; what is visible
            of the crowd regions, (I', 4).
        """
        rng = np.random.default_rng(seed)
        min_size = self.min_sizes[int(rng.integers(len(self.min_sizes)))]
        cropped = rng.random() < self.augmentation.crop
        boxes = boxes.astype(np.float64)
        if cropped:
            (x1, y1, x2, y2), kept = crop_window(boxes, image.shape[0], image.shape[1], rng)
            image, boxes, labels = image[y1:y2, x1:x2], boxes[kept] - (x1, y1, x1, y1), labels[kept]
            semantic = None if semantic is None else semantic[y1:y2, x1:x2]
            boxes = boxes.clip(0, (x2 - x1, y2 - y1, x2 - x1, y2 - y1))
            ignored = (ignored - (x1, y1, x1, y1)).clip(0, (x2 - x1, y2 - y1, x2 - x1, y2 - y1))
        if self._flips is not None:
            image, boxes, semantic, ignored = _flip(self._flips, image, boxes, semantic, ignored, rng)
        elif self._pipeline is not None:
            image, boxes, labels, semantic, ignored = _augment(
                self._pipeline, image, boxes, labels, semantic, ignored, rng
            )
        if self._steps:
            image, boxes, labels, semantic, ignored = self._extra(Sample(image, boxes, labels, semantic, ignored), rng)
        image, scale = _resize(image, min_size, self.max_size)
        height, width = image.shape[:2]
        if semantic is not None and semantic.shape != (height, width):
            rows, columns = nearest(height, semantic.shape[0]), nearest(width, semantic.shape[1])
            semantic = semantic.take(columns, axis=1).take(rows, axis=0)
        boxes, ignored = (
            (own * scale).astype(np.float32).clip(0, np.array([width, height, width, height], dtype=np.float32))
            for own in (boxes, ignored)
        )
        valid, visible = ((own[:, 2:] > own[:, :2]).all(axis=1) for own in (boxes, ignored))
        return image, boxes[valid], labels[valid], semantic, ignored[visible]

    def _extra(self, sample: Sample, rng: Generator) -> tuple:
        """Take the extra steps and count what they did."""
        counts = Counts()
        for step in self._steps:
            sample = step(sample, rng, counts)
        worker = get_worker_info()
        slot = -1 if worker is None else worker.id % _WORKERS
        assert self._counts is not None
        self._counts[slot] += torch.tensor([counts.boxes, counts.clipped, counts.left_out])
        return sample.image, sample.boxes, sample.labels, sample.semantic, sample.ignored

    @cached_property
    def _steps(self) -> list[Step]:
        """The extra steps, built in the worker that uses them."""
        if self.augmentation.extra:
            _one_opencv_thread()
        return build_steps(self.augmentation.extra)

    @property
    def _flips(self) -> dict[int, float] | None:
        """Probabilities of flips along axes of the image, where nothing but flips is switched on."""
        chosen = self.augmentation
        if chosen.jitter or chosen.photometric:
            return None
        flips = {1: chosen.horizontal_flip, 0: chosen.vertical_flip}
        return {axis: probability for axis, probability in flips.items() if probability} or None

    @cached_property
    def _pipeline(self) -> Any:
        """The albumentations pipeline, made in the worker that uses it; None if nothing is switched on."""
        chosen = self.augmentation
        if not (chosen.jitter or chosen.horizontal_flip or chosen.vertical_flip or chosen.photometric):
            return None
        # Without it, importing albumentations asks the network for its newest version.
        os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
        import albumentations

        _one_opencv_thread()
        shifts: dict[str, float | tuple[float, float]] = dict.fromkeys(("x", "y"), (-_JITTER_SHIFT, _JITTER_SHIFT))
        color = (0.7, 1.3)
        parts = {
            "jitter": lambda p: albumentations.Affine(
                scale=_JITTER_SCALE, translate_percent=shifts, keep_ratio=True, fill=_FILL, fill_mask=IGNORED, p=p
            ),
            "horizontal_flip": lambda p: albumentations.HorizontalFlip(p=p),
            "vertical_flip": lambda p: albumentations.VerticalFlip(p=p),
            "photometric": lambda p: albumentations.ColorJitter(color, color, color, (-0.05, 0.05), p=p),
        }
        active = [make(getattr(chosen, name)) for name, make in parts.items() if getattr(chosen, name)]
        moving = chosen.jitter or chosen.horizontal_flip or chosen.vertical_flip
        boxes = albumentations.BboxParams("albumentations", min_visibility=VISIBLE, clip=True) if moving else None
        return albumentations.Compose(active, bbox_params=boxes)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_pipeline", "_steps")}


def _flip(
    flips: dict[int, float],
    image: np.ndarray,
    boxes: np.ndarray,
    semantic: np.ndarray | None,
    ignored: np.ndarray,
    rng: Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """Flip as `_augment` does with the same generator, the last bit of a box apart, in a twentieth of the time."""
    rng.integers(2**32)  # which seeds the pipeline there
    for axis, probability in flips.items():
        if random.Random(int(rng.integers(2**32))).random() >= probability:
            continue
        image, length, low, high = np.flip(image, axis), image.shape[axis], 1 - axis, 3 - axis
        semantic = None if semantic is None else np.flip(semantic, axis)
        boxes, ignored = boxes.copy(), ignored.copy()
        for own in (boxes, ignored):
            own[:, [low, high]] = length - own[:, [high, low]]
    return image, boxes, semantic, ignored


def _augment(
    pipeline: Any,
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    semantic: np.ndarray | None,
    ignored: np.ndarray,
    rng: Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    height, width = image.shape[:2]
    size = np.array([width, height, width, height], dtype=np.float64)
    # Boxes go in as float64 shares of the image, followed by their row number: albumentations' own conversion
    # from pixels is float32, and its label fields are slow.
    shares = np.concatenate([boxes / size, _PROBES[: 2 * bool(len(ignored))]])
    rows = np.concatenate([shares, np.arange(len(shares))[:, None]], axis=1)
    seed_parts(pipeline, rng)
    moved = {} if semantic is None else {"mask": np.ascontiguousarray(semantic)}
    # A copy: the pixels may be kept for the epochs that follow.
    result = pipeline(image=np.array(image, order="C"), bboxes=rows, **moved)
    image, rows = result["image"], np.asarray(result["bboxes"], dtype=np.float64).reshape(-1, 5)  # (N', 5)
    height, width = image.shape[:2]
    new_size = np.array([width, height, width, height], dtype=np.float64)
    if len(ignored):
        rows, probes = rows[:-2], rows[-2:, :4]
        ignored = _moved_like(probes, ignored / size).clip(0, 1) * new_size
    return image, rows[:, :4] * new_size, labels[rows[:, 4].round().astype(np.int64)], result.get("mask"), ignored


def _moved_like(probes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Move boxes (I, 4) as `_PROBES` moved to `probes` (2, 4): by a scale, shift and flip of each axis, unclipped."""
    old, new = (own[:, :2] + own[:, 2:] for own in (_PROBES, probes))  # (2, 2), twice the centers
    factor = (new[1] - new[0]) / (old[1] - old[0])
    corners = np.sort(shares.reshape(-1, 2, 2) * factor + (new[0] - old[0] * factor) / 2, axis=1)
    return corners.reshape(-1, 4)  # (I, 4)


def _resize(image: np.ndarray, min_size: int, max_size: int) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Return the resized image and the factors by which xyxy grow."""
    height, width = image.shape[:2]
    new_height, new_width = resized_shape(height, width, min_size, max_size)
    if (new_height, new_width) == (height, width):
        return image, (1.0, 1.0, 1.0, 1.0)
    import cv2

    _one_opencv_thread()
    image = cv2.resize(np.ascontiguousarray(image), (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    return image, (new_width / width, new_height / height, new_width / width, new_height / height)


def _one_opencv_thread() -> None:
    """Keep OpenCV to the calling thread: workers are the parallelism, and its pool does not survive a fork."""
    import cv2

    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)
