"""Our RoIAlign against torchvision's, backward alone and with the forward, at two sizes."""

from functools import partial

import torch

from detection.analysis.timing import Measurements, interleaved, settle_on
from detection.pooling import RoIAlign


def benchmark_roi_align(device: str) -> Measurements:
    """Measure 1024 boxes of 8 to 320 pixels on the pyramid of two 240x320 images, and 256 on one map of 64 channels."""
    big = roi_align_ratios(device, (4, 8, 16, 32), (2, 256, 240, 320), 1024, 2)
    small = roi_align_ratios(device, (4,), (8, 64, 128, 128), 256, 1)
    return {f"{size}, {k}": v for size, measured in (("pyramid", big), ("one map", small)) for k, v in measured.items()}


def roi_align_ratios(
    device: str, strides: tuple[int, ...], shape: tuple[int, ...], count: int, samples: int
) -> Measurements:
    """Measure our pool and torchvision's on feature maps of images of `shape` (B, C, H, W), `count` boxes in all."""
    torch.manual_seed(0)
    images, channels, height, width = shape
    features = {
        f"p{s}": torch.randn(images, channels, height // s, width // s, device=device, requires_grad=True)
        for s in strides
    }
    named = dict(zip(features, strides, strict=True))
    pool = RoIAlign(dict.fromkeys(features, channels), named, stages=tuple(features), sampling_ratio=samples)
    sides = 8 + (min(height, 320) - 8) * torch.rand(count, 2) ** 2
    centers = torch.rand(count, 2) * torch.tensor([width, height])
    limits = torch.tensor([width, height] * 2)
    corners = torch.cat([centers - sides / 2, centers + sides / 2], dim=1).clamp(min=0).minimum(limits)
    boxes, sizes = list(corners.to(device).chunk(images)), [(height, width)] * images
    pools = {"ours": pool, "torchvision's": pool.align}
    grad = torch.randn(count, channels, 7, 7, device=device)
    outputs = {name: p(features, boxes, sizes) for name, p in pools.items()}
    gradients = partial(torch.autograd.grad, inputs=list(features.values()), grad_outputs=grad)
    backward = {f"{n} backward": partial(gradients, output, retain_graph=True) for n, output in outputs.items()}
    both = {f"{n} forward and backward": lambda p=p: gradients(p(features, boxes, sizes)) for n, p in pools.items()}
    return {**interleaved(backward, 9, settle_on(device)), **interleaved(both, 9, settle_on(device))}
