"""The heads in an ONNX trace: regions of a batch of any size to candidates, and these to detections."""

# B images, N regions of one, R = B·N of all, T steps, K classes, M candidates of one image, n detections.

from dataclasses import dataclass, replace
from functools import singledispatch

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads

from detection.contracts import Features, RefinementHead, at_least_float32
from detection.errors import UserError
from detection.export.boxes import ABSENT, Candidates, best, clip, in_classes, settled, survivors, take
from detection.export.pools import Regions, TracedRegions, pooled
from detection.heads import FastRCNN, LocalGlobal, SequenceHead
from detection.heads.stitching import NMS, SetNMS, Stitch
from detection.inference import InferenceConfig, mirror_deltas
from detection.ops.box_deltas import decode_deltas
from detection.ops.box_iou import pairwise_iou


@dataclass(frozen=True)
class Images:
    """A batch of images, as a head sees it.

    Attributes:
        sizes: (B, 2) int64, height and width of each image inside the batch.
        features: every feature map by name.
        mirrored: those of the mirrored images; None where they are not asked for.
        pool: the detector's pool.
        threshold: () score that a candidate is above.
    """

    sizes: Tensor
    features: Features
    mirrored: Features | None
    pool: nn.Module
    threshold: Tensor

    def regions(self, boxes: Tensor) -> TracedRegions:
        """Return the regions of boxes (B, N, 4)."""
        regions = Regions(boxes, self.sizes)
        return TracedRegions(pooled(self.pool, self.features, regions), regions, self.features)


def require_exportable(head: nn.Module) -> None:
    """Check that a head, and its post-processing, can be a graph.

    Raises:
        UserError: it cannot.
    """
    if detect.dispatch(type(head)) is detect.dispatch(object):
        raise UserError(
            f"{type(head).__name__}: only FastRCNN, LocalGlobal and SequenceHead can be exported as a head."
        )
    if isinstance(head, SequenceHead) and not isinstance(head.postprocess, NMS | SetNMS):
        kind = type(head.postprocess).__name__
        why = (
            "solves an assignment problem for each region in turn" if isinstance(head.postprocess, Stitch) else "is new"
        )
        raise UserError(
            f"detector.head.postprocess: {kind} {why}, and ONNX has no operator for it; export with "
            "detector.head.postprocess=detection.heads.stitching.NMS, and measure what that changes by `detection "
            "evaluate RUN` with the same override."
        )


@singledispatch
def detect(head: nn.Module, images: Images, boxes: Tensor, valid: Tensor, inference: InferenceConfig) -> Candidates:
    """Return the detections of each image, best first.

    Args:
        head: the part.
        images: the batch.
        boxes: (B, N, 4), the regions of each image.
        valid: (B, N), which of them there are.
        inference: box iterations, voting and mirrored images.

    Raises:
        NotImplementedError: a head that is none of the package's, which `require_exportable` refuses.
    """
    raise NotImplementedError(type(head).__name__)


@detect.register(FastRCNN)
@detect.register(LocalGlobal)
def _(
    head: FastRCNN | LocalGlobal, images: Images, boxes: Tensor, valid: Tensor, inference: InferenceConfig
) -> Candidates:
    heads = head.fast_rcnn.roi_heads if isinstance(head, LocalGlobal) else head.roi_heads
    classes = heads.box_predictor.cls_score.out_features - 1  # type: ignore[union-attr]
    probabilities, deltas = _predict(head, images, boxes)
    found = _decode(heads, images, boxes, torch.where(valid[..., None], probabilities, ABSENT), deltas, classes)
    together = [found]
    for _ in range(inference.num_box_iterations - 1):
        probabilities, deltas = _predict(head, images, found.boxes)
        own = found.labels[..., None] == torch.arange(classes + 1)
        probabilities = torch.where(own & (found.scores >= 0)[..., None], probabilities, ABSENT)
        found = _decode(heads, images, found.boxes, probabilities, deltas, classes)
        together.append(found)
    columns = zip(*((c.boxes, c.labels, c.scores, c.regions) for c in together), strict=True)
    candidates = Candidates(*(torch.cat(column, 1) for column in columns))
    chosen = _by_class(candidates, classes, heads.nms_thresh, heads.detections_per_img)
    if inference.voting_iou is None:
        return chosen
    return replace(chosen, boxes=_vote(chosen, candidates, inference.voting_iou))


def _predict(head: RefinementHead, images: Images, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities (B, N, 1 + K) and deltas (B, N, 1 + K, 4) at boxes (B, N, 4)."""
    probabilities, deltas = head.predict(images.regions(boxes))
    if images.mirrored is not None:
        widths = images.sizes[:, 1:].to(boxes.dtype)  # (B, 1)
        x1, y1, x2, y2 = boxes.unbind(-1)
        mirrored = torch.stack([widths - x2, y1, widths - x1, y2], -1)
        others, other_deltas = head.predict(replace(images, features=images.mirrored).regions(mirrored))
        probabilities, deltas = (probabilities + others) / 2, (deltas + mirror_deltas(other_deltas)) / 2
    shape = boxes.shape[0], boxes.shape[1]
    return probabilities.reshape(*shape, probabilities.shape[1]), deltas.reshape(*shape, deltas.shape[1], 4)


def _decode(
    heads: RoIHeads, images: Images, boxes: Tensor, probabilities: Tensor, deltas: Tensor, classes: int
) -> Candidates:
    """Return the candidates by probabilities (B, N, 1 + K) and deltas (B, N, 1 + K, 4) at boxes (B, N, 4)."""
    scores = probabilities[..., 1:].flatten(1)  # (B, N·K)
    scores, index = best(torch.where(scores > images.threshold, scores, ABSENT))
    region = torch.div(index, classes, rounding_mode="floor")
    chosen = take(deltas[:, :, 1:].flatten(1, 2), index)  # (B, M, 4)
    found = clip(decode_deltas(heads.box_coder, chosen, take(boxes, region)), images.sizes)
    return Candidates(found, index - region * classes + 1, scores, region).with_area()


def _by_class(candidates: Candidates, classes: int, iou: float, most: int) -> Candidates:
    """Return what NMS in each class keeps."""
    scores = in_classes(candidates.scores, candidates.labels - 1, classes)
    kept = survivors(candidates.boxes, scores, iou)
    return candidates.best(torch.where(kept, candidates.scores, ABSENT), most)


def _vote(chosen: Candidates, candidates: Candidates, iou: float) -> Tensor:
    """Return the mean (B, n, 4) of the candidates near each detection of their class, weighted by their scores."""
    near = pairwise_iou(chosen.boxes, candidates.boxes)[0] >= iou  # (B, n, M)
    near = near & (chosen.labels[..., None] == candidates.labels[:, None])
    weights = candidates.scores.clamp(min=0)[:, None] * near
    return weights @ candidates.boxes / weights.sum(-1, keepdim=True).clamp(min=1e-30)


@detect.register
def _(head: SequenceHead, images: Images, boxes: Tensor, valid: Tensor, inference: InferenceConfig) -> Candidates:
    regions, steps, classes = images.regions(boxes), head.decoder.num_steps, head.num_classes
    stop_below = images.threshold if head.early_stop else None
    decoded = head.decoder(head.embed(regions.descriptors.flatten(1)), stop_below)  # type: ignore[arg-type]
    windows, codes, logits = boxes.flatten(0, 1), decoded.codes * head.box_coder.scale, decoded.logits
    found = head.box_coder.decode(codes, windows)  # (R, T, 4)
    shape = boxes.shape[0], boxes.shape[1] * steps
    if head.rezoom is not None and head.correct is not None:
        inside = Regions(clip(found.reshape(*shape, 4), images.sizes), images.sizes)
        second = pooled(head.rezoom, images.features, inside).flatten(1).unflatten(0, (-1, steps))
        corrections = at_least_float32(head.correct(torch.cat([decoded.hidden, second], -1)))
        codes, logits = codes + corrections[..., :4] * head.box_coder.scale, logits + corrections[..., 4:]
        found = head.box_coder.decode(codes, windows)
    scores = torch.where(decoded.going[..., None], logits.softmax(-1)[..., 1:], ABSENT)  # (R, T, K)
    scores = scores.reshape(boxes.shape[0], boxes.shape[1], steps * classes)
    scores = torch.where(valid[..., None] & (scores > images.threshold), scores, ABSENT).flatten(1)  # (B, N·T·K)
    scores, index = best(scores)
    place = torch.div(index, classes, rounding_mode="floor")
    own = clip(take(found.reshape(*shape, 4), place), images.sizes)
    region = torch.div(place, steps, rounding_mode="floor")
    candidates = Candidates(own, index - place * classes + 1, scores, region).with_area()
    candidates = candidates.best(candidates.scores, head.pre_merge)
    if isinstance(head.postprocess, SetNMS):
        kept = _set_nms(candidates, head.postprocess.iou)
        return candidates.best(torch.where(kept, candidates.scores, ABSENT), head.detections_per_image)
    assert isinstance(head.postprocess, NMS)
    return _by_class(candidates, classes, head.postprocess.iou, head.detections_per_image)


def _set_nms(candidates: Candidates, iou: float) -> Tensor:
    """Return booleans (B, M): what NMS keeps in which boxes of one region never suppress each other."""
    labels, regions, there = candidates.labels, candidates.regions, candidates.scores >= 0
    competing = (labels[:, :, None] == labels[:, None]) & (regions[:, :, None] != regions[:, None])
    competing = competing & there[:, :, None] & there[:, None]
    over = competing & (pairwise_iou(candidates.boxes, candidates.boxes)[0].double() > iou)
    return settled(over.float().triu(1)) & there
