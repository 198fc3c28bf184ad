"""ION's segmentation regularizer: the context's map must tell the class of every pixel; in training only.

Bell et al. 2016, Inside-Outside Net: a 1×1 convolution to the classes, a deconvolution of twice the stride's width back
to the image's pixels (32×32 with stride 16), a softmax at each pixel, weight 1. What the paper leaves open, and
where this departs from it:

- The deconvolution works on each class alone and is bilinear interpolation: fixed, as in FCN's code (Long et al. 2015),
  unless it is to be learned.
- Beyond the image the map goes on with its last cell, where Caffe has zeros, which halve the scores at the border.
  Padding of a batch is cut off before, so that an image's loss is the same alone and in a batch.
- The loss is the mean over all pixels of the batch that have a label, weighted where `background_weight` is not 1.

B images, C channels, H×W map, K classes and the background.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.contracts import ContextLoss
from detection.data.semantic import IGNORED, nearest
from detection.errors import UserError
from detection.ranges import NonNegative, Pixels


class SegmentationLoss(ContextLoss):
    """Per-pixel classification from a map.

    Args:
        in_channels: of the map.
        stride: pixels a cell of it stands for.
        num_classes: K.
        weight: factor of the loss.
        background_weight: weight of a pixel of the background, where one of an object has 1. Below 1 objects that
            cover little of the images are heard (Eigen, Fergus 2015 weigh all classes so, by their frequency); the
            paper's is 1.
        output_stride: side in pixels of the squares that are classified, a divisor of the stride; the label of one is
            that of its middle. 1 as in the paper; K = 80 at 800×1333 then keeps 0.35 GB an image until the backward
            pass and three times that in passing, a quarter of it at 2.
        learned_upsampling: train the deconvolution, from its bilinear start.
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
        if output_stride < 1 or stride % output_stride:
            raise UserError(f"segmentation.output_stride={output_stride}: must divide the context's stride, {stride}.")
        self.stride = stride
        self.weight = weight
        self.background_weight = background_weight
        self.output_stride = output_stride
        self.register_buffer("class_weights", torch.tensor([background_weight] + [1.0] * num_classes), persistent=False)
        self.classify = nn.Conv2d(in_channels, num_classes + 1, 1)
        nn.init.xavier_uniform_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]
        self.upsample = Upsample(num_classes + 1, stride // output_stride, learned_upsampling)

    def forward(self, context: Tensor, semantic: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss of a batch.

        Args:
            context: (B, C, H, W), of the padded batch.
            semantic: per image (h, w) integers, the size of the image inside the batch: 0 background, 1 … K, or 255
                for pixels without a label.

        Returns:
            `loss_segmentation`; 0, with a gradient of 0 for everything, where no pixel has a label.
        """
        cells = self.classify(context)
        losses, labeled = [], []
        with torch.autocast(cells.device.type, enabled=False):
            # One image after another: the padding costs nothing, and of the passing memory there is one image's.
            wide = cells.to(torch.promote_types(cells.dtype, torch.float32))
            for image_cells, image_labels in zip(wide, semantic, strict=True):
                step, (height, width) = self.output_stride, image_labels.shape
                labels = image_labels[step // 2 :: step, step // 2 :: step].long()
                own = image_cells[None, :, : -(-height // self.stride), : -(-width // self.stride)]
                scores = self.upsample(own)[:, :, : labels.shape[0], : labels.shape[1]]
                weights = self.class_weights.to(scores.dtype)
                losses.append(
                    F.cross_entropy(scores, labels[None], weights, ignore_index=IGNORED, reduction="none").sum()
                )
                labeled.append(
                    self.background_weight * (labels == 0).sum() + ((labels > 0) & (labels != IGNORED)).sum()
                )
            loss = torch.stack(losses).sum() / torch.stack(labeled).sum().clamp(min=1)
        return {"loss_segmentation": self.weight * loss}


class Upsample(nn.Module):
    """A deconvolution of each channel alone, twice the factor wide, that starts as bilinear interpolation.

    Args:
        channels: of the map.
        factor: output pixels on a side of a cell.
        learned: whether it is trained; otherwise it stays bilinear, and no checkpoint holds it.
    """

    weight: Tensor

    def __init__(self, channels: int, factor: int, learned: bool) -> None:
        super().__init__()
        self.factor = factor
        weight = bilinear_kernel(factor).expand(channels, 1, -1, -1).contiguous()
        if learned:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, factor H, factor W)."""
        continued = F.pad(x, (1, 1, 1, 1), mode="replicate")
        padding = self.factor + self.factor // 2
        return F.conv_transpose2d(continued, self.weight, stride=self.factor, padding=padding, groups=len(self.weight))


def bilinear_kernel(factor: int) -> Tensor:
    """Weights (k, k) of a deconvolution that interpolates bilinearly; k = 2 factor, one less where that is odd."""
    size = 2 * factor - factor % 2
    ramp = 1 - (torch.arange(size) - (size - 1) / 2).abs() / factor
    return ramp[:, None] * ramp


def semantic_maps(
    targets: Sequence[Mapping[str, Tensor]], given_sizes: Sequence[tuple[int, int]], sizes: Sequence[tuple[int, int]]
) -> list[Tensor]:
    """The targets' maps of labels, brought to their images' size in the batch by nearest pixel.

    Args:
        targets: per image `semantic` (H, W).
        given_sizes: height and width of each image as it came.
        sizes: height and width of each inside the batch.

    Raises:
        UserError: a map is missing, or not of its image's size.
    """
    features = []
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
            rows, columns = (
                torch.from_numpy(nearest(new, old)).to(labels.device) for new, old in zip(size, given, strict=True)
            )
            labels = labels[rows][:, columns]
        features.append(labels)
    return features
