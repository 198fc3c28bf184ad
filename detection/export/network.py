"""A detector as one module of tensors, on a batch of any size: what is traced and written to an ONNX file."""

# B images, H×W batch, N boxes of one image, n detections.

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.contracts import Features
from detection.detector import Detector
from detection.export.heads import Images, detect, require_exportable
from detection.export.proposals import proposals

INPUTS = ("images", "sizes", "score_threshold")
OUTPUTS = ("boxes", "labels", "scores", "counts")


class DetectorGraph(nn.Module):
    """Images as one batch → detections as one batch; equal to the detector behind its resizing.

    It is for tracing alone: run eagerly, NMS and sweeps of `detection.ops.sweep.traced` return nothing.

    Args:
        detector: in evaluation mode, on a CPU.

    Raises:
        UserError: a part that has no ONNX form.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        require_exportable(detector.head)
        self.detector = detector
        for name, values in (("mean", detector.transform.image_mean), ("std", detector.transform.image_std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, images: Tensor, sizes: Tensor, score_threshold: Tensor) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            images: (B, 3, H, W) float32 RGB in [0, 1], each in the top left; anything around it.
            sizes: (B, 2) int64, height and width of each image.
            score_threshold: () float32, detections are above it.

        Returns:
            boxes (B, n, 4) xyxy in pixels of the batch, labels (B, n) int64, 1 … K, and scores (B, n), best first, and
            counts (B,): how many detections an image has, the rest being zeros.
        """
        detector = self.detector
        batch = self._normalized(images, sizes)
        features = self._features(batch, sizes)
        mirrored = self._features(_mirrored(batch, sizes), sizes) if detector.inference.flip else None
        boxes, valid = proposals(detector.regions, batch, sizes, features)
        seen = Images(sizes, features, mirrored, detector.pool, score_threshold)
        found = detect(detector.head, seen, boxes, valid, detector.inference)
        there = found.scores >= 0
        return (
            found.boxes * there[..., None],
            found.labels * there,
            found.scores * there,
            there.sum(1),
        )

    def _normalized(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Return the batch, padded to the detector's stride, 0 around the images."""
        stride = self.detector.transform.size_divisible
        # Of positive numbers: torch's exporter truncates a quotient.
        height, width = ((side + stride - 1) // stride * stride for side in images.shape[-2:])
        images = F.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]))
        return torch.where(_inside(sizes, images, 1), (images - self.mean) / self.std, 0.0)

    def _features(self, batch: Tensor, sizes: Tensor) -> Features:
        detector = self.detector
        features = detector.backbone(batch)
        if detector.context is None:
            return features
        source = features[detector.context_source]
        valid = _inside(sizes, source, detector.backbone.strides[detector.context_source])
        return {**features, "context": detector.context(source, valid)}


def _inside(sizes: Tensor, like: Tensor, stride: int) -> Tensor:
    """Return booleans (B, 1, H, W): the first pixel of a location of a feature map is inside of its image."""
    rows = torch.arange(cast(int, like.shape[-2])) * stride < sizes[:, :1]
    columns = torch.arange(cast(int, like.shape[-1])) * stride < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None])[:, None]


def _mirrored(batch: Tensor, sizes: Tensor) -> Tensor:
    """Return the batch with each image mirrored left to right inside its own size."""
    columns = torch.arange(cast(int, batch.shape[-1]))
    widths = sizes[:, 1:]
    source = torch.where(columns < widths, widths - 1 - columns, columns)  # (B, W)
    return batch.gather(3, source[:, None, None].expand(-1, batch.shape[1], batch.shape[2], -1))
