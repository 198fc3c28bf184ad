"""Box operations on a batch of any size in an ONNX trace: what a Python loop over images does elsewhere.

Each image has as many rows as the one with the most; a row that is not there has a score below 0.
"""

# B images, N rows of one, C classes or levels, S selected boxes.

import sys
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from detection.heads.candidates import MIN_SIDE
from detection.ops.sweep.traced import DOMAIN

ABSENT = -1.0
"""Score of a row that is not there."""


@dataclass(frozen=True)
class Candidates:
    """Boxes that may be detections.

    Attributes:
        boxes: (B, N, 4) xyxy in pixels of the batch.
        labels: (B, N), 1 … K.
        scores: (B, N), `ABSENT` where there is no candidate.
        regions: (B, N), the region that each comes from.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    regions: Tensor

    def best(self, scores: Tensor, most: int | None = None) -> "Candidates":
        """Return those with the best scores (B, N), which become theirs, at most `most` of an image."""
        scores, index = best(scores, most)
        rows = (getattr(self, field.name) for field in fields(self))
        boxes, labels, _, regions = (take(t, index) for t in rows)
        return Candidates(boxes, labels, scores, regions)

    def with_area(self) -> "Candidates":
        """Return these without the boxes that are too thin to be a detection."""
        has_area = (self.boxes[..., 2:] - self.boxes[..., :2] >= MIN_SIDE).all(-1)
        return Candidates(self.boxes, self.labels, torch.where(has_area, self.scores, ABSENT), self.regions)


def best(scores: Tensor, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the best scores (B, n), falling, and where they are among (B, N).

    n is the number of scores of the image that has the most of them, and at least 1 and at most `most`.
    """
    count = (scores >= 0).sum(1).max().clamp(1, most)
    return scores.topk(count, 1)  # type: ignore[arg-type]  # an int in a trace


def take(rows: Tensor, index: Tensor) -> Tensor:
    """Return the rows (B, n, …) of (B, N, …) at each image's own indices (B, n)."""
    if rows.ndim == 2:
        return rows.gather(1, index)
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Return boxes (B, N, 4) clipped to their images, of sizes (B, 2) height and width."""
    limits = sizes[:, [1, 0, 1, 0]].to(boxes.dtype)
    return boxes.clamp(min=0).minimum(limits[:, None])


def survivors(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Return booleans (B, N): boxes (B, N, 4) that NMS keeps in one of C classes, with scores (B, C, N)."""
    selected = _NMS.apply(boxes, scores, iou)  # (S, 3): image, class, box
    assert isinstance(selected, Tensor)
    kept = torch.zeros_like(boxes[..., 0])
    ones = torch.ones_like(selected[:, 0], dtype=kept.dtype)
    return kept.index_put((selected[:, 0], selected[:, 2]), ones) > 0


def in_classes(scores: Tensor, classes: Tensor, count: int) -> Tensor:
    """Return scores (B, N) of `classes` (B or 1, N), 0 … C − 1, as (B, C, N): `ABSENT` in the others."""
    own = classes[:, None] == torch.arange(count)[:, None]
    return torch.where(own, scores[:, None], ABSENT)


def settled(over: Tensor) -> Tensor:
    """Return booleans (B, N): what greedy suppression keeps, where (B, N, N) is 1 if the row suppresses the column."""
    kept = _Settle.apply(over)
    assert isinstance(kept, Tensor)
    return kept > 0


# What these operations return in a trace is read by nothing; the graph is made of shapes.


class _NMS(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
        return torch.zeros(1, 3, dtype=torch.int64)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou: float) -> Any:
        # Most boxes of a class; IoU; least score: below that of any candidate, above that of a row that is not there.
        limits = (torch.tensor([sys.maxsize]), torch.tensor([iou]), torch.tensor([ABSENT / 2]))
        constants = [g.op("Constant", value_t=limit) for limit in limits]
        return g.op("NonMaxSuppression", boxes, scores, *constants)


class _Settle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, over: Tensor) -> Tensor:
        return torch.ones_like(over[:, 0])

    @staticmethod
    def symbolic(g: Any, over: Any) -> Any:
        return g.op(f"{DOMAIN}::Settle", over).setType(over.type().with_sizes([None, None]))
