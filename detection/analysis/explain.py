"""Parts of an image that decided the class of each detection: by occlusion (Zeiler, Fergus 2014), and by gradient.

Boxes are held fixed, so that only their classes are asked for. Patches in a detection's own surroundings are kept apart
from those far away. A patch is covered by the image's mean color, and recolored, its color channels exchanged in both
ways: one class is often what a detector answers without a cue, so that covering the cue does not change it, but another
cue does.

n detections, h×w patches, H×W pixels of the image inside of the detector, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchvision.models.detection.image_list import ImageList

from detection.contracts import PooledRegions, RefinementHead
from detection.detector import Detector
from detection.errors import UserError
from detection.runs.logs import progress

_ROUNDING = 1e-6  # a drop of a probability that is no larger is none
COVERS = 3
"""The mean color, and the two rotations of the color channels."""


@dataclass(frozen=True)
class Explanation:
    """The parts of an image that decided the classes of its detections.

    Attributes:
        probabilities: (n,) of each detection's class, by the image as it is.
        drops: (n, h, w) by how much that falls where a patch is covered or recolored, whichever is more.
        gradients: (n, h, w) mean absolute gradient of the class's logarithmic probability over a patch's pixels.
        far: (n, h, w) whether a patch is at least a patch away from the detection's box.
        side: pixels of a patch inside of the detector.
        scale: pixels inside of the detector for one of the image, (vertical, horizontal).
        size: height and width of the image in pixels.
    """

    probabilities: Tensor
    drops: Tensor
    gradients: Tensor
    far: Tensor
    side: int
    scale: tuple[float, float]
    size: tuple[int, int]

    def decisive(self) -> Tensor:
        """Return row and column (n, 2) of the far patch with the largest drop, -1 where no far patch has one."""
        largest, best = self.drops.masked_fill(~self.far, -torch.inf).flatten(1).max(1)  # (n,) each
        found = torch.stack([best // self.drops.shape[2], best % self.drops.shape[2]], 1)
        return found.where((largest > _ROUNDING)[:, None], found.new_tensor(-1))

    def patch_box(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Return a patch's box xyxy in pixels of the image, inside of which the last row and column end."""
        (vertical, horizontal), (height, width) = (self.side / s for s in self.scale), self.size
        right, bottom = min((column + 1) * horizontal, width), min((row + 1) * vertical, height)
        return column * horizontal, row * vertical, right, bottom


def require_fixed_boxes(detector: Detector) -> None:
    """Check that a detector's classes can be asked for at given boxes.

    Raises:
        UserError: its head finds boxes and classes in one step.
    """
    if not isinstance(detector.head, RefinementHead):
        raise UserError(
            f"a {type(detector.head).__name__} does not classify given boxes; explain a run whose head does, such as "
            "FastRCNN or LocalGlobal."
        )


def explain_detections(
    detector: Detector,
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    *,
    patch: int = 2,
    batch_size: int = 16,
    label: str | None = None,
) -> Explanation:
    """Cover and recolor each patch, and watch the probability of each detection's class; one more pass for gradients.

    Args:
        detector: in evaluation mode, with a `RefinementHead`.
        image: (3, H, W), uint8 or float in [0, 1].
        boxes: (n, 4) xyxy in pixels of the image.
        labels: (n,), 1 … K.
        patch: side of a patch in locations of the feature map that the context reads, without one of the coarsest.
        batch_size: changed images in one forward pass.
        label: of a progress bar over the changed images; None for no bar.

    Raises:
        UserError: another head.
    """
    require_fixed_boxes(detector)
    dtype = torch.promote_types(next(detector.parameters()).dtype, torch.float32)
    with torch.no_grad():
        batch, _ = detector.transform([image], None, dtype)
    ((height, width),) = batch.image_sizes
    scale = height / image.shape[-2], width / image.shape[-1]
    strides = detector.backbone.strides
    side = patch * strides.get(detector.context_source, max(strides.values()))
    boxes = boxes.to(batch.tensors) * boxes.new_tensor([scale[1], scale[0]] * 2).to(batch.tensors)
    labels = labels.to(boxes.device)
    rows, columns = -(-height // side), -(-width // side)
    changed = rows * columns * COVERS
    with torch.no_grad(), progress(label or "", changed, main=label is not None) as bar:
        base = _class_probabilities(detector, batch.tensors, batch.image_sizes[0], boxes, labels)[0]  # (n,)
        covered = []
        for images in _covered(batch.tensors[0], (height, width), side, batch_size):
            covered.append(_class_probabilities(detector, images, batch.image_sizes[0], boxes, labels))
            bar.advance(len(images))
    least = torch.cat(covered).unflatten(0, (-1, COVERS)).amin(1)  # (h·w, n)
    drops = (base - least).T.unflatten(1, (rows, columns))  # (n, h, w)
    gradients = _gradients(detector, batch, boxes, labels, side)[:, :rows, :columns]
    far = _far(boxes, rows, columns, side)
    return Explanation(
        base.cpu(), drops.cpu(), gradients.cpu(), far.cpu(), side, scale, (image.shape[-2], image.shape[-1])
    )


def _class_probabilities(
    detector: Detector, images: Tensor, size: tuple[int, int], boxes: Tensor, labels: Tensor
) -> Tensor:
    """Return the probability (B, n) of each box's class in each of the images (B, 3, H, W), all of one size."""
    features = detector.extract_features(ImageList(images, [size] * len(images)))
    everywhere, sizes = [boxes] * len(images), [size] * len(images)
    descriptors = detector.pool(features, everywhere, sizes)
    probabilities, _ = detector.head.predict(PooledRegions(descriptors, everywhere, sizes, features))  # type: ignore[operator]
    return probabilities.gather(1, labels.repeat(len(images))[:, None]).view(len(images), len(boxes))  # (B, n)


def _covered(image: Tensor, size: tuple[int, int], side: int, batch_size: int) -> Iterator[Tensor]:
    """Yield batches (at most `batch_size`, 3, H, W) of the image with one patch after the other in each cover."""
    height, width = size
    mean = image[:, :height, :width].mean((1, 2))[:, None, None]
    corners = [(y, x) for y in range(0, height, side) for x in range(0, width, side)]
    places = [(*corner, cover) for corner in corners for cover in range(COVERS)]
    for first in range(0, len(places), batch_size):
        part = places[first : first + batch_size]
        images = image.repeat(len(part), 1, 1, 1)
        for covered, (y, x, cover) in zip(images, part, strict=True):
            patch = covered[:, y : min(y + side, height), x : min(x + side, width)]
            patch.copy_(patch.roll(cover, 0) if cover else mean.expand_as(patch))
        yield images


def _gradients(detector: Detector, batch: ImageList, boxes: Tensor, labels: Tensor, side: int) -> Tensor:
    """Return the mean absolute gradient (n, h, w) of each box's log-probability, by patches of the padded image."""
    images = batch.tensors.detach().requires_grad_()
    with torch.enable_grad():
        logs = _class_probabilities(detector, images, batch.image_sizes[0], boxes, labels)[0].clamp_min(1e-30).log()
        found = [torch.autograd.grad(log, images, retain_graph=True)[0][0].abs().sum(0) for log in logs]
    if not found:
        return images.new_zeros(0, images.shape[2] // side + 1, images.shape[3] // side + 1)
    return avg_pool2d(torch.stack(found)[:, None], side, ceil_mode=True, count_include_pad=False)[:, 0]  # (n, h, w)


def _far(boxes: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """Return which patches (n, h, w) are at least a patch away from each box."""
    top = torch.arange(rows, device=boxes.device)[:, None] * side
    left = torch.arange(columns, device=boxes.device) * side
    x0, y0, x1, y1 = (edge[:, None, None] for edge in boxes.unbind(1))
    apart_x = (left - x1 >= side) | (x0 - (left + side) >= side)
    apart_y = (top - y1 >= side) | (y0 - (top + side) >= side)
    return apart_x | apart_y
