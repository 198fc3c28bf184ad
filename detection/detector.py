"""The detector: backbone → context → regions → pool → head, five injected parts in a row.

A sixth, optional: a segmentation loss on the feature map `context`, in training. `detection.contracts` states what each
part takes and returns.

Shape letters: B images, C channels, H×W feature map, N boxes of one image, R boxes of all images, K classes.
"""

from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from detection.backbones.backbone import Backbone
from detection.config import DetectorConfig, require_context, serialization
from detection.contracts import (
    Context,
    ContextLoss,
    Detections,
    Features,
    Head,
    Pool,
    PooledRegions,
    RefinementHead,
    Regions,
    Targets,
    require_feature_maps,
)
from detection.data.inputs import require_images, require_targets
from detection.errors import UserError, building
from detection.image_batch import BatchTransform, inside_images
from detection.inference import PLAIN, InferenceConfig, Predict, averaged, iterate_boxes, mirror_batch, require_steps
from detection.part_outputs import (
    merge_losses,
    require_descriptors,
    require_detections,
    require_features,
    require_head_results,
    require_map,
    require_regions,
    require_samples,
)
from detection.pooling import SkipPool
from detection.segmentation import semantic_maps

MAX_PARAMETERS = 2_000_000_000
"""A model that is larger is taken for a typing error."""


class Detector(nn.Module):
    """Images to detections, or to losses in training.

    Args:
        backbone: images (B, 3, H, W) → feature maps by name.
        regions: feature maps → boxes of each image, losses.
        pool: feature maps and boxes → descriptors (R, C, h, w).
        head: regions with their descriptors → detections, losses.
        context: a feature map → another of the same size, named `context`; or None.
        segmentation: a loss on the feature map `context`, in training only; or None.
        context_source: the feature map that the context reads.
        min_size: pixels of an image's shorter side inside the detector.
        max_size: most pixels of its longer side.
        resize_in_training: resize in training as at inference; False when the data pipeline already has.
        inference: box iterations, voting and mirrored images at inference; beyond one plain forward pass the head must
            be a `RefinementHead`.
        num_classes: foreground classes, by which labels are checked; None: any.
    """

    def __init__(
        self,
        backbone: Backbone,
        regions: Regions,
        pool: Pool,
        head: Head,
        context: Context | None = None,
        segmentation: ContextLoss | None = None,
        *,
        context_source: str = "c5",
        min_size: int = 800,
        max_size: int = 1333,
        resize_in_training: bool = True,
        inference: InferenceConfig = PLAIN,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        require_steps(inference, head)
        self.num_classes, self._values_checked = num_classes, False
        self.inference = inference
        self.min_size, self.max_size, self.resize_in_training = min_size, max_size, resize_in_training
        self.transform = BatchTransform(
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

    def forward(self, images: Sequence[Tensor], targets: Targets | None = None) -> Detections | dict[str, Tensor]:
        """Detect, or compute losses when in training mode.

        Args:
            images: (3, H, W) each, of any sizes; uint8, or float in [0, 1].
            targets: per image `boxes` (N, 4) float xyxy in its pixels and `labels` (N,) int64, 1 … K; for training.
                With crowd regions also `ignored` (I, 4), boxes in which a negative is left out of the losses.
                With a segmentation loss also `semantic` (H, W) uint8: each pixel's label, 0 background, 255 ignored.

        Returns:
            At inference per image `boxes` (n, 4) in its pixels, `labels` (n,) and `scores` (n,), best first;
            in training the losses by name.

        Raises:
            UserError: images or targets of another kind, or an image that is too thin.
        """
        self._require_inputs(images, targets)
        if not len(images) and not self.training:
            return []
        original_sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        if self.resize_in_training or not self.training:
            for height, width in original_sizes:
                require_visible(height, width, self.min_size, self.max_size)
        dtype = torch.promote_types(next(self.parameters()).dtype, torch.float32)
        batch, targets = self.transform(images, targets, dtype)
        if not self.training:
            return self.transform.postprocess(self.detect(batch), batch.image_sizes, original_sizes)
        assert targets is not None
        features = self.extract_features(batch)
        boxes, region_losses = self._propose(batch, features, targets)
        losses = {"regions": region_losses}
        if self.segmentation is not None:
            semantic = semantic_maps(targets, original_sizes, batch.image_sizes)
            losses["segmentation"] = self.segmentation(features["context"], semantic)
        boxes, samples = self._sample(boxes, targets)
        _, losses["head"] = self._run_head(self._pooled(features, boxes, batch.image_sizes), samples)
        return merge_losses(losses)

    def detect(self, batch: ImageList) -> Detections:
        """Return detections, with `boxes` in pixels of the padded batch of normalized images."""
        features = self.extract_features(batch)
        boxes, _ = self._propose(batch, features, None)
        if self.inference == PLAIN:
            found, _ = self._run_head(self._pooled(features, boxes, batch.image_sizes))
        else:
            found = self._refine(batch, features, boxes)
        if not _is_traced():
            require_detections(found, len(batch.image_sizes))
        return found

    def _require_inputs(self, images: Sequence[Tensor], targets: Targets | None) -> None:
        # Values are checked once where that waits for a GPU, and always on a CPU; never in a trace.
        if _is_traced():
            return
        values = not self._values_checked or next(self.parameters()).device.type == "cpu"
        require_images(images, values)
        if self.training:
            require_targets(images, targets, self.num_classes, values)
        self._values_checked = True

    def extract_features(self, batch: ImageList) -> dict[str, Tensor]:
        """Return all feature maps of a padded batch by name, the context among them."""
        features = self.backbone(batch.tensors)
        if not _is_traced():
            require_features(features, self.backbone.out_channels, self.backbone.strides, batch.tensors)
        if self.context is not None:
            source = features[self.context_source]
            valid = valid_mask(batch.image_sizes, self.backbone.strides[self.context_source], source)
            features = {**features, "context": self.context(source, valid)}
            if not _is_traced():
                require_map(features["context"], self.context.out_channels, source)
        return features

    def _propose(
        self, batch: ImageList, features: Features, targets: Targets | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        found = self.regions(batch, features, targets)
        if not _is_traced():
            require_regions(found, len(batch.image_sizes))
        boxes, losses = found
        return boxes, losses

    def _sample(self, boxes: list[Tensor], targets: Targets) -> tuple[list[Tensor], Any]:
        found = self.head.sample(boxes, targets)
        if not _is_traced():
            require_samples(found, len(targets))
        boxes, samples = found
        return boxes, samples

    def _run_head(self, *regions_and_samples: Any) -> tuple[Detections, dict[str, Tensor]]:
        found = self.head(*regions_and_samples)
        if not _is_traced():
            require_head_results(found)
        detections, losses = found
        return detections, losses

    def _pooled(self, features: Features, boxes: list[Tensor], image_sizes: list[tuple[int, int]]) -> PooledRegions:
        descriptors = self.pool(features, boxes, image_sizes)
        if not _is_traced():
            require_descriptors(descriptors, self.pool.out_channels, self.pool.output_size, boxes)
        return PooledRegions(descriptors, boxes, image_sizes, features)

    def _refine(self, batch: ImageList, features: Features, boxes: list[Tensor]) -> Detections:
        """Detect by the settings of `inference`; proposals come from the images as they are."""
        head, sizes = self.head, batch.image_sizes
        assert isinstance(head, RefinementHead)

        def predict_on(features: Features) -> Predict:
            return lambda boxes: head.predict(self._pooled(features, boxes, sizes))

        predict = predict_on(features)
        if self.inference.flip:
            predict = averaged(predict, predict_on(self.extract_features(mirror_batch(batch))), sizes)
        return iterate_boxes(self.inference, head, predict, boxes, sizes)


def _is_traced() -> bool:
    return torch.jit.is_tracing() or torch.compiler.is_compiling()  # pyright: ignore[reportPrivateImportUsage]


def valid_mask(image_sizes: Sequence[tuple[int, int]], stride: int, like: Tensor) -> Tensor:
    """Return the locations of a feature map that hold a part of their image, the rest being padding.

    Args:
        image_sizes: height and width of each image inside the padded batch.
        stride: pixels a location stands for.
        like: the feature map (B, C, H, W).

    Returns:
        Booleans (B, 1, H, W): location (i, j) is valid when its first pixel is inside the image.
    """
    height, width = like.shape[-2:]
    return inside_images(image_sizes, height, width, like.device, stride)[:, None]


def is_too_thin(height: int, width: int, min_size: int, max_size: int) -> bool:
    """Return whether an image of a size in pixels is less than a pixel thick once resized."""
    short, long = min(height, width), max(height, width)
    return short * min(min_size / short, max_size / long) < 1


def require_visible(height: int, width: int, min_size: int, max_size: int, name: str = "an image") -> None:
    """Check that an image is still a pixel thick once resized.

    Raises:
        UserError: it is not.
    """
    if is_too_thin(height, width, min_size, max_size):
        raise UserError(
            f"{name} of {width}x{height} pixels is too thin to detect anything in: crop it or leave it out."
        )


def build_detector(config: DetectorConfig, num_classes: int, *, resize_in_training: bool = True) -> Detector:
    """Build the parts and put them in a row, at random initialization; `load_pretrained` fills in weights.

    Args:
        config: the parts and the image size.
        num_classes: foreground classes, 1 or more.
        resize_in_training: see `Detector`.

    Raises:
        UserError: parts that do not fit together, or no class.
    """
    require_buildable(config, num_classes)
    return _build(serialization.from_plain(config, DetectorConfig, "detector"), num_classes, resize_in_training)


def require_buildable(config: DetectorConfig, num_classes: int) -> Detector:
    """Check a detector's settings and whether its parts fit together, by building it without memory for its weights.

    Returns:
        That detector, on the device `meta`.

    Raises:
        UserError: a setting out of range, parts that do not fit each other, or more than 2 G parameters.
    """
    if num_classes < 1:
        raise UserError(f"num_classes: is {num_classes}, not 1 or more; background is not counted.")
    config = serialization.from_plain(config, DetectorConfig, "detector")
    require_context(config)
    with building("detector"), torch.device("meta"):
        detector = _build(config, num_classes, False)
    count = sum(parameter.numel() for parameter in detector.parameters())
    if count > MAX_PARAMETERS:
        raise UserError(
            f"detector: has {count / 1e9:.1f} G parameters, more than {MAX_PARAMETERS / 1e9:.0f} G; check the widths "
            "in its settings."
        )
    return detector


class _Channels(UserDict[str, int]):
    """Channels of feature maps by name, with the names that parts have asked for."""

    def __init__(self, channels: Mapping[str, int]) -> None:
        self.read: set[str] = set()
        super().__init__(channels)

    def __getitem__(self, name: str) -> int:
        self.read.add(name)
        return super().__getitem__(name)


def _build(config: DetectorConfig, num_classes: int, resize_in_training: bool) -> Detector:
    backbone = config.backbone()
    channels, strides = _Channels(backbone.out_channels), dict(backbone.strides)
    context = None
    if config.context is not None:
        require_feature_maps("context", (config.context_source,), channels)
        context = config.context(channels[config.context_source])
        # To the parts after it the context is one more feature map.
        channels["context"], strides["context"] = context.out_channels, strides[config.context_source]
    regions = config.regions(channels)
    pool = config.pool(channels, strides)
    head = config.head(pool.out_channels, pool.output_size, num_classes)
    head.connect(channels, strides)
    for key, part in head.named_modules():
        if isinstance(part, SkipPool) and part.reference is not None:
            raise UserError(
                f"detector.head.{key}.reference: is measured for the detector's own pool alone; set "
                f"detector.head.{key}.amplitude, and no reference."
            )
    segmentation = None
    if config.segmentation is not None:
        segmentation = config.segmentation(channels["context"], strides["context"], num_classes)
    # One without parameters, such as `NoContext` in the place of another, trains nothing for nothing.
    is_trained = context is not None and next(context.parameters(), None) is not None
    if is_trained and "context" not in channels.read:
        raise UserError(
            "detector.context: no part asks for the channels of 'context', so nothing reads it: add it in a config "
            "file with detection.with_context, or name 'context' in a pool's feature maps; or set context=none."
        )
    return Detector(
        backbone,
        regions,
        pool,
        head,
        context,
        segmentation,
        context_source=config.context_source,
        min_size=config.min_size,
        max_size=config.max_size,
        resize_in_training=resize_in_training,
        inference=config.inference,
        num_classes=num_classes,
    )
