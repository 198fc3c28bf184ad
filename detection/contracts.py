"""The contracts of the five pluggable parts: what each is built from, takes and returns.

    images ─► Backbone ─► Context ─► Regions ─► Pool ─► Head ─► detections

`Backbone` (`detection.backbones`) and the recurrent `Cell` (`detection.cells`) stand with their implementations, the
other four here. A part is a class that inherits from its contract; the first arguments of its `__init__` are given by
`detection.detector.build_detector`, and its keywords with defaults are the settings that configs, overrides and
`config.json` know. `detection.testing` checks a part against its contract.

B images, C channels, H×W feature map, N boxes of one image, R of all images, h×w bins of a descriptor, K classes. Boxes
are xyxy in pixels of the padded batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from detection.errors import UserError
from detection.weights import LoadReport

Features = Mapping[str, Tensor]
"""Feature maps (B, C, H, W) by name: `c2` … of the backbone, `p2` … of a pyramid, and `context`."""

Targets = list[dict[str, Tensor]]
"""Per image `boxes` (N, 4) and `labels` (N,) int64, 1 … K; with crowd regions also `ignored` (I, 4), where objects may
have no boxes: a negative inside of one is in no loss."""

Detections = list[dict[str, Tensor]]
"""Per image `boxes` (n, 4), `labels` (n,) 1 … K and `scores` (n,), best first."""


class Context(nn.Module, ABC):
    """A feature map (B, C, H, W) and its valid locations (B, 1, H, W) → a feature map (B, `out_channels`, H, W).

    Built as `Class(in_channels, **settings)`. No valid location depends on what lies outside of `valid`, the output is
    0 there, and an image alone gives what it gives in a batch.

    Attributes:
        out_channels: channels of the output.
    """

    out_channels: int

    @abstractmethod
    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the context (B, `out_channels`, H, W) of x (B, C, H, W) under booleans `valid` (B, 1, H, W)."""


class Regions(nn.Module, ABC):
    """Feature maps → boxes of each image in which objects may be, and losses in training.

    Built as `Class(channels, **settings)` from the channels of each feature map by name.
    """

    @abstractmethod
    def forward(
        self, images: ImageList, features: Features, targets: Targets | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes.

        Args:
            images: the padded batch and each image's (height, width) inside it.
            features: every feature map by name.
            targets: ground truth; needed in training.

        Returns:
            Boxes (N, 4) of each image, and losses by name (`loss_…`), none outside of training.
        """


class Pool(nn.Module, ABC):
    """Feature maps and boxes → descriptors (R, `out_channels`, `output_size`, `output_size`), R in order of images.

    Built as `Class(channels, strides, **settings)` from the channels and the pixels a location stands for, by name.

    Attributes:
        out_channels: channels of a descriptor.
        output_size: bins on a side of a descriptor.
    """

    out_channels: int
    output_size: int

    @abstractmethod
    def forward(self, features: Features, boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> Tensor:
        """Return the descriptors of boxes (N, 4) of each image, whose (height, width) is `image_sizes`."""


@dataclass(frozen=True)
class PooledRegions:
    """The regions of a batch, and all that a head may read of them.

    Attributes:
        descriptors: (R, C, h, w) by the detector's pool.
        boxes: (N, 4) of each image.
        image_sizes: (height, width) of each image inside the batch.
        features: every feature map by name.
    """

    descriptors: Tensor
    boxes: list[Tensor]
    image_sizes: list[tuple[int, int]]
    features: Features = field(default_factory=dict)

    def pooled_by(self, pool: Pool, boxes: list[Tensor] | None = None) -> Tensor:
        """Return the descriptors (R, C, h, w) by a head's own pool, of the same boxes or of others."""
        return pool(self.features, self.boxes if boxes is None else boxes, self.image_sizes)


class Head(nn.Module, ABC):
    """Descriptors of regions → detections, or losses in training.

    Built as `Class(in_channels, size, num_classes, **settings)` from the channels of a descriptor, its bins on a side
    and the number of foreground classes; then `connect` is called once.

    Attributes:
        weights: where its own initial weights come from, for `load_pretrained`; None for random ones.
    """

    weights: str | None = None

    def load_pretrained(self) -> LoadReport | None:
        """Fill in its initial weights; None where they are random."""
        return None

    def connect(self, channels: Mapping[str, int], strides: Mapping[str, int]) -> None:
        """Build what reads more than the descriptors, such as a second pool; by default nothing.

        Args:
            channels: of each feature map by name.
            strides: pixels a location of each feature map stands for, by name.
        """

    def build_pool(
        self, key: str, pool: partial[Pool], channels: Mapping[str, int], strides: Mapping[str, int]
    ) -> Pool:
        """Build a pool of the head's own, whose errors name its key."""
        try:
            return pool(channels, strides)
        except UserError as error:
            raise UserError(f"detector.head.{key}: {error}") from None

    @abstractmethod
    def sample(self, boxes: list[Tensor], targets: Targets) -> tuple[list[Tensor], Any]:
        """Choose the regions that the loss is computed on.

        Args:
            boxes: (N, 4) of each image, by the detector's regions.
            targets: ground truth.

        Returns:
            Chosen boxes of each image, and what `forward` needs to know of them.
        """

    @abstractmethod
    def forward(self, regions: PooledRegions, samples: Any = None) -> tuple[Detections, dict[str, Tensor]]:
        """Detect, or compute losses when in training mode.

        Args:
            regions: the regions and what can be read of them.
            samples: the second result of `sample`; needed in training.

        Returns:
            Detections of each image and no losses; in training no detections, and losses by name (`loss_…`).
        """


class RefinementHead(Head):
    """A head whose post-processing comes in steps, for box iterations, voting and mirrored images at inference."""

    @abstractmethod
    def predict(self, regions: PooledRegions) -> tuple[Tensor, Tensor]:
        """Return probabilities (R, 1 + K), the background first, and box deltas (R, 1 + K, 4)."""

    @abstractmethod
    def decode(
        self, probabilities: Tensor, deltas: Tensor, boxes: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> Detections:
        """Return the candidates of each image above the score threshold, before any NMS, in no order.

        Args:
            probabilities: (R, 1 + K).
            deltas: (R, 1 + K, 4).
            boxes: (N, 4) of each image that they were predicted for.
            image_sizes: (height, width) of each image inside the batch.
        """

    @abstractmethod
    def select(self, candidates: Detections, voting_iou: float | None = None) -> Detections:
        """Return the detections among candidates by NMS, with box voting from this IoU on where there is one."""


class ContextLoss(nn.Module, ABC):
    """An auxiliary loss on the feature map `context`, in training only.

    Built as `Class(in_channels, stride, num_classes, **settings)`.
    """

    @abstractmethod
    def forward(self, context: Tensor, semantic: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return losses by name from the map (B, C, H, W) and each image's labels (h, w), 0 … K, 255 ignored."""


def require_feature_maps(part: str, stages: tuple[str, ...], in_channels: Mapping[str, int]) -> None:
    """Check that the feature maps a part reads exist.

    Raises:
        UserError: the first that does not, with those that do.
    """
    for stage in stages:
        if stage not in in_channels:
            known = ", ".join(in_channels)
            raise UserError(f"{part}: there is no feature map {stage!r}; the backbone and context give {known}.")


def at_least_float32(x: Tensor) -> Tensor:
    """Return half-precision predictions as float32, in which box arithmetic and losses run; wider ones as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
