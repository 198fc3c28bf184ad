"""The Fast R-CNN head (Girshick 2015): two fully connected layers, class scores and a box for each class.

Sampling, loss and post-processing are those of torchvision's `RoIHeads`, for all images at once and so that the pool
stays pluggable; predictions are turned to float32 before box arithmetic and losses. `predict`, `decode` and `select`
are the post-processing in three steps, for box iterations, voting and mirrored images (`detection.inference`).

R boxes of all images, N of one, M candidates or ground-truth boxes of one, n detections, K classes.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads

from detection.contracts import Detections, PooledRegions, RefinementHead, Targets, at_least_float32
from detection.errors import UserError
from detection.heads.candidates import by_image, find_candidates
from detection.heads.classifier_loss import NO_WEIGHTS, ClassifierLoss
from detection.inference import vote
from detection.ops.box_deltas import decode_deltas, encode_deltas
from detection.ops.box_matching import NEITHER, POSITIVE, best_matches, ignored_regions, match_boxes
from detection.ops.nms import select_by_class
from detection.ops.ragged import Ragged, positions
from detection.ops.sampling import sample_boxes
from detection.ranges import BoxCount, Channels, Fraction, NonNegative, PositiveFraction, ProperFraction
from detection.weights import LoadReport, load_state, read_state

# torchvision's names of the two layers in its VGGs.
_VGG_LAYERS = {"classifier.0": "fc6", "classifier.3": "fc7"}


@dataclass(frozen=True)
class Samples:
    """Targets of the sampled boxes of all images.

    Attributes:
        labels: (R,), 0 background.
        deltas: (R, 4), anything for background.
    """

    labels: Tensor
    deltas: Tensor


class FastRCNN(RefinementHead):
    """Descriptors → class scores and boxes.

    Args:
        in_channels: channels of a descriptor.
        size: bins on its side.
        num_classes: foreground classes.
        hidden_channels: of the fully connected layers.
        convs: channels of 3×3 convolutions before one fully connected layer, as in torchvision's `_v2` head; with none
            there are two fully connected layers.
        norm: batch norm after those convolutions, or none.
        weights: initial weights of the two layers, VGG's fc6 and fc7: a torchvision name such as
            `VGG16_Weights.IMAGENET1K_V1`, or a file with `classifier.0` and `classifier.3`; None for random ones.
            They need descriptors of 512 channels and 7×7 bins, `hidden_channels` 4096, and a backbone from the same
            training, which fixes how images are normalized; `IMAGENET1K_FEATURES` comes without them. Filled in by
            `load_pretrained`, unless the whole detector's weights are given.
        foreground_iou: a box with at least this IoU to a ground truth takes its class.
        background_iou: a box below it is background.
        batch_size_per_image: boxes that the loss samples.
        positive_fraction: most of them that may be foreground.
        class_weights: weights of classes in the classifier's loss by class name, such as `{"clef": 3}`, and of
            `background`; 1 for the others. The loss is the weighted mean over the sampled boxes.
        focal_gamma: γ of the focal loss in its softmax form (`heads.classifier_loss`), 2 in the paper; 0 is cross
            entropy.
        ignore_crowd: a background box is in no loss if a crowd region has at least this share of its area; None: it is.
        score_threshold: detections below are dropped.
        nms_threshold: IoU over which the lower-scored detection of a class is dropped.
        detections_per_image: most that are kept.

    Raises:
        UserError: `weights` with `convs`.
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        num_classes: int,
        *,
        hidden_channels: Channels = 1024,
        convs: tuple[Channels, ...] = (),
        norm: Literal["batch"] | None = None,
        weights: str | None = None,
        foreground_iou: Fraction = 0.5,
        background_iou: Fraction = 0.5,
        batch_size_per_image: BoxCount = 512,
        positive_fraction: Fraction = 0.25,
        class_weights: dict[str, NonNegative] = NO_WEIGHTS,
        focal_gamma: NonNegative = 0.0,
        ignore_crowd: PositiveFraction | None = 0.7,
        score_threshold: ProperFraction = 0.05,
        nms_threshold: Fraction = 0.5,
        detections_per_image: BoxCount = 100,
    ) -> None:
        super().__init__()
        if convs and weights is not None:
            raise UserError(
                f"head.weights={weights!r}: two fully connected layers have them; set head.convs=() or none."
            )
        self.weights, self.ignore_crowd = weights, ignore_crowd
        self.classifier_loss = ClassifierLoss(num_classes, focal_gamma, class_weights)
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
    def sample(self, boxes: list[Tensor], targets: Targets) -> tuple[list[Tensor], Samples]:
        """Choose the boxes that the loss is computed on; ground-truth boxes are added to the proposals first."""
        # torchvision's `select_training_samples` for all images at once, 45 operations an image less, with one wait
        # for a GPU instead of 5 an image; it sees no crowd regions.
        heads = self.roi_heads
        ground_truth = Ragged.of([target["boxes"].to(boxes[0].dtype) for target in targets])
        proposals = Ragged.of(boxes).followed_by(ground_truth)
        padded, inside = proposals.padded()
        states = match_boxes(
            heads.proposal_matcher, padded, ground_truth, ignored_regions(targets, padded), self.ignore_crowd
        )
        sampler = heads.fg_bg_sampler
        states = states.masked_fill(~inside, NEITHER)
        sample = sample_boxes(states, sampler.batch_size_per_image, sampler.positive_fraction)
        rows, counts = sample.ascending(states.shape[1])
        flat = positions(counts, rows.shape[1], rows.device)  # (R,) in the flattened (B, n)
        chosen = padded.gather(1, rows[..., None].expand(-1, -1, 4))  # (B, n, 4)
        matched = best_matches(chosen, ground_truth)  # (B, n)
        positive = states.gather(1, rows) == POSITIVE
        labels = Ragged.of([target["labels"] for target in targets]).take(matched).where(positive, 0)
        sampled = chosen.flatten(0, 1)[flat]  # (R, 4)
        target_boxes = ground_truth.take(matched).flatten(0, 1)[flat]  # (R, 4), zeros in images without ground truth
        deltas = encode_deltas(heads.box_coder, target_boxes, sampled)
        return list(sampled.split(counts)), Samples(labels.flatten()[flat], deltas)

    def forward(self, regions: PooledRegions, samples: Samples | None = None) -> tuple[Detections, dict[str, Tensor]]:
        """Classify boxes and refine them; the losses are `loss_classifier` and `loss_box_reg`."""
        return self.losses_or_detections(*self.logits_and_deltas(regions), regions, samples)

    def losses_or_detections(
        self, logits: Tensor, deltas: Tensor, regions: PooledRegions, samples: Samples | None
    ) -> tuple[Detections, dict[str, Tensor]]:
        """Return what `forward` does from logits (R, 1 + K) and deltas (R, 4 + 4·K)."""
        if self.training:
            assert samples is not None, "in training the head needs samples"
            if not len(logits):  # crowd regions cover every box: a mean over nothing would be NaN
                return [], {"loss_classifier": logits.sum(), "loss_box_reg": deltas.sum()}
            # torchvision's `fastrcnn_loss` asks a GPU how many boxes are positive.
            positive = (samples.labels > 0)[:, None]
            own = samples.labels[:, None, None].expand(-1, -1, 4)  # (R, 1, 4)
            found = deltas.unflatten(1, (-1, 4)).gather(1, own)[:, 0]  # (R, 4), of each box's class
            # Masked before and after: the deltas of background need not be finite, and an infinite one times 0 is NaN.
            distance = F.smooth_l1_loss(found, samples.deltas.where(positive, 0), beta=1 / 9, reduction="none")
            return [], {
                "loss_classifier": self.classifier_loss(logits, samples.labels),
                # By all sampled boxes and not by the positive ones, as torchvision's.
                "loss_box_reg": distance.where(positive, 0).sum() / len(logits),
            }
        candidates = self.decode(*as_probabilities(logits, deltas), regions.boxes, regions.image_sizes)
        return self.select(candidates), {}

    def logits_and_deltas(self, regions: PooledRegions) -> tuple[Tensor, Tensor]:
        """Return logits (R, 1 + K) and box deltas (R, 4 + 4·K), in float32 or wider."""
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(regions.descriptors))
        return at_least_float32(logits), at_least_float32(deltas)

    def predict(self, regions: PooledRegions) -> tuple[Tensor, Tensor]:
        """Return probabilities (R, 1 + K), the background first, and box deltas (R, 1 + K, 4)."""
        return as_probabilities(*self.logits_and_deltas(regions))

    def decode(
        self, probabilities: Tensor, deltas: Tensor, boxes: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> Detections:
        """Return the candidates of each image above the score threshold."""
        heads, proposals = self.roi_heads, torch.cat(boxes)

        def boxes_at(row: Tensor, label: Tensor) -> Tensor:
            return decode_deltas(heads.box_coder, deltas[row, label + 1], proposals[row])

        row, label, found, counts = find_candidates(
            probabilities[:, 1:], heads.score_thresh, boxes_at, [len(b) for b in boxes], image_sizes
        )
        label = label + 1  # the scores that were searched have no background
        return by_image({"boxes": found, "labels": label, "scores": probabilities[row, label]}, counts)

    def select(self, candidates: Detections, voting_iou: float | None = None) -> Detections:
        """Return the detections among candidates by NMS in each class, and voting."""
        heads, boxes = self.roi_heads, Ragged.of([found["boxes"] for found in candidates])
        labels, scores = (torch.cat([found[key] for found in candidates]) for key in ("labels", "scores"))
        kept, counts = select_by_class(boxes, labels, scores, heads.nms_thresh, heads.detections_per_img)
        columns = {"boxes": boxes.rows, "labels": labels, "scores": scores}
        detections = by_image({key: t[kept] for key, t in columns.items()}, counts)
        if voting_iou is not None:
            for own, found in zip(detections, candidates, strict=True):
                own["boxes"] = vote(own, found, voting_iou)
        return detections

    def load_pretrained(self) -> LoadReport | None:
        """Fill in the initial weights of the two layers; None where they are random.

        Raises:
            UserError: they cannot be had, or are not two trained layers of these sizes.
        """
        if self.weights is None:
            return None
        state = read_state(self.weights)
        kinds = ("weight", "bias")
        names = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in _VGG_LAYERS.items() for kind in kinds}
        layers = {ours: state[theirs] for theirs, ours in names.items() if theirs in state}
        if len(layers) < len(names) or not all(t.isfinite().all() for t in layers.values()):
            raise UserError(
                f"head.weights={self.weights!r}: have no trained classifier.0 and classifier.3, VGG's fc6 and fc7; "
                "VGG16_Weights.IMAGENET1K_V1 has them."
            )
        own = self.roi_heads.box_head.state_dict()
        if any(own[name].shape != t.shape for name, t in layers.items()):
            theirs, ours = (" and ".join(_sizes(s[f"{n}.weight"]) for n in ("fc6", "fc7")) for s in (layers, own))
            raise UserError(
                f"head.weights={self.weights!r}: are layers {theirs}, here they are {ours}; VGG's need "
                "head.hidden_channels=4096 and a pool that gives 512 channels and output_size 7."
            )
        return load_state(self.roi_heads.box_head, layers, f"head {self.weights}", at_least=1.0)


def as_probabilities(logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities (R, 1 + K) and deltas (R, 1 + K, 4) by logits (R, 1 + K) and deltas (R, 4 + 4·K)."""
    return logits.softmax(-1), deltas.unflatten(1, (-1, 4))  # (R, 1 + K, 4)


def _sizes(weight: Tensor) -> str:
    return f"{weight.shape[1]}→{weight.shape[0]}"
