"""The Fast R-CNN head (Girshick 2015): two fully connected layers, class scores and a box for each class.

Sampling, loss and post-processing are those of torchvision's `RoIHeads`, called step by step so that the pool stays a
part of its own; predictions are turned to float32 before box arithmetic and losses.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss


@dataclass(frozen=True)
class Samples:
    """What the sampled boxes should become: per image labels (n,), 0 background, and box deltas (n, 4)."""

    labels: list[Tensor]
    deltas: list[Tensor]


class FastRCNN(nn.Module):
    """Descriptors → class scores and boxes.

    Args:
        in_channels: channels of a descriptor.
        size: cells on its side.
        num_classes: foreground classes.
        hidden_channels: of the fully connected layers.
        convs: channels of 3×3 convolutions before one fully connected layer, as in torchvision's `_v2` head; with none
            there are two fully connected layers.
        norm: batch norm after those convolutions, or none.
        foreground_iou: a box with at least this IoU to a truth takes its class.
        background_iou: a box below it is background.
        batch_size_per_image: boxes that the loss samples.
        positive_fraction: most of them that may be foreground.
        score_threshold: detections below are dropped.
        nms_threshold: IoU over which the lower-scored detection of a class is dropped.
        detections_per_image: most that are kept.
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        num_classes: int,
        *,
        hidden_channels: int = 1024,
        convs: tuple[int, ...] = (),
        norm: Literal["batch"] | None = None,
        foreground_iou: float = 0.5,
        background_iou: float = 0.5,
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections_per_image: int = 100,
    ) -> None:
        super().__init__()
        if convs:
            layer = partial(nn.BatchNorm2d) if norm == "batch" else None
            box_head = FastRCNNConvFCHead((in_channels, size, size), list(convs), [hidden_channels], norm_layer=layer)
        else:
            box_head = TwoMLPHead(in_channels * size**2, hidden_channels)
        self.roi_heads = RoIHeads(
            None,
            box_head,
            FastRCNNPredictor(hidden_channels, num_classes + 1),
            foreground_iou,
            background_iou,
            batch_size_per_image,
            positive_fraction,
            None,
            score_threshold,
            nms_threshold,
            detections_per_image,
        )

    @torch.no_grad()
    def sample(self, boxes: list[Tensor], targets: list[dict[str, Tensor]]) -> tuple[list[Tensor], Samples]:
        """Choose the boxes that the loss looks at; truths are added to them.

        Args:
            boxes: proposals (N, 4) xyxy of each image.
            targets: per image `boxes` (M, 4) and `labels` (M,), 1 … K.
        """
        boxes, _, labels, deltas = self.roi_heads.select_training_samples(boxes, targets)
        return boxes, Samples(labels, list(deltas))

    def forward(
        self, descriptors: Tensor, boxes: list[Tensor], image_sizes: list[tuple[int, int]], samples: Samples | None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Classify and refine.

        Args:
            descriptors: (R, C, h, w), R the boxes of all images in order.
            boxes: (N, 4) xyxy of each image.
            image_sizes: height and width of each image inside the batch.
            samples: what the boxes should become; needed in training.

        Returns:
            At test per image `boxes` (n, 4), `labels` (n,) 1 … K and `scores` (n,), best first, and no losses;
            in training no detections, and `loss_classifier` and `loss_box_reg`.
        """
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(descriptors))
        logits, deltas = logits.float(), deltas.float()
        if self.training:
            assert samples is not None, "in training the head needs samples"
            loss_classifier, loss_box_reg = fastrcnn_loss(logits, deltas, samples.labels, samples.deltas)
            return [], {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg}
        found = self.roi_heads.postprocess_detections(logits, deltas, boxes, image_sizes)
        return [{"boxes": b, "labels": k, "scores": s} for b, s, k in zip(*found, strict=True)], {}
