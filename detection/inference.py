"""What a detector does at test beyond one look, as ION does (Bell et al. 2016), by the settings
`config.InferenceConfig`.

    proposals ─► look ─► candidates ─► look ─► more candidates ─► all together: NMS ─► vote ─► detections

Boxes found once are pooled and regressed again, and a detection's box is the mean of its neighbors (both of Gidaris
and Komodakis 2015); each look is averaged with one at the mirror image.

B images, R boxes of all images, N of one, M its candidates, n its detections, K classes.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from detection.errors import UserError


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """What a detector does beyond one plain look (`detection.inference`): all of it costs time, and only at test.

    ION has 2 rounds, votes from an IoU of 0.85 with the head's `nms_threshold` at 0.475 (both recalled), and flips.

    Attributes:
        num_box_iterations: times that boxes are pooled and regressed; each round after the first begins at the boxes
            that the one before found, each for its own class only, and detections are chosen from those of all rounds.
        voting_iou: after NMS each box becomes the mean, weighted by score, of all boxes of its class before NMS with at
            least this IoU to it; None: it stays.
        flip: average class probabilities and box deltas over the image and its mirror image.
    """

    num_box_iterations: int = 1
    voting_iou: float | None = None
    flip: bool = False

    def __post_init__(self) -> None:
        if self.num_box_iterations < 1:
            raise UserError(f"detector.inference.num_box_iterations={self.num_box_iterations}: must be 1 or more.")
        if self.voting_iou is not None and not 0 < self.voting_iou <= 1:
            raise UserError(
                f"detector.inference.voting_iou={self.voting_iou}: is an IoU, in (0, 1], such as 0.85; None for no voting."
            )


PLAIN = InferenceConfig()

Look = Callable[[list[Tensor]], tuple[Tensor, Tensor]]
"""Boxes (N, 4) of each image → probabilities (R, 1 + K), the background first, and deltas (R, 1 + K, 4)."""


def require_steps(test: InferenceConfig, head: object) -> None:
    """Check that a head can do in steps what more than one plain look needs.

    Raises:
        UserError: it cannot.
    """
    if test != PLAIN and not all(hasattr(head, step) for step in ("predict", "decode", "select")):
        raise UserError(
            f"detector.inference: a {type(head).__name__} takes one plain look only; leave num_box_iterations, voting_iou and flip "
            "at their defaults, or use a head with predict, decode and select, such as FastRCNN."
        )


def detect(
    test: InferenceConfig, head: Any, look: Look, boxes: list[Tensor], image_sizes: list[tuple[int, int]]
) -> list[dict[str, Tensor]]:
    """Detections from one look or more.

    Args:
        test: how many, and whether there is a vote.
        head: its `decode` turns what is seen into candidates, its `select` these into detections.
        look: what is seen at boxes.
        boxes: proposals (N, 4) xyxy of each image.
        image_sizes: height and width of each image inside the batch.

    Returns:
        Per image `boxes` (n, 4), `labels` (n,) 1 … K and `scores` (n,), best first.
    """
    found = head.decode(*look(boxes), boxes, image_sizes)
    rounds = [found]
    for _ in range(test.num_box_iterations - 1):
        boxes = [candidates["boxes"] for candidates in found]
        labels = torch.cat([candidates["labels"] for candidates in found])
        probabilities, deltas = look(boxes)
        found = head.decode(only_class(probabilities, labels), deltas, boxes, image_sizes)
        rounds.append(found)
    together = [{key: torch.cat([r[key] for r in image]) for key in image[0]} for image in zip(*rounds, strict=True)]
    return head.select(together, test.voting_iou)


def only_class(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The probabilities (R, 1 + K) with -inf for every class but each box's own, `labels` (R,)."""
    classes = torch.arange(probabilities.shape[1], device=labels.device)
    return probabilities.masked_fill(classes != labels[:, None], -torch.inf)


def vote(kept: dict[str, Tensor], candidates: dict[str, Tensor], iou: float) -> Tensor:
    """The mean of all candidates of a box's class with at least this IoU to it, weighted by their scores.

    Args:
        kept: `boxes` (n, 4) and `labels` (n,) of one image, which are among its candidates.
        candidates: `boxes` (M, 4), `labels` (M,) and `scores` (M,), above 0.
        iou: least IoU of a candidate that votes.

    Returns:
        Boxes (n, 4).
    """
    near = box_iou(kept["boxes"], candidates["boxes"]) >= iou
    weights = candidates["scores"] * (near & (kept["labels"][:, None] == candidates["labels"]))  # (n, M)
    # Sums, because a matrix product would round pixels under mixed precision or TF32.
    sums = [(weights * side).sum(1) for side in candidates["boxes"].unbind(1)]
    return torch.stack(sums, dim=1) / weights.sum(1, keepdim=True)


def averaged(look: Look, mirrored_look: Look, image_sizes: Sequence[tuple[int, int]]) -> Look:
    """A look at images averaged with one at their mirror images."""

    def both(boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        probabilities, deltas = look(boxes)
        others, mirrored_deltas = mirrored_look(mirror_boxes(boxes, image_sizes))
        return (probabilities + others) / 2, (deltas + mirror_deltas(mirrored_deltas)) / 2

    return both


def mirror_batch(batch: ImageList) -> ImageList:
    """A padded batch (B, 3, H, W) with each image mirrored left to right inside its own size, the padding in place."""
    mirrored = batch.tensors.clone()
    for image, (_, width) in zip(mirrored, batch.image_sizes, strict=True):
        image[:, :, :width] = image[:, :, :width].flip(-1)
    return ImageList(mirrored, batch.image_sizes)


def mirror_boxes(boxes: list[Tensor], image_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Where the boxes (N, 4) xyxy of each image lie in its mirror image."""
    return [
        torch.stack([width - b[:, 2], b[:, 1], width - b[:, 0], b[:, 3]], dim=1)
        for b, (_, width) in zip(boxes, image_sizes, strict=True)
    ]


def mirror_deltas(deltas: Tensor) -> Tensor:
    """Deltas (…, 4) of boxes, x, y, width and height, as they are for the mirrored boxes: x changes its sign."""
    return deltas * deltas.new_tensor([-1, 1, 1, 1])
