"""Matching the boxes that a region says with its truths, and the loss over both (Stewart, Andriluka and Ng 2016).

A region has T steps, each with one box and its class. The matching says which step answers for which truth; the other
steps are to say background. It is a constant of the loss. The costs are those of ReInspect and of today's set
predictors. All of it is batched over regions and, up to five steps, without waiting for the GPU.

R regions of all images, T steps, N truths of a region (padded), M truths of one image, K classes. Boxes are xyxy in
pixels, codes are boxes in the units of the box loss, whatever these are.
"""

from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Literal, Protocol

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_convert

from detection.errors import UserError

Strategy = Literal["hungarian", "first_k", "fixed"]


@dataclass(frozen=True)
class Truths:
    """What each region should say.

    Attributes:
        boxes: (R, N, 4) xyxy.
        codes: (R, N, 4), the same in the units of the box loss.
        labels: (R, N) 1 … K, anything at padding.
        valid: (R, N), false at padding.
    """

    boxes: Tensor
    codes: Tensor
    labels: Tensor
    valid: Tensor


def keep_nearest(belongs: Tensor, distance: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The truths of each region that it has steps for: the nearest, whatever their order in the file.

    Args:
        belongs: (R, M), which truths of the image a region may answer for.
        distance: (R, M) from its centre; the earlier of two at the same distance comes first.
        steps: T.

    Returns:
        Indices (R, T) of truths, the nearest first, M at padding; and valid (R, T), false there.
    """
    count = belongs.shape[1]
    order = distance.masked_fill(~belongs, torch.inf).argsort(dim=1, stable=True)[:, :steps]
    order = F.pad(order, (0, steps - order.shape[1]), value=count)
    valid = F.pad(belongs, (0, 1)).gather(1, order)
    return order.masked_fill(~valid, count), valid


def take(values: Tensor, indices: Tensor) -> Tensor:
    """Rows of `values` (M, …) at `keep_nearest`'s indices (R, T), zeros at padding: (R, T, …)."""
    return torch.cat([values, values.new_zeros(1, *values.shape[1:])])[indices]


class Cost(Protocol):
    """What it costs that a step answers for a truth; frozen settings, float64 and no gradient."""

    def cost(self, boxes: Tensor, codes: Tensor, logits: Tensor, truths: Truths) -> Tensor:
        """Boxes (R, T, 4) xyxy, their codes (R, T, 4) and logits (R, T, 1 + K) → (R, T, N), anything at padding."""
        ...


@dataclass(frozen=True)
class Lexicographic:
    """ReInspect's cost: first to overlap, then the order of the steps, then the L1 distance of the codes.

    Of two matchings the one with fewer steps off their truths is cheaper; if equal, the one with earlier steps; if
    equal, the one with the smaller sum of distances. Classes have no say.

    Attributes:
        centre_offset: a step is off its truth when its centre is further away than this part of the truth's width, or
            of its height (the paper); None: by `iou`.
        iou: it is off when its IoU is below this (TensorBox, 0.25).
    """

    centre_offset: float | None = 0.5
    iou: float | None = None

    def __post_init__(self) -> None:
        if (self.centre_offset is None) == (self.iou is None):
            raise UserError(
                f"Lexicographic(centre_offset={self.centre_offset}, iou={self.iou}): needs exactly one of the two; "
                "for the IoU say centre_offset=None, iou=0.25."
            )
        if self.centre_offset is not None and not self.centre_offset > 0:
            raise UserError(f"Lexicographic(centre_offset={self.centre_offset}): must be above 0, such as 0.5.")
        if self.iou is not None and not 0 < self.iou <= 1:
            raise UserError(f"Lexicographic(iou={self.iou}): is an IoU, in (0, 1], such as 0.25.")

    @torch.no_grad()
    def cost(self, boxes: Tensor, codes: Tensor, logits: Tensor, truths: Truths) -> Tensor:
        """See `Cost`."""
        steps = boxes.shape[1]
        distance = _l1(codes, truths.codes)
        # Sums over a matching are compared, so one unit of each place must outweigh all T terms of the next: distances
        # are scaled, region by region, to a sum of at most 1/2, and ranks are integers with a sum below T², the price
        # of one step off. The authors' 100, 1 and 1/2000 fail once distances sum to 2000 pixels.
        own = F.pad(distance.masked_fill(~truths.valid[:, None], 0).flatten(1), (0, 1))  # one more, for N = 0
        scale = 2 * steps * own.amax(1).clamp(min=1e-300)
        rank = torch.arange(steps, device=boxes.device, dtype=torch.float64)
        off = self._off(boxes.double(), truths.boxes.double())
        return steps**2 * off + rank[:, None] + distance / scale[:, None, None]

    def _off(self, boxes: Tensor, truths: Tensor) -> Tensor:
        if self.iou is not None:
            return pairwise_iou(boxes, truths)[0] < self.iou
        assert self.centre_offset is not None
        ours, theirs = (box_convert(b, "xyxy", "cxcywh") for b in (boxes, truths))
        offset = (ours[:, :, None, :2] - theirs[:, None, :, :2]).abs()  # (R, T, N, 2)
        return (offset > self.centre_offset * theirs[:, None, :, 2:]).any(-1)


@dataclass(frozen=True)
class SetCost:
    """The cost of today's set predictors (DETR, Carion et al. 2020), a weighted sum.

    Attributes:
        l1: weight of the L1 distance of the codes; DETR's are relative to the picture's size.
        giou: weight of −GIoU.
        label: weight of −(probability of the truth's class).
    """

    l1: float = 5.0
    giou: float = 2.0
    label: float = 1.0

    @torch.no_grad()
    def cost(self, boxes: Tensor, codes: Tensor, logits: Tensor, truths: Truths) -> Tensor:
        """See `Cost`."""
        labels = truths.labels.where(truths.valid, 0)[:, None].expand(-1, boxes.shape[1], -1)
        probability = logits.double().softmax(-1).gather(2, labels)
        giou = _pairwise_giou(boxes.double(), truths.boxes.double())
        return self.l1 * _l1(codes, truths.codes) - self.giou * giou - self.label * probability


def _l1(codes: Tensor, truths: Tensor) -> Tensor:
    return torch.cdist(codes.double(), truths.double(), p=1)  # (R, T, N); autocast leaves float64 alone


def pairwise_iou(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (…, T, 4) and others (…, N, 4) → their IoUs (…, T, N), and unions in pixels.

    Side by side, which on a CPU is two to three times as fast as torchvision's `box_iou`; equal to it to the bit.
    """
    x1, y1, x2, y2 = boxes[..., :, None, :].unbind(-1)
    left, top, right, bottom = others[..., None, :, :].unbind(-1)
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp(min=0)
    inter = width * (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp(min=0)
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - inter
    return inter / union, union


def _pairwise_giou(boxes: Tensor, others: Tensor) -> Tensor:
    iou, union = pairwise_iou(boxes, others)
    x1, y1, x2, y2 = boxes[..., :, None, :].unbind(-1)
    left, top, right, bottom = others[..., None, :, :].unbind(-1)
    width, height = (
        torch.maximum(x2, right) - torch.minimum(x1, left),
        torch.maximum(y2, bottom) - torch.minimum(y1, top),
    )
    return iou - 1 + union / (width * height)


@torch.no_grad()
def match(cost: Tensor, truths: Truths, strategy: Strategy = "hungarian") -> Tensor:
    """Which truth each step answers for; every truth has a step.

    Args:
        cost: (R, T, N), no more truths than steps, which `keep_nearest` sees to.
        truths: of these regions.
        strategy: `hungarian`, the cheapest matching of all; `first_k`, the cheapest in which the first steps answer, as
            many as there are truths; `fixed`, from top to bottom, then left to right, by the truths' centres.

    Returns:
        Indices (R, T) of truths, -1 for none. Of equally cheap matchings the first in the order of `by_permutations`,
        but for rounding; `by_scipy` says nothing about ties.
    """
    _, steps, count = cost.shape
    if count > steps:
        raise ValueError(f"{count} truths for {steps} steps: keep the nearest first.")
    valid = F.pad(truths.valid, (0, steps - count))  # (R, T)
    if strategy == "fixed":
        columns = _reading_order(F.pad(truths.boxes, (0, 0, 0, steps - count)), valid)
    else:
        # Padding is free for all steps, and numbers that are not finite are too: the loss is to tell of these.
        cost = F.pad(cost.double(), (0, steps - count)).nan_to_num(0, 0, 0).masked_fill(~valid[:, None], 0)
        if strategy == "first_k":
            late = torch.arange(steps, device=cost.device) >= valid.sum(1, keepdim=True)  # (R, T)
            # More than any matching without it; infinity would turn the zeros of a matrix product into NaN.
            forbidden = 2 * steps * cost.abs().amax((1, 2), keepdim=True) + 1
            cost = torch.where(late[:, :, None] & valid[:, None], forbidden, cost)
        columns = by_permutations(cost) if steps <= 5 else by_scipy(cost)
    return columns.where(valid.gather(1, columns), -1)


def _reading_order(boxes: Tensor, valid: Tensor) -> Tensor:
    order = torch.arange(boxes.shape[1], device=boxes.device).expand(valid.shape)
    centre_x, centre_y = boxes[..., 0] + boxes[..., 2], boxes[..., 1] + boxes[..., 3]
    for key in (centre_x, centre_y, (~valid).byte()):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    return order


def by_permutations(cost: Tensor) -> Tensor:
    """The cheapest assignments of costs (R, T, T) float64, all T! of each region tried at once: columns (R, T).

    Of equal ones the first in the order of `itertools.permutations`, in which the first step has the earliest column.
    """
    columns, chosen = _permutations(cost.shape[1], cost.device)
    return columns[(cost.flatten(1) @ chosen).argmin(1)]


@cache
def _permutations(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    columns = torch.tensor(list(permutations(range(size))))  # (T!, T)
    chosen = F.one_hot(columns, size).flatten(1).T.double()  # (T·T, T!): its product with costs sums each permutation
    return columns.to(device), chosen.contiguous().to(device)


def by_scipy(cost: Tensor) -> Tensor:
    """The same as `by_permutations` for any number of steps, region by region on the CPU."""
    columns = np.tile(np.arange(cost.shape[1]), (len(cost), 1))
    matrices = cost.cpu().numpy()
    for region in np.flatnonzero(matrices.any((1, 2))):  # where all is free any assignment will do
        columns[region] = linear_sum_assignment(matrices[region])[1]
    return torch.from_numpy(columns).to(cost.device)


def set_loss(
    codes: Tensor,
    logits: Tensor,
    matched: Tensor,
    truths: Truths,
    *,
    box_weight: float = 0.03,
    background_weight: float = 1.0,
    giou_weight: float = 0.0,
    boxes: Tensor | None = None,
) -> dict[str, Tensor]:
    """The loss of a matching, summed over steps and divided by the number of regions, as TensorBox does.

    Args:
        codes: (R, T, 4).
        logits: (R, T, 1 + K), the background first.
        matched: (R, T), what `match` gives.
        truths: of these regions.
        box_weight: of the L1 distance between the codes of matched steps and truths.
        background_weight: of the cross-entropy of the other steps.
        giou_weight: of 1 − GIoU of matched steps, part of the box loss (Carion et al. 2020); needs `boxes`.
        boxes: (R, T, 4) xyxy with their gradient.

    Returns:
        `loss_classifier` and `loss_box_reg`; both 0 without regions, the second without truths.
    """
    regions = max(len(codes), 1)
    answers = matched >= 0
    # One row more, that of padding, for steps without a truth: it has label 0, the background.
    rows = matched.where(answers, truths.labels.shape[1])
    labels = F.pad(truths.labels, (0, 1)).gather(1, rows)
    corner_rows = rows[..., None].expand(-1, -1, 4)
    target = F.pad(truths.codes, (0, 0, 0, 1)).gather(1, corner_rows)
    box_loss = box_weight * _wide(codes).sub(target).where(answers[..., None], 0).abs().sum()
    if giou_weight:
        assert boxes is not None, "the GIoU is of boxes, not of codes"
        # A box with an area, because the gradient of a GIoU without one is NaN even where it is masked.
        some_box = torch.arange(4, device=boxes.device).expand(len(boxes), 1, 4)
        target = torch.cat([truths.boxes, some_box], dim=1).gather(1, corner_rows).to(_wide(boxes).dtype)
        giou = _pairwise_giou(_wide(boxes)[:, :, None], target[:, :, None])[..., 0, 0]  # (R, T)
        box_loss = box_loss + giou_weight * (1 - giou).where(answers, 0).sum()
    entropy = F.cross_entropy(_wide(logits).flatten(0, 1), labels.flatten(), reduction="none")
    entropy = torch.where(answers.flatten(), entropy, background_weight * entropy)
    return {"loss_classifier": entropy.sum() / regions, "loss_box_reg": box_loss / regions}


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
