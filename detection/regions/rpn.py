"""The Region Proposal Network (Ren et al. 2015, Faster R-CNN), torchvision's, composed.

Its predictions are turned to float32 before any box arithmetic, so that mixed precision does not round boxes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from detection.contracts import Features, Regions, Targets, at_least_float32, require_feature_maps
from detection.errors import UserError
from detection.ops.box_matching import match_boxes
from detection.ranges import BoxCount, Count, Fraction, Pixels, Positive, PositiveFraction


class _Float32RPNHead(RPNHead):
    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [at_least_float32(t) for t in logits], [at_least_float32(t) for t in deltas]


class _CrowdRPN(RegionProposalNetwork):
    """Torchvision's, with IoUs in bounded memory and without the negatives in crowd regions."""

    ignore_crowd: float | None = None

    def assign_targets_to_anchors(self, anchors: list[Tensor], targets: Targets) -> tuple[list[Tensor], list[Tensor]]:
        """Return labels (N,) of each image's anchors, 1, 0 or −1 for ignored, and the boxes (N, 4) they stand for."""
        labels, matched_boxes = [], []
        for boxes, target in zip(anchors, targets, strict=True):
            matched = match_boxes(self.proposal_matcher, boxes, target, self.ignore_crowd)
            labels.append(matched.add(1).clamp(max=1).float())
            some = target["boxes"] if len(target["boxes"]) else torch.zeros_like(boxes[:1])
            matched_boxes.append(some[matched.clamp(min=0)])
        return labels, matched_boxes

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the two losses; 0 where crowd regions cover every anchor, whose mean would be NaN."""
        losses = super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)
        counts = torch.cat(labels).ge(0).any()  # a tensor: asking for its value would wait for the device
        return losses[0].where(counts, 0), losses[1].where(counts, 0)


class RPN(Regions):
    """Anchors on every location of the named feature maps, scored and refined.

    Args:
        in_channels: channels of each feature map by name; those of `stages` must be equal.
        stages: the feature maps that are read, finest first.
        anchor_sizes: sides of square anchors in pixels, one tuple a stage.
        aspect_ratios: heights over widths of the anchors, the same on every stage.
        conv_depth: 3×3 convolutions before the two predictions.
        pre_nms_top_n: proposals of each level before NMS, in training and at inference.
        post_nms_top_n: proposals of an image after NMS, in training and at inference.
        nms_threshold: IoU over which the lower-scored proposal is dropped.
        foreground_iou: an anchor with at least this IoU to a ground truth is positive.
        background_iou: an anchor below this IoU to all ground-truth boxes is negative.
        batch_size_per_image: anchors that the loss samples.
        positive_fraction: most of them that may be positive.
        ignore_crowd: a negative anchor is in no loss if a crowd region has at least this share of its area; None: it
            is.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        *,
        stages: tuple[str, ...] = ("p2", "p3", "p4", "p5", "p6"),
        anchor_sizes: tuple[tuple[Pixels, ...], ...] = ((32,), (64,), (128,), (256,), (512,)),
        aspect_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0),
        conv_depth: Count = 1,
        pre_nms_top_n: tuple[BoxCount, BoxCount] = (2000, 1000),
        post_nms_top_n: tuple[BoxCount, BoxCount] = (2000, 1000),
        nms_threshold: Fraction = 0.7,
        foreground_iou: Fraction = 0.7,
        background_iou: Fraction = 0.3,
        batch_size_per_image: BoxCount = 256,
        positive_fraction: Fraction = 0.5,
        ignore_crowd: PositiveFraction | None = 0.7,
    ) -> None:
        super().__init__()
        require_feature_maps("regions", stages, in_channels)
        if not (stages and aspect_ratios and all(anchor_sizes)):
            raise UserError("regions: stages, anchor_sizes and aspect_ratios must each have at least one value.")
        if len(anchor_sizes) != len(stages):
            raise UserError(f"regions.anchor_sizes={anchor_sizes}: needs one tuple for each of the stages {stages}.")
        if len({in_channels[s] for s in stages}) > 1:
            raise UserError(
                f"regions.stages={stages}: the maps have different channels; use the levels of an FPN, or one map."
            )
        anchors = AnchorGenerator(anchor_sizes, (aspect_ratios,) * len(stages))
        if len(set(anchors.num_anchors_per_location())) > 1:
            raise UserError(f"regions.anchor_sizes={anchor_sizes}: every stage must have the same number of sizes.")
        self.stages = stages
        self.rpn = _CrowdRPN(
            anchors,
            _Float32RPNHead(in_channels[stages[0]], anchors.num_anchors_per_location()[0], conv_depth),
            foreground_iou,
            background_iou,
            batch_size_per_image,
            positive_fraction,
            {"training": pre_nms_top_n[0], "testing": pre_nms_top_n[1]},
            {"training": post_nms_top_n[0], "testing": post_nms_top_n[1]},
            nms_threshold,
        )
        self.rpn.ignore_crowd = ignore_crowd

    def forward(
        self, images: ImageList, features: Features, targets: Targets | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes (N, 4) of each image, best first; `loss_objectness` and `loss_rpn_box_reg` in training."""
        return self.rpn(images, {name: features[name] for name in self.stages}, targets)
