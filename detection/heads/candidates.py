"""Candidates for detections: what is above a score threshold and has an area, of all images at once.

torchvision's `RoIHeads` decodes the boxes of all classes and goes image by image, three waits for a GPU each; here two
in all, and only what is above the threshold is decoded.
"""

# R regions of all images, S scores of one, M candidates of all images.

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from detection.contracts import Detections
from detection.ops.box_deltas import clip_rows
from detection.ops.ragged import image_indices

MIN_SIDE = 1e-2
"""Pixels of a box's sides below which it is no candidate, as in torchvision."""


def find_candidates(
    scores: Tensor,
    threshold: float,
    boxes_at: Callable[[Tensor, Tensor], Tensor],
    regions: Sequence[int],
    image_sizes: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Find the candidates of all images, region by region and in the order of its scores.

    Args:
        scores: (R, S).
        threshold: candidates are above it.
        boxes_at: boxes (M, 4) xyxy of scores by their rows (M,) and columns (M,).
        regions: regions of each image.
        image_sizes: (height, width) of each image, to which boxes are clipped.

    Returns:
        Rows (M,) and columns (M,) of the scores, boxes (M, 4), and the number of candidates of each image.
    """
    row, column = torch.where(scores > threshold)
    image = image_indices(regions, scores.device)[row]
    boxes = clip_rows(boxes_at(row, column), image, image_sizes)
    has_area = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(1)
    of_image = image == torch.arange(len(regions), device=image.device)[:, None]  # (B, M)
    counts = (of_image & has_area).sum(1).tolist()
    # Those with an area first, in their order: an index by booleans would wait for a GPU once more.
    kept = (~has_area).char().argsort(stable=True)[: sum(counts)]
    return row[kept], column[kept], boxes[kept], counts


def by_image(columns: Mapping[str, Tensor], counts: list[int]) -> Detections:
    """Return columns (M, …) of all images as those of each."""
    parts = (column.split(counts) for column in columns.values())
    return [dict(zip(columns, image, strict=True)) for image in zip(*parts, strict=True)]
