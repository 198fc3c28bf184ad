"""A head that decodes several boxes a region, one after another, matched in the loss (Stewart et al. 2016).

With grid cells as regions it is ReInspect. With proposals as regions one proposal may answer for several objects, as in
CrowdDet (Chu et al. 2020), whose rule of what a proposal answers for, and whose set NMS, it takes.
"""

# R regions of all images, N of one, M ground-truth boxes of one, F features, T steps, K classes, n detections.

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detection.contracts import Detections, Head, Pool, PooledRegions, Targets, at_least_float32
from detection.heads.box_codes import BoxCoder, Deltas
from detection.heads.candidates import by_image, find_candidates
from detection.heads.classifier_loss import NO_WEIGHTS, ClassifierLoss
from detection.heads.costs import Lexicographic, MatchingCost
from detection.heads.hungarian import Strategy, loss_cost, match, set_loss
from detection.heads.lstm_decoder import Decoded, LSTMDecoder
from detection.heads.region_targets import RegionTargets, keep_nearest
from detection.heads.stitching import Postprocess, SetNMS
from detection.ops.box_deltas import clip_rows
from detection.ops.box_iou import iou_matrix
from detection.ops.box_matching import NEITHER, by_groups, chunks_of, crowded, ignored_regions
from detection.ops.ragged import Ragged, image_indices, positions
from detection.ops.sampling import in_order, sample_boxes
from detection.ranges import BoxCount, Channels, Fraction, NonNegative, Positive, PositiveFraction, ProperFraction


class Assigner(ABC):
    """Rule for the ground-truth boxes that a region may answer for."""

    @abstractmethod
    def belongs(self, regions: Tensor, boxes: Tensor) -> Tensor:
        """Return booleans (…, N, M) for regions (…, N, 4) and ground-truth boxes (…, M, 4) xyxy."""


@dataclass(frozen=True)
class MeetsWindow(Assigner):
    """A region may answer for the ground-truth boxes that it meets (Stewart et al. 2016)."""

    def belongs(self, regions: Tensor, boxes: Tensor) -> Tensor:
        """Return booleans (…, N, M): region (…, N, 4) and ground-truth box (…, M, 4), xyxy, share some area."""
        left_top = torch.maximum(regions[..., :, None, :2], boxes[..., None, :, :2])
        right_bottom = torch.minimum(regions[..., :, None, 2:], boxes[..., None, :, 2:])
        return (right_bottom > left_top).all(-1)


@dataclass(frozen=True)
class Overlaps(Assigner):
    """A region may answer for the ground-truth boxes that it overlaps enough (Chu et al. 2020).

    Attributes:
        iou: least IoU.
    """

    iou: Fraction = 0.5

    def belongs(self, regions: Tensor, boxes: Tensor) -> Tensor:
        """Return booleans (…, N, M): region (…, N, 4) and ground-truth box (…, M, 4), xyxy, have at least this IoU."""
        return iou_matrix(regions, boxes) >= self.iou


class Embed(nn.Module):
    """Descriptors (R, C·h·w) → features (R, F): a linear layer.

    ReInspect's has 1024 features, no ReLU, Gaussian initial weights with a standard deviation of 0.005, and outputs
    scaled by 0.01.

    Args:
        in_features: C·h·w.
        features: F, its width.
        relu: whether a ReLU follows.
        std: standard deviation of Gaussian initial weights; None for PyTorch's initialization.
        scale: of the outputs.
    """

    def __init__(
        self,
        in_features: int,
        *,
        features: Channels = 1024,
        relu: bool = True,
        std: Positive | None = None,
        scale: Positive = 1.0,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, features)
        self.relu, self.scale = relu, scale
        if std is not None:
            nn.init.normal_(self.linear.weight, std=std)
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (R, F) of descriptors (R, C·h·w)."""
        x = self.linear(x)
        return (x.relu() if self.relu else x) * self.scale


class SequenceHead(Head):
    """Descriptors → up to T boxes a region.

    Args:
        in_channels: channels of a descriptor.
        size: bins on its side.
        num_classes: foreground classes.
        embed: descriptors to features.
        decoder: features to boxes and class scores, step by step.
        box_coder: meaning of the decoder's codes, `PixelOffsets` or `Deltas` of `detection.heads.box_codes`.
        assigner: which ground-truth boxes a region may answer for, `Overlaps` or `MeetsWindow`; of more than T the
            nearest.
        cost: of answering, `Lexicographic`, `ReInspectCost` or `SetCost` of `detection.heads.costs`.
        strategy: of matching, see `detection.heads.hungarian.match`; `emd`, `fixed` and `by_iou` ask for no `cost`.
        classifier_weight: weight of the classes' loss; ReInspect's is the mean over its steps, 1/T of their sum.
        box_weight: of the box loss; 0.03 for ReInspect's pixels.
        giou_weight: weight of 1 − GIoU added to it.
        background_weight: weight of steps that should predict background.
        class_weights: weights of classes in the classes' loss by name, and of `background`, times `background_weight`;
            1 for the others. Each step's term is weighted; the sum is not divided by the weights.
        focal_gamma: γ of the focal loss in its softmax form (`heads.classifier_loss`); 0 is cross entropy.
        batch_size_per_image: regions that the loss samples; None for all.
        positive_fraction: most of them that may have a ground truth.
        ignore_crowd: a region without a ground truth is in no loss if a crowd region has at least this share of its
            area; None: it is.
        add_ground_truth: ground-truth boxes count as regions in training, as they do in Faster R-CNN.
        pre_merge: most boxes of an image that are merged, the best-scored; merging takes memory for its square.
        postprocess: which boxes of all regions remain, `Stitch`, `SetNMS` or `NMS` of `detection.heads.stitching`.
        early_stop: at inference a region ends at its first step below the score threshold. It suits a matching that
            asks for ground-truth boxes in the first steps: by the lexicographic costs, `first_k`, `fixed` and `by_iou`.
        score_threshold: detections below are dropped.
        detections_per_image: most that are kept.
        rezoom: a second pool, inside of the decoded boxes, from which their codes and scores are corrected (TensorBox,
            "rezoom"); None for none.
        rezoom_features: width of the hidden layer of that correction.
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        num_classes: int,
        *,
        embed: partial[Embed] = partial(Embed),
        decoder: partial[LSTMDecoder] = partial(LSTMDecoder),
        box_coder: partial[BoxCoder] = partial(Deltas),
        assigner: partial[Assigner] = partial(Overlaps),
        cost: partial[MatchingCost] = partial(Lexicographic),
        strategy: Strategy = "hungarian",
        classifier_weight: NonNegative = 1.0,
        box_weight: NonNegative = 1.0,
        giou_weight: NonNegative = 0.0,
        background_weight: NonNegative = 1.0,
        class_weights: dict[str, NonNegative] = NO_WEIGHTS,
        focal_gamma: NonNegative = 0.0,
        batch_size_per_image: BoxCount | None = 512,
        positive_fraction: Fraction = 0.25,
        ignore_crowd: PositiveFraction | None = 0.7,
        add_ground_truth: bool = True,
        pre_merge: BoxCount = 2000,
        postprocess: partial[Postprocess] = partial(SetNMS),
        early_stop: bool = True,
        score_threshold: ProperFraction = 0.05,
        detections_per_image: BoxCount = 100,
        rezoom: partial[Pool] | None = None,
        rezoom_features: Channels = 128,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embed = embed(in_channels * size**2)
        self.decoder = decoder(self.embed.linear.out_features, num_classes)
        self.box_coder, self.assigner, self.cost, self.postprocess = box_coder(), assigner(), cost(), postprocess()
        self.strategy: Strategy = strategy
        self.loss_weights = {
            "classifier_weight": classifier_weight,
            "box_weight": box_weight,
            "giou_weight": giou_weight,
            "background_weight": background_weight,
        }
        self.classifier_loss = ClassifierLoss(num_classes, focal_gamma, class_weights)
        self.sampler = None
        if batch_size_per_image is not None:
            self.sampler = (batch_size_per_image, positive_fraction)
        self.ignore_crowd = ignore_crowd
        self.add_ground_truth, self.early_stop, self.score_threshold = add_ground_truth, early_stop, score_threshold
        self.pre_merge, self.detections_per_image = pre_merge, detections_per_image
        self.rezoom_features, self._rezoom = rezoom_features, rezoom
        self.rezoom: Pool | None = None
        self.correct: nn.Module | None = None

    def connect(self, channels: Mapping[str, int], strides: Mapping[str, int]) -> None:
        """Build the second pool, and the corrections from it, which start at 0."""
        if self._rezoom is None:
            return
        self.rezoom = pool = self.build_pool("rezoom", self._rezoom, channels, strides)
        features = pool.out_channels * pool.output_size**2
        last = nn.Linear(self.rezoom_features, 4 + 1 + self.num_classes)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        first = nn.Linear(self.decoder.hidden_size + features, self.rezoom_features)
        self.correct = nn.Sequential(first, nn.ReLU(inplace=True), last)

    @torch.no_grad()
    def sample(self, boxes: list[Tensor], targets: Targets) -> tuple[list[Tensor], RegionTargets]:
        """Choose the regions that the loss is computed on, with the ground truth that each may answer for."""
        ground_truth = Ragged.of([target["boxes"].to(boxes[0].dtype) for target in targets])
        labels = Ragged.of([target["labels"] for target in targets])
        regions = Ragged.of(boxes)
        if self.add_ground_truth:
            regions = regions.followed_by(ground_truth)
        padded, inside = regions.padded()
        states = self._states(padded, ground_truth, ignored_regions(targets, padded)).masked_fill(~inside, NEITHER)
        if self.sampler is None:
            rows, counts = in_order(states != NEITHER)
        else:
            rows, counts = sample_boxes(states, *self.sampler).ascending(states.shape[1])
        device = padded.device
        sampled = padded.gather(1, rows[..., None].expand(-1, -1, 4)).flatten(0, 1)  # (B·n, 4), with padding
        sampled = sampled[positions(counts, rows.shape[1], device)]  # (R, 4)
        owners = image_indices(counts, device)
        parts = [
            self._region_targets(own, image, ground_truth.padded(), labels.padded()[0])
            for own, image in zip(*(chunks_of(t, max(ground_truth.counts)) for t in (sampled, owners)), strict=True)
        ]
        return list(sampled.split(counts)), RegionTargets(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _states(self, regions: Tensor, ground_truth: Ragged, ignored: Ragged | None) -> Tensor:
        """Return the states (B, N) of regions (B, N, 4): a positive may answer for some ground truth."""

        def answers(own: Tensor, boxes: Tensor, valid: Tensor) -> Tensor:
            chunks = chunks_of(own, valid.numel(), 1)
            return torch.cat([(self.assigner.belongs(c, boxes) & valid[:, None]).any(2) for c in chunks], 1)

        positive = by_groups(answers, regions, ground_truth)
        states = positive.char()  # `POSITIVE` is 1, `NEGATIVE` 0
        if ignored is None or self.ignore_crowd is None:
            return states
        return states.masked_fill(~positive & crowded(regions, ignored, self.ignore_crowd), NEITHER)

    def _region_targets(
        self, regions: Tensor, images: Tensor, ground_truth: tuple[Tensor, Tensor], labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the fields of `RegionTargets` of regions (R, 4) on images (R,), with ground truth (B, M, 4)."""
        boxes, present = (t[images] for t in ground_truth)  # (R, M, 4), (R, M)
        belongs = self.assigner.belongs(regions[:, None], boxes)[:, 0] & present
        middles = [(b[..., :2] + b[..., 2:]) / 2 for b in (regions, boxes)]  # (R, 2), (R, M, 2)
        distance = torch.linalg.vector_norm(middles[0][:, None] - middles[1], dim=-1)
        rows, valid = keep_nearest(belongs, distance, self.decoder.num_steps)
        chosen = F.pad(boxes, (0, 0, 0, 1)).gather(1, rows[..., None].expand(-1, -1, 4))  # (R, T, 4)
        # What is padding has a box too, the region's own, so that its code is finite.
        chosen = chosen.where(valid[..., None], regions[:, None])
        own = F.pad(labels, (0, 1))[images[:, None], rows]
        return chosen, self.box_coder.encode(chosen, regions), own, valid

    def forward(
        self, regions: PooledRegions, samples: RegionTargets | None = None
    ) -> tuple[Detections, dict[str, Tensor]]:
        """Decode the boxes of each region.

        The losses are `loss_classifier` and `loss_box_reg`, with `rezoom` also `loss_rezoom_classifier` and
        `loss_rezoom_box_reg`.
        """
        windows, counts = torch.cat(regions.boxes), [len(b) for b in regions.boxes]
        stop_below = self.score_threshold if self.early_stop and not self.training else None
        decoded = self.decoder(self.embed(regions.descriptors.flatten(1)), stop_below)  # of (R, C·h·w)
        codes, logits = decoded.codes * self.box_coder.scale, decoded.logits
        found = self.box_coder.decode(codes, windows)  # (R, T, 4)
        corrections = self._corrections(regions, decoded, found)
        if self.training:
            assert samples is not None, "in training the head needs samples"
            return [], self._losses(codes, logits, found, windows, samples, corrections)
        if corrections is not None:
            codes, logits = codes + corrections[0], logits + corrections[1]
            found = self.box_coder.decode(codes, windows)
        return self._detections(found, logits, decoded.going, counts, regions.image_sizes), {}

    def _corrections(self, regions: PooledRegions, decoded: Decoded, found: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return corrections of codes (R, T, 4) and logits (R, T, 1 + K) from inside of the decoded boxes (R, T, 4)."""
        if self.rezoom is None or self.correct is None:
            return None
        steps = found.shape[1]
        counts = [len(b) * steps for b in regions.boxes]
        boxes = found.detach().flatten(0, 1)  # (R·T, 4)
        boxes = clip_rows(boxes, image_indices(counts, boxes.device), regions.image_sizes)
        inside = list(boxes.split(counts))
        pooled = regions.pooled_by(self.rezoom, inside).flatten(1).unflatten(0, (-1, steps))  # (R, T, C·h·w)
        corrections = at_least_float32(self.correct(torch.cat([decoded.hidden, pooled], dim=-1)))
        return corrections[..., :4] * self.box_coder.scale, corrections[..., 4:]

    def _losses(
        self,
        codes: Tensor,
        logits: Tensor,
        found: Tensor,
        regions: Tensor,
        region_targets: RegionTargets,
        corrections: tuple[Tensor, Tensor] | None,
    ) -> dict[str, Tensor]:
        """Return the losses of codes (R, T, 4), logits (R, T, 1 + K) and decoded boxes (R, T, 4) of regions (R, 4)."""
        if self.strategy == "emd":
            cost = loss_cost(
                codes, logits, region_targets, boxes=found, classifier_loss=self.classifier_loss, **self.loss_weights
            )
        else:
            cost = self.cost.cost(found, codes, logits, region_targets)
        matched = match(cost, region_targets, self.strategy, regions)
        loss = partial(set_loss, **self.loss_weights, classifier_loss=self.classifier_loss)
        losses = loss(codes, logits, matched, region_targets, boxes=found)
        if corrections is not None:
            # The corrections learn what the decoder left over; the decoder learns from its own loss alone.
            codes, logits = codes.detach() + corrections[0], logits.detach() + corrections[1]
            boxes = self.box_coder.decode(codes, regions)
            second = loss(codes, logits, matched, region_targets, boxes=boxes)
            losses |= {name.replace("loss_", "loss_rezoom_"): loss for name, loss in second.items()}
        return losses

    def _detections(
        self, found: Tensor, logits: Tensor, going: Tensor, counts: list[int], image_sizes: list[tuple[int, int]]
    ) -> Detections:
        """Return the detections of each image among decoded boxes (R, T, 4), before the step where a region stopped."""
        scores = logits.softmax(-1)[..., 1:].masked_fill(~going[..., None], 0).flatten(1)  # (R, T·K)
        # Place step·K + label − 1 among the T·K scores of a region.
        region, place, boxes, numbers = find_candidates(
            scores, self.score_threshold, lambda row, place: found[row, place // self.num_classes], counts, image_sizes
        )
        columns = {"boxes": boxes, "labels": place % self.num_classes + 1, "scores": scores[region, place]}
        detections = []
        for own, regions in zip(by_image(columns, numbers), region.split(numbers), strict=True):
            best = own["scores"].topk(min(len(regions), self.pre_merge)).indices
            own = {key: t[best] for key, t in own.items()}
            chosen = self.postprocess(own["boxes"], own["scores"], own["labels"], regions[best])
            detections.append({key: t[chosen[: self.detections_per_image]] for key, t in own.items()})
        return detections
