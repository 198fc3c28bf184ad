"""Matching of decoded boxes with ground-truth boxes, and the loss over both (Stewart, Andriluka and Ng 2016).

A region has T steps, each with one box and its class. The matching assigns steps to ground-truth boxes; the other steps
should predict background. It is a constant of the loss. The costs are those of ReInspect and of set predictors
(`costs.py`), and that of CrowdDet is the loss (`loss_cost`). All of it is batched over regions and, up to five steps,
without waiting for the GPU.

R regions of all images, T steps, N ground-truth boxes of a region (padded), M ground-truth boxes of one image, K
classes. Boxes are xyxy in pixels, codes are boxes in the units of the box loss, whatever these are.
"""

from functools import cache
from itertools import permutations
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from detection.contracts import at_least_float32
from detection.heads.classifier_loss import CROSS_ENTROPY, ClassifierLoss
from detection.heads.costs import pairwise_giou
from detection.heads.region_targets import RegionTargets
from detection.ops.box_iou import pairwise_iou
from detection.ops.double import widen, widest

Strategy = Literal["hungarian", "first_k", "fixed", "emd", "by_iou"]


@torch.no_grad()
def match(
    cost: Tensor, region_targets: RegionTargets, strategy: Strategy = "hungarian", regions: Tensor | None = None
) -> Tensor:
    """Match each step with a ground-truth box; every one of these has a step.

    Args:
        cost: (R, T, N), no more ground-truth boxes than steps, which `keep_nearest` sees to.
        region_targets: of these regions.
        strategy: `hungarian`, the cheapest matching of all; `first_k`, the cheapest in which the first steps answer, as
            many as there are ground-truth boxes; `fixed`, from top to bottom, then left to right, by the ground-truth
            boxes' centers; `emd`, the matching of least loss (Chu et al. 2020, CrowdDet), which is the cheapest by
            `loss_cost`; `by_iou`, by falling IoU with the region, in which CrowdDet orders the ground truth.
        regions: (R, 4) xyxy, which `by_iou` needs.

    Returns:
        Indices (R, T) of ground-truth boxes, -1 for none. Of equally cheap matchings the first in the order of
        `by_permutations`, but for rounding; `by_scipy` promises nothing about ties.
    """
    _, steps, count = cost.shape
    if count > steps:
        raise ValueError(f"{count} ground-truth boxes for {steps} steps: keep the nearest first.")
    valid = F.pad(region_targets.valid, (0, steps - count))  # (R, T)
    if strategy in ("fixed", "by_iou"):
        boxes = F.pad(region_targets.boxes, (0, 0, 0, steps - count))
        columns = _in_order(_reading_keys(boxes) if strategy == "fixed" else _iou_keys(boxes, regions), valid)
    else:
        # Padding is free for all steps, and values that are not finite are too: the loss shall report these.
        cost = F.pad(widen(cost), (0, steps - count)).nan_to_num(0, 0, 0).masked_fill(~valid[:, None], 0)
        if strategy == "first_k":
            late = torch.arange(steps, device=cost.device) >= valid.sum(1, keepdim=True)  # (R, T)
            # More than any matching without it; infinity would turn the zeros of a matrix product into NaN.
            forbidden = 2 * steps * cost.abs().amax((1, 2), keepdim=True) + 1
            cost = torch.where(late[:, :, None] & valid[:, None], forbidden, cost)
        columns = by_permutations(cost) if steps <= 5 else by_scipy(cost)
    return columns.where(valid.gather(1, columns), -1)


def _reading_keys(boxes: Tensor) -> list[Tensor]:
    return [boxes[..., 0] + boxes[..., 2], boxes[..., 1] + boxes[..., 3]]


def _iou_keys(boxes: Tensor, regions: Tensor | None) -> list[Tensor]:
    assert regions is not None, "the IoU is with the regions"
    return [-pairwise_iou(widen(regions[:, None]), widen(boxes))[0][:, 0]]


def _in_order(keys: list[Tensor], valid: Tensor) -> Tensor:
    """Return the order (R, T) of rising keys (R, T), the last of them first, with padding at the end."""
    # Stable sorts by one key after another leave the last key decisive.
    order = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)  # (R, T)
    for key in (*keys, (~valid).byte()):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    return order


def by_permutations(cost: Tensor) -> Tensor:
    """Return the cheapest assignments of costs (R, T, T), all T! of each region tried at once: columns (R, T).

    Of equal ones the first in the order of `itertools.permutations`, in which the first step has the earliest column.
    """
    columns, chosen = _permutations(cost.shape[1], cost.device)
    return columns[(cost.flatten(1) @ chosen).argmin(1)]  # the product (R, T!) has the cost of each permutation


@cache
def _permutations(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    columns = torch.tensor(list(permutations(range(size))))  # (T!, T)
    chosen = F.one_hot(columns, size).flatten(1).T.to(widest(device))  # (T·T, T!)
    return columns.to(device), chosen.contiguous().to(device)


def by_scipy(cost: Tensor) -> Tensor:
    """Return the same as `by_permutations` for any number of steps, region by region on the CPU."""
    columns = np.tile(np.arange(cost.shape[1]), (len(cost), 1))
    matrices = cost.cpu().numpy()
    for region in np.flatnonzero(matrices.any((1, 2))):  # where all is free any assignment will do
        columns[region] = linear_sum_assignment(matrices[region])[1]
    return torch.from_numpy(columns).to(cost.device)


@torch.no_grad()
def loss_cost(
    codes: Tensor,
    logits: Tensor,
    region_targets: RegionTargets,
    *,
    classifier_weight: float = 1.0,
    box_weight: float = 0.03,
    background_weight: float = 1.0,
    giou_weight: float = 0.0,
    boxes: Tensor | None = None,
    classifier_loss: ClassifierLoss = CROSS_ENTROPY,
) -> Tensor:
    """Compute the cost by which the cheapest matching is that of the least `set_loss`, CrowdDet's (Chu et al. 2020).

    Args:
        codes: (R, T, 4).
        logits: (R, T, 1 + K), the background first.
        region_targets: of these regions.
        classifier_weight: of `set_loss`, as the other weights are.
        box_weight: of the L1 distance.
        background_weight: of the cross-entropy of the other steps.
        giou_weight: of 1 − GIoU; needs `boxes`.
        boxes: (R, T, 4) xyxy.
        classifier_loss: of a step's class.

    Returns:
        (R, T, N), float64 where the device has it: the loss of a step that answers for a ground-truth box, less that of
        predicting background.
    """
    entropy = classifier_loss.of_every_label(widen(logits))
    labels = region_targets.labels.where(region_targets.valid, 0)[:, None].expand(-1, logits.shape[1], -1)  # (R, T, N)
    cost = classifier_weight * (entropy.gather(2, labels) - background_weight * entropy[..., :1])
    cost = cost + box_weight * torch.cdist(widen(codes), widen(region_targets.codes), p=1)
    if giou_weight:
        assert boxes is not None, "the GIoU is of boxes, not of codes"
        cost = cost + giou_weight * (1 - pairwise_giou(widen(boxes), widen(region_targets.boxes)))
    return cost


def set_loss(
    codes: Tensor,
    logits: Tensor,
    matched: Tensor,
    region_targets: RegionTargets,
    *,
    classifier_weight: float = 1.0,
    box_weight: float = 0.03,
    background_weight: float = 1.0,
    giou_weight: float = 0.0,
    boxes: Tensor | None = None,
    classifier_loss: ClassifierLoss = CROSS_ENTROPY,
) -> dict[str, Tensor]:
    """Compute the loss of a matching, summed over steps and divided by the number of regions, as TensorBox does.

    Args:
        codes: (R, T, 4).
        logits: (R, T, 1 + K), the background first.
        matched: (R, T), what `match` gives.
        region_targets: of these regions.
        classifier_weight: of the cross-entropy of all steps.
        box_weight: of the L1 distance between the codes of matched steps and ground-truth boxes.
        background_weight: of the cross-entropy of the other steps.
        giou_weight: of 1 − GIoU of matched steps, part of the box loss (Carion et al. 2020); needs `boxes`.
        boxes: (R, T, 4) xyxy with their gradient.
        classifier_loss: of a step's class.

    Returns:
        `loss_classifier` and `loss_box_reg`; both 0 without regions, the second without ground-truth boxes.
    """
    regions = max(len(codes), 1)
    answers = matched >= 0
    # One row more, that of padding, for steps without a ground truth: it has label 0, the background.
    rows = matched.where(answers, region_targets.labels.shape[1])
    labels = F.pad(region_targets.labels, (0, 1)).gather(1, rows)
    corner_rows = rows[..., None].expand(-1, -1, 4)  # (R, T, 4)
    target = F.pad(region_targets.codes, (0, 0, 0, 1)).gather(1, corner_rows)
    box_loss = box_weight * at_least_float32(codes).sub(target).where(answers[..., None], 0).abs().sum()
    if giou_weight:
        assert boxes is not None, "the GIoU is of boxes, not of codes"
        # A box with an area, because the gradient of a GIoU without one is NaN even where it is masked.
        some_box = torch.arange(4, device=boxes.device).expand(len(boxes), 1, 4)  # (R, 1, 4)
        target = (
            torch.cat([region_targets.boxes, some_box], dim=1).gather(1, corner_rows).to(at_least_float32(boxes).dtype)
        )
        giou = pairwise_giou(at_least_float32(boxes)[:, :, None], target[:, :, None])[..., 0, 0]  # (R, T)
        box_loss = box_loss + giou_weight * (1 - giou).where(answers, 0).sum()
    entropy = classifier_loss.each(at_least_float32(logits).flatten(0, 1), labels.flatten())  # (R·T,)
    entropy = torch.where(answers.flatten(), entropy, background_weight * entropy)
    return {"loss_classifier": classifier_weight * entropy.sum() / regions, "loss_box_reg": box_loss / regions}
