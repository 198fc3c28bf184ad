"""Checks of the images and targets that are handed to a detector, before anything is computed from them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detection.errors import UserError

# B images, N boxes of one image, M of all images, K classes.

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def require_images(images: Any, values: bool) -> None:
    """Check images: (3, H, W) each, uint8, or float in [0, 1].

    Args:
        images: what the detector was called with.
        values: whether to check the values too, which waits for a GPU.

    Raises:
        UserError: naming the image, what it is and what to do.
    """
    if isinstance(images, Tensor) and images.ndim == 3:
        raise UserError("images: is one tensor; give a list of images, such as [image].")
    if not isinstance(images, list | tuple | Tensor):
        raise UserError(f"images: is a {type(images).__name__}; give a list of tensors (3, H, W), or use Predictor.")
    for i, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise UserError(
                f"images[{i}]: is a {type(image).__name__}; give tensors (3, H, W), or use detection.Predictor, which "
                "takes paths, PIL images and arrays."
            )
        if image.ndim != 3 or image.shape[0] != 3:
            hint = "permute(2, 0, 1) makes it so" if image.ndim == 3 and image.shape[-1] == 3 else "RGB is needed"
            raise UserError(f"images[{i}]: has shape {tuple(image.shape)}, not (3, H, W); {hint}.")
        if 0 in image.shape:
            raise UserError(f"images[{i}]: has shape {tuple(image.shape)}, no pixels; leave it out.")
        if image.dtype != torch.uint8 and image.dtype not in _FLOATS:
            raise UserError(f"images[{i}]: is {image.dtype}; give uint8, or float in [0, 1].")
        if values and image.dtype != torch.uint8:
            _require_unit_range(i, image)


def _require_unit_range(i: int, image: Tensor) -> None:
    low, high = torch.stack(image.aminmax()).tolist()
    # A little beyond is what resizing with antialiasing leaves; NaN fails each comparison.
    if -0.1 <= low and high <= 1.1:
        return
    if low < -0.1:
        hint = "do not normalize it, the detector does"
    elif high > 1.1:
        hint = "divide it by 255, or give uint8"
    else:
        hint = "it is not finite"
    raise UserError(f"images[{i}]: has values from {low:.3g} to {high:.3g}, but float images are in [0, 1]: {hint}.")


def require_targets(images: Sequence[Tensor], targets: Any, num_classes: int | None, values: bool) -> None:
    """Check the ground truth of images: `boxes` (N, 4) float xyxy in pixels and `labels` (N,) int64, 1 … K.

    `ignored` (I, 4), the crowd regions, may be missing.

    Args:
        images: (3, H, W) each.
        targets: what the detector was called with.
        num_classes: K; None: unknown.
        values: whether to check the values too, which waits for a GPU.

    Raises:
        UserError: naming the target, its box or label, and what to do.
    """
    if targets is None:
        raise UserError("targets: are needed in training mode; call detector.eval() to detect.")
    if len(targets) != len(images):
        raise UserError(f"targets: are {len(targets)} for {len(images)} images; give one dictionary for each image.")
    for i, target in enumerate(targets):
        for key, shape in (("boxes", "(N, 4)"), ("labels", "(N,)")):
            if not isinstance(target.get(key), Tensor):
                raise UserError(f"targets[{i}]: has no tensor {key!r} {shape}.")
        boxes, labels = target["boxes"], target["labels"]
        for key, own in (("boxes", boxes), ("ignored", target.get("ignored", boxes))):
            if own.ndim != 2 or own.shape[1] != 4 or not own.is_floating_point():
                raise UserError(f"targets[{i}][{key!r}]: is {tuple(own.shape)} {own.dtype}, not (N, 4) of float32.")
        if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
            raise UserError(
                f"targets[{i}]['labels']: is {tuple(labels.shape)} {labels.dtype}, not ({len(boxes)},) of int64."
            )
    if values:
        _require_values(images, targets, num_classes)


def _require_values(images: Sequence[Tensor], targets: list[dict[str, Tensor]], num_classes: int | None) -> None:
    """Check all boxes and labels at once, and single ones only where something is wrong."""
    counts = [len(t["boxes"]) for t in targets]
    if not sum(counts):
        return
    boxes, labels = torch.cat([t["boxes"] for t in targets]), torch.cat([t["labels"] for t in targets])  # (M, 4), (M,)
    sizes = torch.tensor([[i.shape[-1], i.shape[-2]] for i in images], device=boxes.device)
    sizes = sizes.repeat_interleave(torch.tensor(counts, device=boxes.device), 0)  # (M, 2), width and height
    checks = (
        (~boxes.isfinite().all(1), "is not finite; leave it out"),
        ((boxes[:, 2:] <= boxes[:, :2]).any(1), "has no area: boxes are x1, y1, x2, y2, not x, y, width, height"),
        ((boxes[:, :2] >= sizes).any(1) | (boxes[:, 2:] <= 0).any(1), "is outside of its image"),
        ((boxes <= 1).all().expand(len(boxes)), "is in 0 … 1: multiply by the image's width and height"),
    )
    wrong_label = (labels < 1) | (labels > (num_classes or torch.iinfo(torch.int64).max))
    if not torch.stack([wrong for wrong, _ in checks] + [wrong_label]).any():
        return
    owners = [(i, j) for i, count in enumerate(counts) for j in range(count)]
    for wrong, sentence in checks:
        if wrong.any():
            i, j = owners[int(wrong.nonzero()[0])]
            values = ", ".join(f"{v:g}" for v in targets[i]["boxes"][j].tolist())
            raise UserError(f"targets[{i}]['boxes'][{j}]: [{values}] {sentence}.")
    i, j = owners[int(wrong_label.nonzero()[0])]
    known = f"1 … {num_classes}" if num_classes else "1 …"
    raise UserError(f"targets[{i}]['labels'][{j}]: is {int(labels[wrong_label][0])}, but labels are {known}.")
