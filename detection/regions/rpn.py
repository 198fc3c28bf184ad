"""The Region Proposal Network (Ren et al. 2015, Faster R-CNN), torchvision's, composed.

Its predictions are turned to float32 before any box arithmetic, so that mixed precision does not round boxes.
"""

# B images, A anchors of all levels, P proposals before and N after NMS of one image.

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from detection.contracts import Features, Regions, Targets, at_least_float32, require_feature_maps
from detection.errors import UserError
from detection.ops.box_deltas import clip_boxes, decode_deltas, encode_deltas
from detection.ops.box_matching import best_matches, ignored_regions, match_boxes
from detection.ops.nms import select_by_nms
from detection.ops.ragged import Ragged
from detection.ops.sampling import sample_boxes
from detection.ranges import BoxCount, Count, Fraction, Pixels, Positive, PositiveFraction


class _Float32RPNHead(RPNHead):
    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [at_least_float32(t) for t in logits], [at_least_float32(t) for t in deltas]


class _BatchedRPN(RegionProposalNetwork):
    """torchvision's network with its selection of proposals, matching, sampling and losses for all images at once.

    torchvision's takes about 130 operations an image in training, 5 of which wait for a GPU: of the 8 000 operations
    of a forward of a small ION on 32 images it had half. Proposals are equal to the bit, losses with its draw.
    """

    ignore_crowd: float | None = None

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: Targets | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return proposals (N, 4) of each image, best first, and the two losses in training."""
        maps = list(features.values())
        objectness, deltas = self.head(maps)
        levels = [o[0].numel() for o in objectness]
        # Anchors depend on the padded size alone, so that all images share one image's.
        # They take the maps' type, and half precision would round them by pixels.
        typed = [m if m.dtype == objectness[0].dtype else m[:1, :1].to(objectness[0].dtype) for m in maps]
        anchors = self.anchor_generator(ImageList(images.tensors, images.image_sizes[:1]), typed)[0]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        objectness, deltas = objectness.view(-1, len(anchors)), deltas.view(-1, len(anchors), 4)  # (B, A), (B, A, 4)
        proposals = self.propose(objectness.detach(), deltas.detach(), anchors, images.image_sizes, levels)
        if not self.training:
            return proposals, {}
        assert targets is not None, "in training the RPN needs targets"
        return proposals, self.losses(objectness, deltas, anchors, targets)

    @torch.no_grad()
    def propose(
        self,
        objectness: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        image_sizes: Sequence[tuple[int, int]],
        levels: list[int],
    ) -> list[Tensor]:
        """Return proposals (N, 4) of each image by predictions (B, A) and (B, A, 4) at anchors (A, 4)."""
        best = self._get_top_n_idx(objectness, levels)  # (B, P)
        chosen = deltas.gather(1, best[..., None].expand(-1, -1, 4))  # (B, P, 4)
        boxes = clip_boxes(decode_deltas(self.box_coder, chosen, anchors[best]), image_sizes)
        scores = objectness.gather(1, best).sigmoid()
        sides = boxes[..., 2:] - boxes[..., :2]
        valid = (sides >= self.min_size).all(-1) & (scores >= self.score_thresh)
        counts = [min(count, self.pre_nms_top_n()) for count in levels]
        rows, kept = select_by_nms(boxes, scores, valid, counts, self.nms_thresh, self.post_nms_top_n())
        return list(boxes.flatten(0, 1)[rows].split(kept))  # (N, 4) each

    def losses(self, objectness: Tensor, deltas: Tensor, anchors: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Compute the losses on sampled anchors by predictions (B, A) and (B, A, 4) at anchors (A, 4)."""
        # In half precision an area of 256² pixels is infinite, and everything or nothing would match.
        ground_truth = Ragged.of([target["boxes"].to(anchors.dtype) for target in targets])
        shared = anchors[None]
        states = match_boxes(
            self.proposal_matcher, shared, ground_truth, ignored_regions(targets, anchors), self.ignore_crowd
        )
        sampler = self.fg_bg_sampler
        sample = sample_boxes(states, sampler.batch_size_per_image, sampler.positive_fraction)
        # Both losses are divided by the sampled anchors of all images, as torchvision's.
        count = (sample.is_positive.sum() + sample.is_negative.sum()).clamp(min=1)
        chosen = torch.cat([sample.positive, sample.negative], 1)  # (B, positives + negatives)
        wanted = torch.zeros_like(chosen, dtype=objectness.dtype)
        wanted[:, : sample.positive.shape[1]] = 1
        entropy = F.binary_cross_entropy_with_logits(objectness.gather(1, chosen), wanted, reduction="none")
        taken = torch.cat([sample.is_positive, sample.is_negative], 1)
        own = anchors[sample.positive]  # (B, positives, 4)
        # An anchor that fills up the sample has itself for target, so that its deltas are finite where they are masked.
        boxes = ground_truth.take(best_matches(own, ground_truth)).where(sample.is_positive[..., None], own)
        distance = F.smooth_l1_loss(
            deltas.gather(1, sample.positive[..., None].expand(-1, -1, 4)),
            encode_deltas(self.box_coder, boxes, own),
            beta=1 / 9,
            reduction="none",
        )
        return {
            "loss_objectness": torch.where(taken, entropy, 0).sum() / count,
            "loss_rpn_box_reg": torch.where(sample.is_positive[..., None], distance, 0).sum() / count,
        }


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

    Raises:
        UserError: a stage that does not exist, or stages of different channels; no stage, anchor size or aspect ratio;
            not one tuple of as many anchor sizes for each stage; or `background_iou` above `foreground_iou`.
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
        if background_iou > foreground_iou:
            raise UserError(
                f"regions.background_iou={background_iou}: is above foreground_iou={foreground_iou}, so that an anchor "
                "could be both; it must be at most that."
            )
        anchors = AnchorGenerator(anchor_sizes, (aspect_ratios,) * len(stages))
        if len(set(anchors.num_anchors_per_location())) > 1:
            raise UserError(f"regions.anchor_sizes={anchor_sizes}: every stage must have the same number of sizes.")
        self.stages = stages
        self.rpn = _BatchedRPN(
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
