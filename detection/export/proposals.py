"""The regions in an ONNX trace: as many boxes of every image, on a batch of any size."""

# B images, A anchors of one level, P proposals before and N after NMS of one image, L levels.

from functools import singledispatch

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import _topk_min

from detection.contracts import Features
from detection.errors import UserError
from detection.export.boxes import ABSENT, best, clip, in_classes, survivors, take
from detection.ops.box_deltas import decode_deltas
from detection.regions import RPN, GridCells


@singledispatch
def proposals(regions: nn.Module, batch: Tensor, sizes: Tensor, features: Features) -> tuple[Tensor, Tensor]:
    """Return boxes (B, N, 4) and booleans (B, N), which of them there are.

    Args:
        regions: the part.
        batch: (B, 3, H, W).
        sizes: (B, 2) int64, height and width of each image inside the batch.
        features: every feature map by name.

    Raises:
        UserError: regions that are none of the package's.
    """
    raise UserError(f"{type(regions).__name__}: only RPN and GridCells can be exported as regions.")


@proposals.register
def _(regions: RPN, batch: Tensor, sizes: Tensor, features: Features) -> tuple[Tensor, Tensor]:
    rpn = regions.rpn
    maps = [features[stage] for stage in regions.stages]
    parts = []
    for level, (scores, deltas, anchors) in enumerate(
        zip(*rpn.head(maps), _anchors(regions, batch, maps), strict=True)
    ):
        scores = scores.permute(0, 2, 3, 1).flatten(1)  # (B, A)
        deltas = deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)  # (B, A, 4)
        scores, index = scores.topk(_topk_min(scores, rpn.pre_nms_top_n(), 1), 1)
        boxes = clip(decode_deltas(rpn.box_coder, take(deltas, index), anchors[index]), sizes)
        parts.append((boxes, scores.sigmoid(), torch.full_like(index[:1], level)))
    boxes, scores, levels = (torch.cat(column, 1) for column in zip(*parts, strict=True))
    valid = (boxes[..., 2:] - boxes[..., :2] >= rpn.min_size).all(-1) & (scores >= rpn.score_thresh)
    scores = torch.where(valid, scores, ABSENT)
    kept = survivors(boxes, in_classes(scores, levels, len(maps)), rpn.nms_thresh)
    scores, index = best(torch.where(kept, scores, ABSENT), rpn.post_nms_top_n())
    return take(boxes, index), scores >= 0


def _anchors(regions: RPN, batch: Tensor, maps: list[Tensor]) -> list[Tensor]:
    """Return the anchors (A, 4) of each level."""
    generator = regions.rpn.anchor_generator
    generator.set_cell_anchors(maps[0].dtype, maps[0].device)
    grids = [m.shape[-2:] for m in maps]
    strides = [[torch.as_tensor(batch.shape[2 + axis] // grid[axis]) for axis in range(2)] for grid in grids]
    return generator.grid_anchors(grids, strides)  # type: ignore[arg-type]


@proposals.register
def _(regions: GridCells, batch: Tensor, sizes: Tensor, features: Features) -> tuple[Tensor, Tensor]:
    tops, lefts = (torch.arange(0, side, regions.stride) for side in batch.shape[-2:])
    centers = [start.float() + regions.stride / 2 for start in (tops, lefts)]
    y, x = torch.meshgrid(*centers, indexing="ij")
    centers = torch.stack([x, y], -1).reshape(-1, 2)  # (N, 2)
    windows = torch.cat([centers - regions.window / 2, centers + regions.window / 2], 1)
    inside = (tops < sizes[:, :1])[:, :, None] & (lefts < sizes[:, 1:])[:, None]  # (B, rows, columns)
    return windows.expand(sizes.shape[0], -1, -1), inside.flatten(1)
