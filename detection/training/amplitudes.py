"""The initial amplitude of skip pooling, measured on training images (Bell et al. 2016, ION, section 3.2).

Layers that were trained on the descriptors of one feature map expect values of their size; normalized sources are
brought back to it.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torchvision.transforms.functional import convert_image_dtype

from detection.contracts import require_feature_maps
from detection.data.dataset import DetectionDataset, collate
from detection.detector import Detector
from detection.errors import UserError
from detection.ops.double import widen
from detection.pooling import RoIAlign, SkipPool
from detection.training.engine import Batch, to_device
from detection.weights import LoadReport


def start_amplitude(
    detector: Detector,
    dataset: DetectionDataset,
    accelerator: Accelerator,
    reports: Sequence[LoadReport] = (),
    images: int = 100,
) -> float | None:
    """Give a pool that names a reference the amplitude of its descriptors, the same on all processes.

    Args:
        detector: on its device, with its initial weights.
        dataset: the training images.
        accelerator: processes.
        reports: of those weights; amplitudes that came with them are trained, and stay.
        images: number of images with boxes to measure, drawn by the data set's seed.

    Returns:
        The amplitude; None where none had to be measured.

    Raises:
        UserError: an unusable reference, as `measure_amplitude`.
    """
    pool = detector.pool
    if not isinstance(pool, SkipPool) or pool.reference is None:
        return None
    if any(name.startswith("pool.") and name.endswith(".amplitude") for r in reports for name in r.loaded):
        return None
    shared = [0.0]
    if accelerator.is_main_process:
        order = np.random.default_rng(dataset.seed).permutation(len(dataset)).tolist()
        batches = (collate([dataset[position]]) for position in order)
        with_boxes = (batch for batch in batches if len(batch[1][0]["boxes"]))
        shared = [measure_amplitude(detector, islice(with_boxes, images), pool.reference)]
    if accelerator.num_processes > 1:
        broadcast_object_list(shared)
    pool.set_amplitude(shared[0])
    return shared[0]


@torch.no_grad()
def measure_amplitude(detector: Detector, batches: Iterable[Batch], reference: tuple[str, ...]) -> float:
    """Compute the root mean square of a ground-truth box's descriptor, averaged over the boxes.

    Args:
        detector: its backbone runs as in inference, on images of the training size; modes are restored.
        batches: images (3, H, W) and targets, as `collate` puts them together.
        reference: one feature map of the backbone, or the levels of a pyramid, finest first; pooled by RoIAlign.

    Raises:
        UserError: no such feature map, no boxes, or an amplitude that is 0 or not finite.
    """
    backbone = detector.backbone
    require_feature_maps("pool.reference", reference, backbone.out_channels)
    size: int = detector.pool.output_size  # type: ignore[assignment]
    align = RoIAlign(backbone.out_channels, backbone.strides, stages=reference, output_size=size)
    device = next(detector.parameters()).device
    was_training = [m for m in detector.modules() if m.training]
    detector.eval()
    # The data set has resized the images; in this mode the transform leaves their size to it where the detector says
    # so.
    detector.transform.train()
    found = []
    try:
        for images, targets in batches:
            images, targets = to_device(images, [{"boxes": target["boxes"]} for target in targets], device)
            batch, targets = detector.transform([convert_image_dtype(image) for image in images], targets)
            boxes = [target["boxes"] for target in targets]
            descriptors = align(backbone(batch.tensors), boxes, batch.image_sizes)  # (N, C, size, size)
            found.append(widen(descriptors).square().mean((1, 2, 3)).sqrt())  # (N,)
    finally:
        detector.eval()
        # Module by module: what is frozen was in evaluation mode before, too.
        for module in was_training:
            module.training = True
    amplitudes = torch.cat(found) if found else torch.zeros(0)
    if not (len(amplitudes) and 0 < amplitudes.mean() < torch.inf):
        raise UserError(
            f"pool.reference={reference}: descriptors of {len(amplitudes)} boxes have no usable amplitude; check the "
            "weights and the training data, or set pool.amplitude and no reference."
        )
    return amplitudes.mean().item()
