"""Checks of what parts return, by shapes alone: maps of other channels or strides would be read in the wrong places.

`detection.testing` tries more of a part's contract; this is what a wrong result of training would not show.
"""

# B images, C channels, H×W feature map, N boxes of one image, R boxes of all images.

from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import Any

from torch import Tensor

from detection.errors import UserError


def require_features(features: Any, channels: Mapping[str, int], strides: Mapping[str, int], batch: Tensor) -> None:
    """Check that a backbone's feature maps have the channels and strides that it states.

    Args:
        features: what the backbone returned.
        channels: that it states for each map by name.
        strides: that it states, in pixels.
        batch: the images (B, 3, H, W) that it was given.

    Raises:
        UserError: naming the map.
    """
    if not isinstance(features, Mapping):
        raise UserError(f"detector.backbone: returned a {type(features).__name__}, not feature maps by name.")
    for name, count in channels.items():
        if name not in features:
            raise UserError(f"detector.backbone: out_channels states {name}, but it returned {', '.join(features)}.")
        found, stride = features[name], strides[name]
        # Batches are padded to multiples of 32: a map of a larger stride may be rounded down as well as up.
        up, down = (tuple(rounded(side / stride) for side in batch.shape[-2:]) for rounded in (ceil, floor))
        is_rounded_down = isinstance(found, Tensor) and found.shape[2:] == down
        expected = (len(batch), count, *(down if is_rounded_down else up))
        _require_shape(found, expected, f"detector.backbone: {name}", "its out_channels and strides", "check_backbone")


def require_map(found: Any, channels: int, source: Tensor) -> None:
    """Check that a context has the size of the map that it read, and the channels that it states.

    Raises:
        UserError: it has not.
    """
    expected = (source.shape[0], channels, *source.shape[2:])
    _require_shape(found, expected, "detector.context: its map", "out_channels and its input", "check_context")


def require_regions(found: Any, images: int) -> None:
    """Check that regions give boxes (N, 4) of each image, and a second result, the losses.

    Raises:
        UserError: they do not.
    """
    _require_boxes_and(found, images, "losses by name", "detector.regions", "check_regions")


def require_samples(found: Any, images: int) -> None:
    """Check that a head's `sample` gives boxes (N, 4) of each image, and a second result.

    Raises:
        UserError: it does not.
    """
    _require_boxes_and(found, images, "what forward needs to know of them", "detector.head.sample", "check_head")


def require_descriptors(found: Any, channels: int, size: int, boxes: Sequence[Tensor]) -> None:
    """Check that a pool gives a descriptor of the stated shape for each box.

    Raises:
        UserError: it does not.
    """
    expected = (sum(map(len, boxes)), channels, size, size)
    stated = "out_channels, output_size and the boxes"
    _require_shape(found, expected, "detector.pool: descriptors", stated, "check_pool")


def require_head_results(found: Any) -> None:
    """Check that a head gives two results, detections and losses.

    Raises:
        UserError: it does not.
    """
    if not _is_pair(found):
        raise UserError(
            "detector.head: must return two results, detections and losses by name; detection.testing.check_head "
            "tries it."
        )


def require_detections(found: Any, images: int) -> None:
    """Check that a head's detections are boxes (n, 4), labels (n,) and scores (n,) of each image.

    Raises:
        UserError: they are not.
    """
    is_list = isinstance(found, Sequence) and len(found) == images
    if not is_list or not all(isinstance(own, Mapping) for own in found):
        raise UserError(
            f"detector.head: must return a list of boxes (n, 4), labels (n,) and scores (n,) by name for each of "
            f"{images} images; detection.testing.check_head tries it."
        )
    for image, own in enumerate(found):
        boxes = own.get("boxes")
        count = len(boxes) if isinstance(boxes, Tensor) and boxes.ndim else 0
        for key, columns in (("boxes", (4,)), ("labels", ()), ("scores", ())):
            what = f"detector.head: {key} of image {image}"
            _require_shape(own.get(key), (count, *columns), what, "its boxes", "check_head")


def merge_losses(losses: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the losses of all parts by name.

    Args:
        losses: the losses of each part, by the part's name.

    Raises:
        UserError: losses without names, one that is not one number, or one that two parts name alike.
    """
    merged: dict[str, Tensor] = {}
    owners: dict[str, str] = {}
    for part, own in losses.items():
        if not isinstance(own, Mapping):
            raise UserError(f"detector.{part}: must return its losses by name in training, not a {type(own).__name__}.")
        for name, loss in own.items():
            if not isinstance(loss, Tensor) or loss.ndim:
                given = _described(loss)
                raise UserError(f"{name}: must be a tensor of one number, without dimensions, not {given}.")
            if name in owners:
                raise UserError(
                    f"{name}: is a loss of detector.{owners[name]} and of detector.{part}, and one would be lost; "
                    "rename one of them."
                )
            merged[name], owners[name] = loss, part
    return merged


def _require_boxes_and(found: Any, images: int, second: str, part: str, check: str) -> None:
    boxes = found[0] if _is_pair(found) else None
    if isinstance(boxes, Sequence) and len(boxes) == images:
        if all(isinstance(b, Tensor) and b.shape[1:] == (4,) for b in boxes):
            return
    raise UserError(
        f"{part}: must return a list of boxes (N, 4) for each of {images} images, and {second}; "
        f"detection.testing.{check} tries it."
    )


def _is_pair(found: Any) -> bool:
    return isinstance(found, Sequence) and len(found) == 2


def _require_shape(found: Any, expected: tuple[int, ...], what: str, stated: str, check: str) -> None:
    if isinstance(found, Tensor) and found.shape == expected:
        return
    given = _described(found)
    raise UserError(f"{what} must be of shape {expected} by {stated}, not {given}; detection.testing.{check} tries it.")


def _described(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
