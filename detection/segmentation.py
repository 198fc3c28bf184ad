"""ION's segmentation regularizer: from the context's map the class of every pixel is predicted; in training only.

Bell et al. 2016, Inside-Outside Net: a 1×1 convolution to the classes, a deconvolution of twice the stride's width back
to the image's pixels (32×32 with stride 16), a softmax at each pixel, weight 1. What the paper leaves open, and
where this departs from it:

- The deconvolution works on each class alone and is bilinear interpolation: fixed, as in FCN's code (Long et al. 2015),
  unless it is to be learned.
- Beyond the image the map continues its last location, where Caffe has zeros, which halve the scores at the border.
  Padding of a batch is cut off before, so that an image's loss is the same alone and in a batch.
- The loss is the mean over all pixels of the batch that have a label, weighted where `background_weight` is not 1.

B images, C channels, H×W map, K classes and the background.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.contracts import ContextLoss, at_least_float32
from detection.data.semantic import IGNORED, nearest
from detection.errors import UserError
from detection.image_batch import padded_images
from detection.ops.box_matching import CPU_PADDING, MAX_PADDING
from detection.ops.ragged import to_device
from detection.ranges import NonNegative, Pixels

MAX_BYTES = 2**28
"""Scores of all pixels that are computed at once; a single image may take more."""


class SegmentationLoss(ContextLoss):
    """Per-pixel classification from a map.

    Args:
        in_channels: of the map.
        stride: pixels a location of it stands for.
        num_classes: K.
        weight: factor of the loss.
        background_weight: weight of a pixel of the background, where one of an object has 1. Below 1 objects that
            cover little of the images count more (Eigen, Fergus 2015 weigh all classes by their frequency); the paper's
            is 1.
        output_stride: side in pixels of the squares that are classified, a divisor of the stride; the label of one is
            that of its middle. 1 as in the paper; K = 80 at 800×1333 then keeps 0.35 GB an image until the backward
            pass and three times that in passing, a quarter of it at 2.
        learned_upsampling: train the deconvolution, which is initialized as bilinear interpolation.

    Raises:
        UserError: `output_stride` does not divide the stride.
    """

    class_weights: Tensor

    def __init__(
        self,
        in_channels: int,
        stride: int,
        num_classes: int,
        *,
        weight: NonNegative = 1.0,
        background_weight: NonNegative = 1.0,
        output_stride: Pixels = 1,
        learned_upsampling: bool = False,
    ) -> None:
        super().__init__()
        if stride % output_stride:
            raise UserError(f"segmentation.output_stride={output_stride}: must divide the context's stride, {stride}.")
        self.stride, self.output_stride = stride, output_stride
        self.weight, self.background_weight = weight, background_weight
        self.register_buffer("class_weights", torch.tensor([background_weight] + [1.0] * num_classes), persistent=False)
        self.classify = nn.Conv2d(in_channels, num_classes + 1, 1)
        nn.init.xavier_uniform_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]
        self.upsample = Upsample(num_classes + 1, stride // output_stride, learned_upsampling)

    def forward(self, context: Tensor, semantic: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute the loss of a batch.

        Args:
            context: (B, C, H, W), of the padded batch.
            semantic: per image (h, w) integers, the size of the image inside the batch: 0 background, 1 … K, or 255
                for pixels without a label.

        Returns:
            `loss_segmentation`; 0, with a gradient of 0 for everything, where no pixel has a label.
        """
        logits = self.classify(context)
        losses, labeled = [], []
        with torch.autocast(logits.device.type, enabled=False):
            logits = at_least_float32(logits)
            groups = list(groups_of_size([(m.shape[0], m.shape[1]) for m in semantic], logits))
            for images in groups:
                own = logits if len(groups) == 1 else logits[to_device(np.array(images), logits.device)]
                loss, count = self._sums(own, [semantic[i] for i in images])
                losses.append(loss)
                labeled.append(count)
            loss = torch.stack(losses).sum() / torch.stack(labeled).sum().clamp(min=1)
        return {"loss_segmentation": self.weight * loss}

    def _sums(self, logits: Tensor, semantic: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the summed loss of some images by logits (b, 1 + K, H, W), and the weight of their labeled pixels."""
        sizes = [(m.shape[0], m.shape[1]) for m in semantic]
        size = max(h for h, _ in sizes), max(w for _, w in sizes)
        equal = len(set(sizes)) == 1
        labels = torch.stack(list(semantic)) if equal else padded_images(semantic, size, fill=IGNORED)
        # The middle of each square.
        labels = labels[:, self.output_stride // 2 :: self.output_stride, self.output_stride // 2 :: self.output_stride]
        # Padding is cut off or overwritten, for the deconvolution would mix it into the pixels at an image's border.
        if equal:
            height, width = (-(-side // self.stride) for side in size)
            own = logits[:, :, :height, :width]
        else:
            own = continued(logits, [(-(-h // self.stride), -(-w // self.stride)) for h, w in sizes])
        scores = self.upsample(own)[:, :, : labels.shape[1], : labels.shape[2]]  # (b, 1 + K, h, w)
        weights = self.class_weights.to(scores.dtype)
        entropy = F.cross_entropy(scores, labels.long(), weights, ignore_index=IGNORED, reduction="none")
        background = (labels == 0).sum()
        objects = (labels != IGNORED).sum() - background
        return entropy.sum(), self.background_weight * background + objects


def groups_of_size(sizes: Sequence[tuple[int, int]], scores: Tensor) -> Iterator[list[int]]:
    """Yield images of (height, width) in groups of at most `MAX_BYTES` of scores, padded to the largest by little.

    Args:
        sizes: of each image.
        scores: (B, 1 + K, …), whose channels and type the scores of a pixel have.
    """
    channels = scores.shape[1]
    most = MAX_BYTES // (channels * scores.element_size())
    allowed = (CPU_PADDING if scores.device.type == "cpu" else MAX_PADDING) // channels
    group: list[int] = []
    height = width = smallest = 0
    for image in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        h, w = sizes[image]
        # Of the group with this image: height and width of its batch, and its smallest area.
        new = max(height, h), max(width, w), min(smallest, h * w)
        if group and ((len(group) + 1) * new[0] * new[1] > most or new[0] * new[1] - new[2] > allowed):
            yield sorted(group)
            group = []
        group.append(image)
        height, width, smallest = new if len(group) > 1 else (h, w, h * w)
    yield sorted(group)


def continued(maps: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Return maps (B, C, H, W) cut to the largest (height, width) of locations; beyond its own each repeats its last.

    One gather: an index of two axes has a gradient that sorts.
    """
    last = np.array(sizes) - 1  # (B, 2)
    height, width = last.max(0) + 1
    rows = np.minimum(np.arange(height), last[:, :1])[:, :, None] * maps.shape[-1]
    places = (rows + np.minimum(np.arange(width), last[:, 1:])[:, None]).reshape(len(last), 1, -1)  # (B, 1, h·w)
    index = to_device(places, maps.device).expand(-1, maps.shape[1], -1)  # (B, C, h·w)
    return maps.flatten(2).gather(2, index).unflatten(2, (int(height), int(width)))  # (B, C, h, w)


class Upsample(nn.Module):
    """A deconvolution of each channel alone, twice the factor wide, that starts as bilinear interpolation.

    Args:
        channels: of the map.
        factor: output pixels on a side of a location.
        learned: whether it is trained; otherwise it stays bilinear, and no checkpoint holds it.
    """

    weight: Tensor

    def __init__(self, channels: int, factor: int, learned: bool) -> None:
        super().__init__()
        self.factor = factor
        weight = bilinear_kernel(factor).expand(channels, 1, -1, -1).contiguous()  # (C, 1, k, k)
        if learned:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge maps (B, C, H, W) to (B, C, factor·H, factor·W)."""
        continued = F.pad(x, (1, 1, 1, 1), mode="replicate")
        # A bilinear deconvolution cuts off factor // 2 on each side; here also the pixels of the location added there.
        padding = self.factor + self.factor // 2
        return F.conv_transpose2d(continued, self.weight, stride=self.factor, padding=padding, groups=len(self.weight))


def bilinear_kernel(factor: int) -> Tensor:
    """Return the weights (k, k) of a bilinear deconvolution; k is twice the factor, or one less if that is odd."""
    size = 2 * factor - factor % 2
    ramp = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor  # (k,)
    return ramp[:, None] * ramp


def semantic_maps(
    targets: Sequence[Mapping[str, Tensor]], given_sizes: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """Return the targets' maps of labels, brought to their images' size in the batch by nearest pixel.

    Args:
        targets: per image `semantic` (H, W).
        given_sizes: height and width of each image as it came.
        sizes: height and width of each inside the batch.

    Raises:
        UserError: a map is missing, or not of its image's size.
    """
    resized = []
    for i, (target, given, size) in enumerate(zip(targets, given_sizes, sizes, strict=True)):
        if "semantic" not in target:
            raise UserError(
                f"targets[{i}] has no 'semantic', the (H, W) uint8 labels of pixels that detector.segmentation learns: "
                "give masks=load_masks(index) to DetectionDataset, or set detector.segmentation=none."
            )
        labels = target["semantic"]
        if tuple(labels.shape) != tuple(given):
            raise UserError(
                f"targets[{i}]['semantic'] has the shape {tuple(labels.shape)}, but its image has height and width "
                f"{tuple(given)}: give one label for each pixel."
            )
        if tuple(given) != tuple(size):
            nearby = (nearest(new, old) for new, old in zip(size, given, strict=True))
            rows, columns = (to_device(places, labels.device) for places in nearby)
            labels = labels[rows][:, columns]
        resized.append(labels)
    return resized
