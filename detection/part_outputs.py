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


def require_boxes(boxes: Any, images: int) -> None:
    """Check that regions are boxes (N, 4) of each image.

    Raises:
        UserError: they are not.
    """
    if not isinstance(boxes, Sequence) or len(boxes) != images or any(b.shape[1:] != (4,) for b in boxes):
        raise UserError(
            f"detector.regions: must return a list of boxes (N, 4) for each of {images} images; "
            "detection.testing.check_regions tries it."
        )


def require_descriptors(found: Any, channels: int, size: int, boxes: Sequence[Tensor]) -> None:
    """Check that a pool gives a descriptor of the stated shape for each box.

    Raises:
        UserError: it does not.
    """
    expected = (sum(map(len, boxes)), channels, size, size)
    stated = "out_channels, output_size and the boxes"
    _require_shape(found, expected, "detector.pool: descriptors", stated, "check_pool")


def require_losses(losses: Mapping[str, Any]) -> None:
    """Check that each loss is one number.

    Raises:
        UserError: naming the loss.
    """
    for name, loss in losses.items():
        if not isinstance(loss, Tensor) or loss.ndim:
            given = f"of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise UserError(f"{name}: must be a tensor of one number, without dimensions, not {given}.")


def _require_shape(found: Any, expected: tuple[int, ...], what: str, stated: str, check: str) -> None:
    if isinstance(found, Tensor) and found.shape == expected:
        return
    given = f"of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    raise UserError(f"{what} must be of shape {expected} by {stated}, not {given}; detection.testing.{check} tries it.")
