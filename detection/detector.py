"""The detector: backbone → context → regions → pool → head, five injected parts in a row.

A sixth, optional: a segmentation loss on the context's map, in training.

Shape letters: B images, C channels, H×W map, N boxes of one image, R boxes of all images, K classes.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from detection.backbones import Backbone
from detection.config import DetectorConfig, Part, require_context
from detection.contracts import require_feature_maps
from detection.errors import UserError
from detection.inference import PLAIN, InferenceConfig, Look, averaged, detect, mirror_batch, require_steps
from detection.segmentation import semantic_maps

Targets = list[dict[str, Tensor]]

# What a head needs for such a pool, what is said of one without it, and a head that has it.
_SECOND_POOLS = {
    "global_pool": ("add_global", "has no global branch", "LocalGlobal"),
    "rezoom": ("add_rezoom", "does not look twice", "SequenceHead"),
}


class Detector(nn.Module):
    """Images to detections, or to losses in training.

    Args:
        backbone: images (B, 3, H, W) → maps by name.
        regions: (batch, maps, targets) → boxes of each image, losses.
        pool: (maps, boxes, image sizes) → descriptors (R, C, h, w).
        head: (descriptors, boxes, image sizes, samples) → detections, losses; its `sample` chooses the loss's boxes.
        context: (map (B, C, H, W), valid (B, 1, H, W)) → a map of the same size, named `context`; or None.
        global_pool: a pool for the same boxes, whose descriptors the head reads beside those of `pool`; or None.
        rezoom: a pool for boxes that the head found at a first look; the head is given a function from boxes to their
            descriptors. None: it looks once.
        segmentation: (map `context`, per image the label of each pixel (H, W)) → losses, in training only; or None.
        context_source: the map that the context reads.
        min_size: pixels of an image's shorter side inside the detector.
        max_size: most pixels of its longer side.
        resize_in_training: resize in training as at test; False when the data pipeline already has.
        inference: rounds of boxes, voting and mirror images at test; beyond the plain settings the head needs
            `predict`, `decode` and `select`, as `FastRCNN` has them.
    """

    backbone: Backbone
    head: Any

    def __init__(
        self,
        backbone: Backbone,
        regions: nn.Module,
        pool: nn.Module,
        head: nn.Module,
        context: nn.Module | None = None,
        segmentation: nn.Module | None = None,
        rezoom: nn.Module | None = None,
        global_pool: nn.Module | None = None,
        *,
        context_source: str = "c5",
        min_size: int = 800,
        max_size: int = 1333,
        resize_in_training: bool = True,
        inference: InferenceConfig = PLAIN,
    ) -> None:
        super().__init__()
        require_steps(inference, head)
        self.inference = inference
        self.min_size, self.max_size, self.resize_in_training = min_size, max_size, resize_in_training
        self.transform = GeneralizedRCNNTransform(
            min_size,
            max_size,
            list(backbone.image_mean),
            list(backbone.image_std),
            _skip_resize=not resize_in_training,
        )
        self.backbone = backbone
        self.context = context
        self.context_source = context_source
        self.regions = regions
        self.pool = pool
        self.head = head
        self.segmentation = segmentation
        self.rezoom = rezoom
        self.global_pool = global_pool

    def forward(
        self, images: Sequence[Tensor], targets: Targets | None = None
    ) -> list[dict[str, Tensor]] | dict[str, Tensor]:
        """Detect, or compute losses when in training mode.

        Args:
            images: (3, H, W) each, of any sizes; uint8, or float in [0, 1].
            targets: per image `boxes` (N, 4) float xyxy in its pixels and `labels` (N,) int64, 1 … K; for training.
                With a segmentation part also `semantic` (H, W) uint8: each pixel's label, 0 background, 255 ignored.

        Returns:
            At test per image `boxes` (n, 4) in its pixels, `labels` (n,) and `scores` (n,), best first;
            in training the losses by name.
        """
        original_sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        if self.resize_in_training or not self.training:
            for height, width in original_sizes:
                require_visible(height, width, self.min_size, self.max_size)
        batch, targets = self.transform([_as_float(image) for image in images], targets)
        features = self.extract_features(batch)
        boxes, losses = self.regions(batch, features, targets)
        if self.training and self.segmentation is not None:
            assert targets is not None
            semantic = semantic_maps(targets, original_sizes, batch.image_sizes)
            losses = {**losses, **self.segmentation(features["context"], semantic)}
        if not self.training and self.inference != PLAIN:
            detections = self._detect(batch, features, boxes)
            return self.transform.postprocess(detections, batch.image_sizes, original_sizes)
        samples = None
        if self.training:
            boxes, samples = self.head.sample(boxes, targets)
        descriptors, *others = self._descriptors(features, boxes, batch.image_sizes)
        look_again = () if self.rezoom is None else (partial(self._rezoom, features, batch.image_sizes),)
        detections, head_losses = self.head(descriptors, boxes, batch.image_sizes, samples, *others, *look_again)
        if self.training:
            return {**losses, **head_losses}
        return self.transform.postprocess(detections, batch.image_sizes, original_sizes)

    def _descriptors(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, ...]:
        """What the pools make of boxes (N, 4) of each image."""
        pools = (self.pool,) if self.global_pool is None else (self.pool, self.global_pool)
        return tuple(pool(features, boxes, image_sizes) for pool in pools)

    def _rezoom(self, features: dict[str, Tensor], image_sizes: list[tuple[int, int]], boxes: list[Tensor]) -> Tensor:
        assert self.rezoom is not None
        return self.rezoom(features, boxes, image_sizes)

    def _detect(self, batch: ImageList, features: dict[str, Tensor], boxes: list[Tensor]) -> list[dict[str, Tensor]]:
        """Detections by the settings of `test`; proposals come from the images as they are."""

        def look_at(features: dict[str, Tensor]) -> Look:
            return lambda boxes: self.head.predict(*self._descriptors(features, boxes, batch.image_sizes))

        look = look_at(features)
        if self.inference.flip:
            look = averaged(look, look_at(self.extract_features(mirror_batch(batch))), batch.image_sizes)
        return detect(self.inference, self.head, look, boxes, batch.image_sizes)

    def features(self, batch: ImageList) -> dict[str, Tensor]:
        """All maps of a padded batch by name, the context among them."""
        features = self.backbone(batch.tensors)
        if self.context is not None:
            source = features[self.context_source]
            valid = valid_mask(batch.image_sizes, self.backbone.strides[self.context_source], source)
            features = {**features, "context": self.context(source, valid)}
        return features


def valid_mask(image_sizes: Sequence[tuple[int, int]], stride: int, like: Tensor) -> Tensor:
    """Cells of a map that hold a part of their image, the rest being padding.

    Args:
        image_sizes: height and width of each image inside the padded batch.
        stride: pixels a cell stands for.
        like: the map (B, C, H, W).

    Returns:
        Booleans (B, 1, H, W): cell (i, j) is valid when its first pixel lies in the image.
    """
    height, width = like.shape[-2:]
    sizes = torch.tensor(image_sizes, device=like.device)
    rows = torch.arange(height, device=like.device) * stride < sizes[:, :1]
    columns = torch.arange(width, device=like.device) * stride < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def require_visible(height: int, width: int, min_size: int, max_size: int, name: str = "an image") -> None:
    """Check that an image is still a pixel thick once resized.

    Raises:
        UserError: it is not.
    """
    short, long = min(height, width), max(height, width)
    if short * min(min_size / short, max_size / long) < 1:
        raise UserError(
            f"{name} of {width}x{height} pixels is too thin to detect anything in: crop it or leave it out."
        )


def _as_float(image: Tensor) -> Tensor:
    return image.float().div_(255) if image.dtype == torch.uint8 else image


def build_detector(config: DetectorConfig, num_classes: int, *, resize_in_training: bool = True) -> Detector:
    """Build the parts and put them in a row, at random start; `load_pretrained` fills in weights.

    Args:
        config: the parts and the image size.
        num_classes: foreground classes.
        resize_in_training: see `Detector`.

    Raises:
        UserError: parts that do not fit together.
    """
    require_context(config)
    backbone = config.backbone()
    channels, strides = dict(backbone.out_channels), dict(backbone.strides)
    context = None
    if config.context is not None:
        require_feature_maps("context", (config.context_source,), channels)
        context = config.context(channels[config.context_source])
        channels["context"], strides["context"] = context.out_channels, strides[config.context_source]
    regions = config.regions(channels)
    pool = config.pool(channels, strides)
    head = config.head(pool.out_channels, pool.output_size, num_classes)
    if config.global_pool is None and not getattr(head, "local", True):
        raise UserError(
            "detector.head.local=false: without a detector.global_pool classes are read from nothing; give one, such"
            " as detection.pooling.CenterCell with stage=context, or set local=true."
        )
    global_pool = _second_pool(config.global_pool, "global_pool", head, channels, strides)
    rezoom = _second_pool(config.rezoom, "rezoom", head, channels, strides)
    segmentation = None
    if config.segmentation is not None:
        segmentation = config.segmentation(channels["context"], strides["context"], num_classes)
    return Detector(
        backbone,
        regions,
        pool,
        head,
        context,
        segmentation,
        rezoom,
        global_pool,
        context_source=config.context_source,
        min_size=config.min_size,
        max_size=config.max_size,
        resize_in_training=resize_in_training,
        inference=config.inference,
    )


def _second_pool(
    part: Part | None, name: str, head: Any, channels: dict[str, int], strides: dict[str, int]
) -> nn.Module | None:
    """A pool beside the first, which the head is told of; None where the config has none."""
    if part is None:
        return None
    add, lacks, instead = _SECOND_POOLS[name]
    if not hasattr(head, add):
        raise UserError(
            f"detector.{name}: a {type(head).__name__} {lacks}; use detection.heads.{instead}, or set "
            f"detector.{name}=none."
        )
    try:
        pool = part(channels, strides)
    except UserError as error:
        raise UserError(f"detector.{name}: {error}") from None
    getattr(head, add)(pool.out_channels * pool.output_size**2)
    return pool
