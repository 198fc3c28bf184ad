"""Augmentations of the user's own: albumentations transforms, and callables on an image, its boxes and labels.

A step is written as a partial: `partial(albumentations.OneOf, transforms=[partial(albumentations.Blur)])`,
`partial(darken, by=30)`. Every part of a group draws from another stream. All boxes that a step gives pass the
same checks: they are clipped to the image, and those of which too little is left are left out and counted.
"""

import difflib
import functools
import inspect
import os
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.random import Generator

from detection.data.semantic import IGNORED
from detection.errors import UserError
from detection.ranges import ReadAs

VISIBLE = 0.25
"""A box is left out if less of its area is still inside the image after a transform."""


@dataclass
class Sample:
    """An image (H, W, 3) uint8 with boxes (N, 4) xyxy, labels (N,), a map of labels, and crowd regions (I, 4)."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    semantic: np.ndarray | None
    ignored: np.ndarray


@dataclass
class Counts:
    """Boxes that came into steps, were clipped there by our check, and were left out."""

    boxes: int = 0
    clipped: int = 0
    left_out: int = 0


class Step(Protocol):
    """One augmentation, built; a pure function of its sample and the generator's state."""

    def __call__(self, sample: Sample, rng: Generator, counts: Counts) -> Sample:
        """Change a sample."""
        ...


def read_step(value: Any, key: str) -> functools.partial:
    """Read a step of a config or of plain data; settings that are steps, alone or in a list, are read too.

    Raises:
        UserError: no partial, class or function, a class that cannot be named, or a setting that it does not have.
    """
    if isinstance(value, functools.partial):
        if value.args:
            raise UserError(f"{key}: give settings by keyword, such as partial(albumentations.OneOf, transforms=[…]).")
        cls, settings = value.func, value.keywords
    elif isinstance(value, str):
        cls, settings = _find(value, key), {}
    elif isinstance(value, Mapping) and isinstance(value.get("class"), str):
        cls, settings = _find(value["class"], key), {k: v for k, v in value.items() if k != "class"}
    elif isinstance(value, type) or inspect.isfunction(value):
        cls, settings = value, {}
    else:
        name = type(value).__name__
        raise UserError(
            f"{key}: must be a partial of a class or function, which config.json can hold, not of type {name}; write "
            f"partial({name}, …) with its settings by keyword."
        )
    known = inspect.signature(cls).parameters
    for name in settings:
        if not isinstance(name, str):
            raise UserError(f"{key}: has the key {name!r}; settings are named by texts.")
        if name not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}."
            raise UserError(f"{key}.{name}: {cls.__name__} has no such setting; {hint}")
    return functools.partial(cls, **{name: _read_setting(v, f"{key}.{name}") for name, v in settings.items()})


StepSetting = Annotated[functools.partial, ReadAs(read_step)]
"""Type of a setting that is a step."""


def build_steps(steps: Sequence[functools.partial]) -> list[Step]:
    """Build steps in their order.

    Raises:
        UserError: settings that a class refuses.
    """
    return [_build_step(step, f"data.augmentation.extra[{number}]") for number, step in enumerate(steps)]


def seed_parts(transform: Any, rng: Generator) -> None:
    """Give an albumentations transform and every part of it, at any depth, another random stream.

    A group hands its seed to all its parts, so that, say, two flips in a `Sequential` would always come together.
    """
    transform.set_random_seed(int(rng.integers(2**32)))
    for part in getattr(transform, "transforms", ()):
        if hasattr(part, "set_random_seed"):  # a transform's own functions have none
            seed_parts(part, rng)


def _read_setting(value: Any, key: str) -> Any:
    if isinstance(value, functools.partial) or (isinstance(value, Mapping) and "class" in value):
        return read_step(value, key)
    if isinstance(value, list | tuple):
        return type(value)(_read_setting(item, f"{key}[{number}]") for number, item in enumerate(value))
    return value


def _albumentations() -> Any:
    # Without it, importing albumentations asks the network for its newest version.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    return albumentations


def _find(name: str, key: str) -> Any:
    """Return a public albumentations transform (`Blur`, `albumentations.Blur`), or a trusted package's callable."""
    package, _, own_name = name.rpartition(".")
    if package.partition(".")[0] not in ("", "albumentations"):
        from detection.config.parts import find_class

        return find_class(name, key)
    library = _albumentations()
    known = [n for n, found in vars(library).items() if _is_transform(found)]
    if own_name in known:
        return getattr(library, own_name)
    near = difflib.get_close_matches(own_name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "a callable of yours needs its package: mymodule.darken."
    raise UserError(f"{key}={name}: albumentations has no such transform; {hint}")


def _is_transform(found: Any) -> bool:
    from albumentations.core.composition import BaseCompose
    from albumentations.core.transforms_interface import BasicTransform

    return isinstance(found, type) and issubclass(found, BasicTransform | BaseCompose)


def _build_step(step: functools.partial, key: str) -> Step:
    try:
        built = _instance(step)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{key}: {step.func.__name__} cannot be built from these settings: {reason}.") from None
    if isinstance(step.func, type) and _is_transform(step.func):
        return _Transforms(built, key)
    if not callable(built):
        raise UserError(f"{key}: {step.func.__name__} is no callable on (image, boxes, labels).")
    return _Callable(built, key)


def _instance(value: Any) -> Any:
    """Build a partial of a class with the parts inside it; one of a function is a callable already."""
    if isinstance(value, list | tuple):
        return type(value)(map(_instance, value))
    if not isinstance(value, functools.partial):
        return value
    settings = {name: _instance(setting) for name, setting in value.keywords.items()}
    if not isinstance(value.func, type):
        return functools.partial(value.func, **settings)
    built = value.func(**settings)
    if hasattr(built, "fill_mask") and "fill_mask" not in settings:  # what comes in from outside has no label
        built.fill_mask = IGNORED
    return built


class _Transforms:
    """An albumentations transform or group."""

    def __init__(self, transform: Any, key: str) -> None:
        self.key, library = key, _albumentations()
        boxes = library.BboxParams("albumentations", min_visibility=VISIBLE, clip=True)
        # Crowd regions go as the corners of theirs: they change no draw, and are not left out where little is visible.
        corners = library.KeypointParams("xy", remove_invisible=False)
        with warnings.catch_warnings():  # of transforms that change pixels only
            warnings.filterwarnings("ignore", "Got processor for", UserWarning)
            self.pipeline = library.Compose([transform], bbox_params=boxes, keypoint_params=corners)

    def __call__(self, sample: Sample, rng: Generator, counts: Counts) -> Sample:
        height, width = sample.image.shape[:2]
        shares = sample.boxes / np.array([width, height, width, height], dtype=np.float64)
        rows = np.concatenate([shares, np.arange(len(shares))[:, None]], axis=1)
        # A keypoint is the center of a pixel there: flips take 0 to the width less 1.
        corners = sample.ignored[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2) - 0.5  # (4·I, 2)
        seed_parts(self.pipeline, rng)
        moved = {} if sample.semantic is None else {"mask": np.ascontiguousarray(sample.semantic)}
        # A copy: the pixels may be kept for the epochs that follow.
        try:
            found = self.pipeline(image=np.array(sample.image, order="C"), bboxes=rows, keypoints=corners, **moved)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self.key}: fails on an image of {width}x{height} pixels: {reason}.") from error
        _require_image(found["image"], self.key)
        rows = np.asarray(found["bboxes"], dtype=np.float64).reshape(-1, 5)
        height, width = found["image"].shape[:2]
        limits = np.array([width, height, width, height], dtype=np.float64)
        corners = np.asarray(found["keypoints"], dtype=np.float64).reshape(-1, 4, 2) + 0.5  # (I, 4, 2)
        ignored = np.concatenate([corners.min(1), corners.max(1)], axis=1) if len(corners) else np.zeros((0, 4))
        counts.boxes += len(sample.boxes)
        counts.left_out += len(sample.boxes) - len(rows)
        labels = sample.labels[rows[:, 4].round().astype(np.int64)]
        return Sample(found["image"], rows[:, :4] * limits, labels, found.get("mask"), ignored.clip(0, limits))


class _Callable:
    """A function `(image, boxes, labels) → (image, boxes, labels)`, which may ask for `rng`, a NumPy generator.

    Crowd regions are among the boxes, with the label 0.
    """

    def __init__(self, function: Callable, key: str) -> None:
        self.function, self.key = function, key
        self.takes_rng = "rng" in inspect.signature(function).parameters

    def __call__(self, sample: Sample, rng: Generator, counts: Counts) -> Sample:
        if sample.semantic is not None:
            raise UserError(
                f"{self.key}: a callable on (image, boxes, labels) cannot move the map of labels that "
                "detector.segmentation learns from; use an albumentations transform."
            )
        boxes = np.concatenate([sample.boxes, sample.ignored]).astype(np.float32)
        labels = np.concatenate([sample.labels, np.zeros(len(sample.ignored), np.int64)])
        more = {"rng": rng} if self.takes_rng else {}
        with _global_streams(rng):
            found = self.function(np.array(sample.image, order="C"), boxes, labels, **more)
        image, boxes, labels = self._checked(found)
        height, width = image.shape[:2]
        inside = boxes.clip(0, np.array([width, height, width, height], dtype=np.float64))
        area, visible = ((own[:, 2:] - own[:, :2]).clip(0).prod(1) for own in (boxes, inside))
        crowd, kept = labels == 0, visible > 0
        kept &= crowd | (visible >= VISIBLE * area)
        counts.boxes += int((~crowd).sum())
        counts.clipped += int(((inside != boxes).any(1) & kept & ~crowd).sum())
        counts.left_out += int((~kept & ~crowd).sum())
        objects = kept & ~crowd
        return Sample(image, inside[objects], labels[objects], None, inside[kept & crowd])

    def _checked(self, found: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not isinstance(found, tuple | list) or len(found) != 3:
            raise UserError(f"{self.key}: must return (image, boxes, labels), not {type(found).__name__}.")
        image = found[0]
        _require_image(image, self.key)
        boxes, labels = np.asarray(found[1], dtype=np.float64).reshape(-1, 4), np.asarray(found[2])
        if len(boxes) != len(labels) or not np.isfinite(boxes).all() or labels.ndim != 1:
            raise UserError(f"{self.key}: returned {len(boxes)} boxes, finite or not, for {labels.size} labels.")
        if len(labels) and (not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0):
            raise UserError(f"{self.key}: returned labels that are no integers from 1 (0 marks a crowd region).")
        return image, boxes, labels.astype(np.int64)


def _require_image(image: Any, key: str) -> None:
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.size):
        raise UserError(
            f"{key}: returned an image that is no uint8 array (height, width, 3); the detector normalizes by itself."
        )
    if image.shape[2] != 3:
        raise UserError(f"{key}: returned an image of the shape {image.shape}; it must have 3 channels, last.")


@contextmanager
def _global_streams(rng: Generator) -> Iterator[None]:
    """Let callables that draw from `random` and `numpy.random` depend on the item's seed only."""
    before = random.getstate(), np.random.get_state()
    seeds = rng.integers(2**32, size=2).tolist()
    random.seed(seeds[0])
    np.random.seed(seeds[1])
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
