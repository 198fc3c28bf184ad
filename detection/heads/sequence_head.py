"""A head that says several boxes a region, one after another, and learns which in the loss (Stewart et al. 2016).

With grid cells as regions it is ReInspect. With proposals as regions one proposal may answer for several objects, as in
CrowdDet (Chu et al. 2020), whose rule of what a proposal answers for, and whose set NMS, it takes.
"""

# R regions of all images, N of one, M ground-truth boxes of one, F features, T steps, K classes, n detections.

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.ops import box_iou, clip_boxes_to_image

from detection.config import Part
from detection.errors import UserError
from detection.heads.box_codes import Deltas
from detection.heads.costs import Lexicographic
from detection.heads.hungarian import Strategy, match, set_loss
from detection.heads.lstm_decoder import Decoded, LSTMDecoder
from detection.heads.region_targets import RegionTargets, keep_nearest, take
from detection.heads.stitching import SetNMS


@dataclass(frozen=True)
class MeetsWindow:
    """A region may answer for the ground-truth boxes that it meets (Stewart et al. 2016)."""

    def belongs(self, regions: Tensor, boxes: Tensor) -> Tensor:
        """Regions (N, 4) and ground-truth boxes (M, 4) xyxy → booleans (N, M)."""
        left_top = torch.maximum(regions[:, None, :2], boxes[:, :2])
        right_bottom = torch.minimum(regions[:, None, 2:], boxes[:, 2:])
        return (right_bottom > left_top).all(-1)


@dataclass(frozen=True)
class Overlaps:
    """A region may answer for the ground-truth boxes that it overlaps enough (Chu et al. 2020).

    Attributes:
        iou: least IoU.
    """

    iou: float = 0.5

    def belongs(self, regions: Tensor, boxes: Tensor) -> Tensor:
        """Regions (N, 4) and ground-truth boxes (M, 4) xyxy → booleans (N, M)."""
        return box_iou(regions, boxes) >= self.iou


class Embed(nn.Module):
    """Descriptors (R, C·h·w) → features (R, F): a linear layer.

    ReInspect's has 1024 features, no ReLU, a gaussian start of 0.005, and outputs scaled by 0.01.

    Args:
        in_features: C·h·w.
        features: F.
        relu: whether a ReLU follows.
        std: of a gaussian start; None for PyTorch's.
        scale: of the outputs.
    """

    def __init__(
        self, in_features: int, *, features: int = 1024, relu: bool = True, std: float | None = None, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, features)
        self.relu, self.scale = relu, scale
        if std is not None:
            nn.init.normal_(self.linear.weight, std=std)
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.linear(x)
        return (x.relu() if self.relu else x) * self.scale


class SequenceHead(nn.Module):
    """Descriptors → up to T boxes a region.

    Args:
        in_channels: channels of a descriptor.
        size: cells on its side.
        num_classes: foreground classes.
        embed: descriptors to features.
        decoder: features to boxes and class scores, step by step.
        box_coder: what the decoder's box numbers mean, `PixelOffsets` or `Deltas` of `detection.heads.box_codes`.
        assigner: which ground-truth boxes a region may answer for, `Overlaps` or `MeetsWindow`; of more than T the
            nearest.
        cost: of answering, `Lexicographic` or `SetCost` of `detection.heads.costs`.
        strategy: of matching, see `detection.heads.hungarian.match`.
        box_weight: of the box loss; 0.03 for ReInspect's pixels.
        giou_weight: of 1 − GIoU beside it.
        background_weight: of steps that should say background.
        batch_size_per_image: regions that the loss samples; None for all.
        positive_fraction: most of them that may have a ground truth.
        add_ground_truth: ground-truth boxes count as regions in training, as they do in Faster R-CNN.
        pre_merge: most boxes of an image that are merged, the best-scored; merging takes memory for its square.
        postprocess: which boxes of all regions remain, `Stitch`, `SetNMS` or `NMS` of `detection.heads.stitching`.
        early_stop: at test a region ends at its first step below the score threshold. It suits a cost that asks for
            ground-truth boxes in the first steps, as the lexicographic one does.
        score_threshold: detections below are dropped.
        detections_per_image: most that are kept.
        rezoom_features: of the layer that corrects boxes and scores after a second look (`DetectorConfig.rezoom`).

    Raises:
        UserError: settings that do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        size: int,
        num_classes: int,
        *,
        embed: Part = partial(Embed),
        decoder: Part = partial(LSTMDecoder),
        box_coder: Part = partial(Deltas),
        assigner: Part = partial(Overlaps),
        cost: Part = partial(Lexicographic),
        strategy: Strategy = "hungarian",
        box_weight: float = 1.0,
        giou_weight: float = 0.0,
        background_weight: float = 1.0,
        batch_size_per_image: int | None = 512,
        positive_fraction: float = 0.25,
        add_ground_truth: bool = True,
        pre_merge: int = 2000,
        postprocess: Part = partial(SetNMS),
        early_stop: bool = True,
        score_threshold: float = 0.05,
        detections_per_image: int = 100,
        rezoom_features: int = 128,
    ) -> None:
        super().__init__()
        if not 0 <= score_threshold < 1:
            raise UserError(f"head.score_threshold={score_threshold}: is a probability, from 0 to below 1.")
        for name, value in {"pre_merge": pre_merge, "detections_per_image": detections_per_image}.items():
            if value < 1:
                raise UserError(f"head.{name}={value}: must be 1 or more.")
        self.num_classes = num_classes
        self.embed = embed(in_channels * size**2)
        self.decoder = decoder(self.embed.linear.out_features, num_classes)
        self.box_coder, self.assigner, self.cost, self.postprocess = box_coder(), assigner(), cost(), postprocess()
        self.strategy: Strategy = strategy
        self.weights_of_loss = {
            "box_weight": box_weight,
            "giou_weight": giou_weight,
            "background_weight": background_weight,
        }
        self.sampler = None
        if batch_size_per_image is not None:
            self.sampler = BalancedPositiveNegativeSampler(batch_size_per_image, positive_fraction)
        self.add_ground_truth = add_ground_truth
        self.pre_merge = pre_merge
        self.early_stop = early_stop
        self.score_threshold = score_threshold
        self.detections_per_image = detections_per_image
        self.rezoom_features = rezoom_features
        self.correct: nn.Module | None = None

    def add_rezoom(self, features: int) -> None:
        """Expect a second look at `features` numbers a box; its corrections start at 0 (TensorBox, "rezoom")."""
        last = nn.Linear(self.rezoom_features, 4 + 1 + self.num_classes)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        first = nn.Linear(self.decoder.hidden_size + features, self.rezoom_features)
        self.correct = nn.Sequential(first, nn.ReLU(inplace=True), last)

    @torch.no_grad()
    def sample(self, boxes: list[Tensor], targets: list[dict[str, Tensor]]) -> tuple[list[Tensor], RegionTargets]:
        """Choose the regions that the loss looks at, and what each may answer for.

        Args:
            boxes: regions (N, 4) xyxy of each image.
            targets: per image `boxes` (M, 4) and `labels` (M,), 1 … K.
        """
        if self.add_ground_truth:
            boxes = [torch.cat([b, t["boxes"].to(b.dtype)]) for b, t in zip(boxes, targets, strict=True)]
        belongs = [self.assigner.belongs(b, t["boxes"]) for b, t in zip(boxes, targets, strict=True)]
        if self.sampler is not None:
            chosen = [p | n for p, n in zip(*self.sampler([b.any(1).long() for b in belongs]), strict=True)]
            rows = [torch.where(mask)[0] for mask in chosen]
            boxes = [b[r] for b, r in zip(boxes, rows, strict=True)]
            belongs = [b[r] for b, r in zip(belongs, rows, strict=True)]
        parts = [self._truths(*image) for image in zip(boxes, belongs, targets, strict=True)]
        return boxes, RegionTargets(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _truths(
        self, regions: Tensor, belongs: Tensor, target: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One image's `RegionTargets`, field by field."""
        middles = [(b[:, :2] + b[:, 2:]) / 2 for b in (regions, target["boxes"])]
        distance = torch.linalg.vector_norm(middles[0][:, None] - middles[1], dim=-1)
        rows, valid = keep_nearest(belongs, distance, self.decoder.num_steps)
        # What is padding has a box too, the region's own, so that its code is finite.
        boxes = take(target["boxes"], rows).where(valid[..., None], regions[:, None])
        return boxes, self.box_coder.encode(boxes, regions), take(target["labels"], rows), valid

    def forward(
        self,
        descriptors: Tensor,
        boxes: list[Tensor],
        image_sizes: list[tuple[int, int]],
        samples: RegionTargets | None,
        look_again: Callable[[list[Tensor]], Tensor] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Say the boxes of each region.

        Args:
            descriptors: (R, C, h, w), R the regions of all images in order.
            boxes: regions (N, 4) xyxy of each image.
            image_sizes: height and width of each image inside the batch.
            samples: what the regions may answer for; needed in training.
            look_again: boxes of each image to their descriptors (…, C, h, w); needed after `add_rezoom`.

        Returns:
            At test per image `boxes` (n, 4), `labels` (n,) 1 … K and `scores` (n,), best first, and no losses; in
            training no detections, and `loss_classifier` and `loss_box_reg`, with a second look also
            `loss_rezoom_classifier` and `loss_rezoom_box_reg`.
        """
        regions = torch.cat(boxes)
        stop_below = self.score_threshold if self.early_stop and not self.training else None
        decoded = self.decoder(self.embed(descriptors.flatten(1)), stop_below)
        codes, logits = decoded.codes * self.box_coder.scale, decoded.logits
        found = self.box_coder.decode(codes, regions)
        again = None
        if self.correct is not None:
            assert look_again is not None, "after add_rezoom the head needs a second look"
            again = self._look_again(look_again, decoded, found, [len(b) for b in boxes], image_sizes)
        if self.training:
            assert samples is not None, "in training the head needs samples"
            return [], self._losses(codes, logits, found, regions, samples, again)
        if again is not None:
            codes, logits = codes + again[0], logits + again[1]
            found = self.box_coder.decode(codes, regions)
        return self._detections(found, logits, decoded.going, [len(b) for b in boxes], image_sizes), {}

    def _look_again(
        self,
        look: Callable[[list[Tensor]], Tensor],
        decoded: Decoded,
        found: Tensor,
        counts: list[int],
        image_sizes: list[tuple[int, int]],
    ) -> tuple[Tensor, Tensor]:
        """Corrections of codes (R, T, 4) and logits (R, T, 1 + K) from inside of the boxes found."""
        assert self.correct is not None
        steps = found.shape[1]
        inside = [
            clip_boxes_to_image(b.detach().flatten(0, 1), size)
            for b, size in zip(found.split(counts), image_sizes, strict=True)
        ]
        seen = look(inside).flatten(1).unflatten(0, (-1, steps))
        corrections = self.correct(torch.cat([decoded.hidden, seen], dim=-1)).float()
        return corrections[..., :4] * self.box_coder.scale, corrections[..., 4:]

    def _losses(
        self,
        codes: Tensor,
        logits: Tensor,
        found: Tensor,
        regions: Tensor,
        region_targets: RegionTargets,
        again: tuple[Tensor, Tensor] | None,
    ) -> dict[str, Tensor]:
        matched = match(self.cost.cost(found, codes, logits, region_targets), region_targets, self.strategy)
        losses = set_loss(codes, logits, matched, region_targets, boxes=found, **self.weights_of_loss)
        if again is not None:
            # The corrections learn what the first look left over; that look learns from its own loss alone.
            codes, logits = codes.detach() + again[0], logits.detach() + again[1]
            boxes = self.box_coder.decode(codes, regions)
            second = set_loss(codes, logits, matched, region_targets, boxes=boxes, **self.weights_of_loss)
            losses |= {name.replace("loss_", "loss_rezoom_"): loss for name, loss in second.items()}
        return losses

    def _detections(
        self, found: Tensor, logits: Tensor, going: Tensor, counts: list[int], image_sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        scores = logits.softmax(-1)[..., 1:].masked_fill(~going[..., None], 0)  # (R, T, K)
        detections = []
        for own, score, size in zip(found.split(counts), scores.split(counts), image_sizes, strict=True):
            region, step, label = torch.where(score > self.score_threshold)
            box = clip_boxes_to_image(own[region, step], size)
            keep = (box[:, 2:] - box[:, :2] >= 1e-2).all(1)
            said = score[region, step, label].where(keep, 0)
            best = said.topk(min(int(keep.sum()), self.pre_merge)).indices
            region, box, label, said = region[best], box[best], label[best] + 1, said[best]
            chosen = self.postprocess(box, said, label, region)[: self.detections_per_image]
            detections.append({"boxes": box[chosen], "labels": label[chosen], "scores": said[chosen]})
        return detections
