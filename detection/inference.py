"""Inference beyond one plain forward pass, as ION does it (Bell et al. 2016), by the settings `InferenceConfig`.

    proposals ─► predict ─► candidates ─► predict ─► more candidates ─► all together: NMS ─► vote ─► detections

Boxes found once are pooled and regressed again, and a detection's box is the mean of its neighbors (both of Gidaris and
Komodakis 2015); each prediction is averaged with one on the mirror image.

B images, R boxes of all images, N of one, M its candidates, n its detections, K classes.
"""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from detection.contracts import Detections, Head, RefinementHead
from detection.errors import UserError
from detection.ranges import Count, PositiveFraction


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """Settings of inference beyond one plain forward pass; all of it costs time, and none of it in training.

    ION has 2 iterations, votes from an IoU of 0.85 with the head's `nms_threshold` at 0.475 (both recalled), and flips.

    Attributes:
        num_box_iterations: times that boxes are pooled and regressed; each iteration after the first begins at the
            boxes that the one before found, each for its own class only, and detections are chosen from those of all.
        voting_iou: after NMS each box becomes the mean, weighted by score, of all boxes of its class before NMS with at
            least this IoU to it; None: it stays.
        flip: average class probabilities and box deltas over the image and its mirror image.
    """

    num_box_iterations: Count = 1
    voting_iou: PositiveFraction | None = None
    flip: bool = False


PLAIN = InferenceConfig()

Predict = Callable[[list[Tensor]], tuple[Tensor, Tensor]]
"""Boxes (N, 4) of each image → probabilities (R, 1 + K), the background first, and deltas (R, 1 + K, 4)."""


def require_steps(inference: InferenceConfig, head: Head) -> None:
    """Check that a head can do in steps what more than one plain forward pass needs.

    Raises:
        UserError: it cannot.
    """
    if inference != PLAIN and not isinstance(head, RefinementHead):
        raise UserError(
            f"detector.inference: a {type(head).__name__} does one plain forward pass only; leave num_box_iterations, "
            "voting_iou and flip at their defaults, or use a head with predict, decode and select, such as FastRCNN."
        )


def iterate_boxes(
    inference: InferenceConfig,
    head: RefinementHead,
    predict: Predict,
    boxes: list[Tensor],
    image_sizes: list[tuple[int, int]],
) -> Detections:
    """Detect in one or more iterations, each after the first from the boxes that the one before found.

    Args:
        inference: how many iterations, and whether there is a vote.
        head: its `decode` turns predictions into candidates, its `select` these into detections.
        predict: predictions at boxes.
        boxes: proposals (N, 4) xyxy of each image.
        image_sizes: height and width of each image inside the batch.
    """
    found = head.decode(*predict(boxes), boxes, image_sizes)
    iterations = [found]
    for _ in range(inference.num_box_iterations - 1):
        boxes = [candidates["boxes"] for candidates in found]
        labels = torch.cat([candidates["labels"] for candidates in found])
        probabilities, deltas = predict(boxes)
        # Each box was regressed for its class, and is a proposal for that one only.
        found = head.decode(only_class(probabilities, labels), deltas, boxes, image_sizes)
        iterations.append(found)
    together = [{k: torch.cat([c[k] for c in image]) for k in image[0]} for image in zip(*iterations, strict=True)]
    return head.select(together, inference.voting_iou)


def only_class(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the probabilities (R, 1 + K) with -inf for every class but each box's own, `labels` (R,)."""
    classes = torch.arange(probabilities.shape[1], device=labels.device)
    return probabilities.masked_fill(classes != labels[:, None], -torch.inf)


def vote(kept: dict[str, Tensor], candidates: dict[str, Tensor], iou: float) -> Tensor:
    """Compute the mean of all candidates of a box's class with at least this IoU to it, weighted by their scores.

    Args:
        kept: `boxes` (n, 4) and `labels` (n,) of one image, which are among its candidates.
        candidates: `boxes` (M, 4), `labels` (M,) and `scores` (M,), above 0.
        iou: least IoU of a candidate that votes.

    Returns:
        Boxes (n, 4).
    """
    near = box_iou(kept["boxes"], candidates["boxes"]) >= iou  # (n, M)
    weights = candidates["scores"] * (near & (kept["labels"][:, None] == candidates["labels"]))  # (n, M)
    # Sums, because a matrix product would round pixels under mixed precision or TF32; of differences to the box, as the
    # rounded mean of coordinates that are all at an image's border may be beyond it.
    sides = zip(kept["boxes"].unbind(1), candidates["boxes"].unbind(1), strict=True)
    sums = [(weights * (side - own[:, None])).sum(1) for own, side in sides]
    return kept["boxes"] + torch.stack(sums, dim=1) / weights.sum(1, keepdim=True)


def averaged(predict: Predict, predict_mirrored: Predict, image_sizes: Sequence[tuple[int, int]]) -> Predict:
    """Return predictions on images averaged with those on their mirror images."""

    def both(boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        probabilities, deltas = predict(boxes)
        # The same boxes, so that deltas can be averaged; boxes of two predictions would first have to be matched.
        others, mirrored_deltas = predict_mirrored(mirror_boxes(boxes, image_sizes))
        return (probabilities + others) / 2, (deltas + mirror_deltas(mirrored_deltas)) / 2

    return both


def mirror_batch(batch: ImageList) -> ImageList:
    """Return a padded batch (B, 3, H, W) with each image mirrored left to right inside its size; padding stays."""
    mirrored = batch.tensors.clone()
    for image, (_, width) in zip(mirrored, batch.image_sizes, strict=True):
        image[:, :, :width] = image[:, :, :width].flip(-1)
    return ImageList(mirrored, batch.image_sizes)


def mirror_boxes(boxes: list[Tensor], image_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return the boxes (N, 4) xyxy of each image in pixels of its mirror image."""
    return [
        torch.stack([width - b[:, 2], b[:, 1], width - b[:, 0], b[:, 3]], dim=1)
        for b, (_, width) in zip(boxes, image_sizes, strict=True)
    ]


def mirror_deltas(deltas: Tensor) -> Tensor:
    """Return deltas (…, 4) of boxes (x, y, width, height) as of the mirrored boxes: x changes its sign."""
    return torch.cat([-deltas[..., :1], deltas[..., 1:]], -1)
