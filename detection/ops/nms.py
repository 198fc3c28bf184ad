"""Non-maximum suppression (NMS) of all images at once: of proposals in each level, of detections in each class.

On a CPU torchvision's `nms` runs once for each image, or, as in its `batched_nms`, for each level of an image that has
more than 1000 boxes: one call over all images would compare boxes of different images (205 against 16 ms for 32 images
of 300 boxes). What is kept is `batched_nms`'s, to the bit.

On a GPU torchvision's waits for the device in every call, and one thread block gathers what is kept (15 of 73 ms of a
training step of R50-FPN, H100, torch 2.11). There all images and levels are one pass of fixed size: a matrix of who
would suppress whom, and rounds of products with it.

B images, L levels, P boxes of all levels of one image, G = B·L groups of n boxes (padded) that compete.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from detection.ops.box_iou import iou_matrix
from detection.ops.ragged import Ragged, positions, to_device

MANY_BOXES = 1000
"""Boxes of an image above which torchvision's `batched_nms` takes each level by itself on a CPU."""

ROUNDS = 16
"""Rounds of the parallel NMS before it is asked whether it is done: more than chains of overlaps usually need."""

MAX_PAIRS = 2**25
"""Pairs of boxes whose IoUs are computed at once, about 20 bytes each; what they leave is 2 bytes a pair."""

MAX_CLASS_PAIRS = 2**27
"""Pairs of boxes, padded, for which the detections of all images are one pass on a GPU; more are a call an image."""


@torch.no_grad()
def select_by_nms(
    boxes: Tensor, scores: Tensor, valid: Tensor, levels: Sequence[int], iou: float, most: int
) -> tuple[Tensor, list[int]]:
    """Choose boxes by NMS in each level; on a GPU with one wait for the device.

    Args:
        boxes: (B, P, 4), level by level.
        scores: (B, P), at least 0.
        valid: (B, P), false for boxes to leave out.
        levels: boxes of each level; their sum is P.
        iou: a box is dropped over this IoU to a better one.
        most: boxes of an image that are kept at most.

    Returns:
        Positions (R,) in the flattened (B, P), image by image and by falling score, and the number of each image.
    """
    # Below all others, so that what is left out suppresses nothing.
    scores = torch.where(valid, scores, -1)
    choose = select_in_parallel if boxes.is_cuda else _by_image
    return choose(boxes, scores, levels, iou, most)


def _by_image(boxes: Tensor, scores: Tensor, levels: Sequence[int], iou: float, most: int) -> tuple[Tensor, list[int]]:
    """Choose as `select_by_nms` does, by one call an image."""
    counts = (scores >= 0).sum(1).tolist()
    level = to_device(np.repeat(np.arange(len(levels)), levels), boxes.device)
    # As `batched_nms`, to the bit: up to `MANY_BOXES` one call for all levels, moved apart, which rounds coordinates;
    # above it a call a level.
    near = boxes
    if len(levels) > 1 and min(counts) <= MANY_BOXES:
        near = _apart(boxes, level[None], scores)
    kept = []
    for image, (own, score) in enumerate(zip(near.unbind(), scores.unbind(), strict=True)):
        if counts[image] > MANY_BOXES:
            rows = torch.where(score >= 0)[0]
            chosen = rows[batched_nms(boxes[image, rows], score[rows], level[rows], iou)]
        else:
            chosen = nms(own, score, iou)
            if counts[image] < len(score):  # what was left out is the last, if it is there at all
                chosen = chosen[: int((score[chosen] >= 0).sum())]
        kept.append(chosen[:most])
    counts = [len(rows) for rows in kept]
    return _shifted(torch.cat(kept), counts, np.arange(len(kept)) * int(scores.shape[1])), counts


def _apart(boxes: Tensor, groups: Tensor, scores: Tensor) -> Tensor:
    """Return boxes (B, P, 4) moved as in `batched_nms`, so that none meets another of its groups (B or 1, P)."""
    highest = boxes.amax(2).masked_fill(scores < 0, -torch.inf).amax(1)  # (B,)
    return boxes + (groups.to(boxes.dtype) * (highest + 1)[:, None])[..., None]


def _shifted(places: Tensor, counts: list[int], shifts: np.ndarray) -> Tensor:
    """Return places (R,), as many of each image as `counts`, plus the shift of their image."""
    return places + to_device(np.repeat(shifts, counts), places.device)


@torch.no_grad()
def select_by_class(boxes: Ragged, labels: Tensor, scores: Tensor, iou: float, most: int) -> tuple[Tensor, list[int]]:
    """Choose boxes by NMS in each class, as `batched_nms` does; on a GPU with one wait for the device.

    Args:
        boxes: (M, 4) of all images.
        labels: (M,).
        scores: (M,), at least 0.
        iou: a box is dropped over this IoU to a better one of its class.
        most: boxes of an image that are kept at most.

    Returns:
        Indices (R,) of boxes, image by image and by falling score, and the number of each image.
    """
    if boxes.rows.is_cuda and len(boxes.counts) * max(boxes.counts) ** 2 <= MAX_CLASS_PAIRS:
        return select_classes_in_parallel(boxes, labels, scores, iou, most)
    images = zip(*(t.split(list(boxes.counts)) for t in (boxes.rows, scores, labels)), strict=True)
    kept = [batched_nms(*image, iou_threshold=iou)[:most] for image in images]
    counts = [len(rows) for rows in kept]
    return _shifted(torch.cat(kept), counts, boxes.starts), counts


def select_classes_in_parallel(
    boxes: Ragged, labels: Tensor, scores: Tensor, iou: float, most: int
) -> tuple[Tensor, list[int]]:
    """Choose as `select_by_class` does, in one pass."""
    padded, inside = boxes.padded()  # (B, P, 4), (B, P)
    labels, scores = (Ragged(t, boxes.counts).padded()[0] for t in (labels, scores))
    scores = scores.masked_fill(~inside, -1)
    width = padded.shape[1]
    places, counts = select_in_parallel(_apart(padded, labels, scores), scores, [width], iou, most)
    return _shifted(places, counts, boxes.starts - np.arange(len(padded)) * width), counts


def select_in_parallel(
    boxes: Tensor, scores: Tensor, levels: Sequence[int], iou: float, most: int
) -> tuple[Tensor, list[int]]:
    """Choose as `select_by_nms` does, in one pass; what has a score below 0 is left out."""
    kept, counts = keep_in_parallel(boxes, scores, levels, iou)
    order = torch.where(kept, scores, -1).sort(dim=1, descending=True, stable=True).indices
    images, width = order.shape  # B, P
    first = torch.arange(images, device=order.device)[:, None] * width
    counts = [min(count, most) for count in counts]
    return (order + first).flatten()[positions(counts, width, order.device)], counts


def keep_in_parallel(boxes: Tensor, scores: Tensor, levels: Sequence[int], iou: float) -> tuple[Tensor, list[int]]:
    """Return what is kept (B, P) and how many of each image, with one wait for the device.

    What is kept repeats itself under "kept are those that nothing kept suppresses" only if it is the greedy answer, and
    each round settles at least one more box of every group from the top.
    """
    index, inside = _by_level(levels)
    places = to_device(index, boxes.device)
    valid = (scores >= 0)[:, places] & to_device(inside, boxes.device)  # (B, L, n)
    ranked = torch.where(valid, scores[:, places], -1).flatten(0, 1)  # (G, n)
    order = ranked.sort(dim=1, descending=True, stable=True).indices
    valid = valid.flatten(0, 1).gather(1, order)  # (G, n)
    own = boxes[:, places].flatten(0, 1).gather(1, order[..., None].expand(-1, -1, 4))  # (G, n, 4)
    parts = own.split(max(1, MAX_PAIRS // order.shape[1] ** 2))
    over = torch.cat([_suppresses(part, iou) for part in parts])  # (G, n, n)
    keep = before = valid
    while True:
        for _ in range(ROUNDS):
            # How many kept boxes suppress each. Only 0 counts, and no sum of ones is rounded to it in float16.
            before, keep = keep, valid & ((keep[:, None].to(over.dtype) @ over)[:, 0] == 0)
        # Of each image, over its levels (B, L·n), and whether the last round changed anything.
        numbers = torch.cat([keep.view(len(boxes), -1).sum(1), (keep != before).any()[None]])
        *counts, unsettled = numbers.tolist()  # the one wait
        if not unsettled:
            break
    by_place = torch.zeros_like(keep).scatter_(1, order, keep).view(len(boxes), -1)  # (B, L·n)
    return by_place[:, to_device(np.flatnonzero(inside.ravel()), boxes.device)], counts


def _by_level(levels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the place (L, n) of each level's boxes among all, and whether it is one and no padding (L, n)."""
    counts, within = np.array(levels)[:, None], np.arange(max(levels))
    inside = within < counts
    return np.where(inside, np.cumsum(counts, 0) - counts + within, 0), inside


def _suppresses(boxes: Tensor, iou: float) -> Tensor:
    """Return 1 where a box (G, n, 4) would suppress a later one (G, n, n), else 0."""
    # torchvision compares an IoU, widened to float64, with the threshold. So is this, without widening: a float32 is
    # above the threshold if it is above the largest float32 that is not.
    bound = float(np.float32(iou))
    if boxes.dtype == torch.float32 and bound > iou:
        bound = float(np.nextafter(np.float32(iou), np.float32(-1)))
    over = iou_matrix(boxes, boxes) > (bound if boxes.dtype == torch.float32 else iou)
    return over.triu_(1).to(torch.float16 if boxes.is_cuda else torch.float32)
