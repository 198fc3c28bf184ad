"""Training steps of a full-size detector against torchvision's own loop, and of its context against none."""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from detection.analysis.timing import Measurements, settle_on, times_in_turns
from detection.benchmarks.train_step import torchvision_step
from detection.channels_last import to_channels_last
from detection.config import load_config, override
from detection.config.files import find_config
from detection.detector import build_detector
from detection.training.engine import train_one_epoch
from detection.training.freezing import freeze
from detection.training.loaders import build_accelerator
from detection.training.optim import build_optimizer

SHAPES = {"cuda": (4, 800, 1216), "cpu": (1, 320, 480)}
"""Images, height and width; on a CPU for a trial only."""
ROUNDS = {"cuda": 21, "cpu": 3}
CLASSES = 90


def benchmark_detector_step(device: str) -> Measurements:
    """Measure an update of Faster R-CNN with ResNet-50 and FPN, in bf16 and float32, and of ION on it in bf16.

    torchvision's loop is that of its reference script: floats in [0, 1], autocast, its own detector, SGD. Both have
    random weights, two frozen stages and 14 boxes an image.
    """
    batch, found = _batch(*SHAPES[device]), Measurements()
    plain, ion = "faster_rcnn_resnet50_fpn_coco", "ion_resnet50_fpn_coco"
    for precision in ("bf16", "no"):
        named = "bf16" if precision == "bf16" else "float32"
        steps = {
            "ours": _our_step(plain, precision, device, batch),
            "torchvision's": _their_step(precision, device, batch),
        }
        found |= _compared(steps, f"R50-FPN {named}", device)
    steps = {name: _our_step(config, "bf16", device, batch) for name, config in (("ION", ion), ("plain", plain))}
    return found | _compared(steps, "R50-FPN bf16", device)


def _compared(steps: dict[str, Callable[[], None]], what: str, device: str) -> Measurements:
    times = times_in_turns(list(steps.values()), ROUNDS[device], settle_on(device))
    ratio = statistics.median(first / second for first, second in zip(*times, strict=True))
    medians = {f"{what}, {name} (s, median)": statistics.median(t) for name, t in zip(steps, times, strict=True)}
    return {**medians, f"{what}, {' / '.join(steps)}": ratio}


def _batch(number: int, height: int, width: int) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (number, 3, height, width), dtype=torch.uint8, generator=generator)
    corners = torch.rand(number, 14, 2, generator=generator) * torch.tensor([width - 130.0, height - 130.0])
    boxes = torch.cat([corners, corners + 30 + torch.rand(number, 14, 2, generator=generator) * 100], dim=2)
    labels = torch.randint(1, CLASSES + 1, (number, 14), generator=generator)
    targets = zip(range(number), boxes, labels, strict=True)
    return list(images), [{"boxes": b, "labels": k, "image_id": i} for i, b, k in targets]


def _our_step(name: str, precision: str, device: str, batch: tuple) -> Callable[[], None]:
    config = override(load_config(find_config(name)), ["detector.backbone.body.weights=none"])
    torch.manual_seed(0)
    detector = build_detector(config.detector, CLASSES, resize_in_training=False)
    freeze(detector, config.freeze, 0)
    accelerator = _accelerator(precision, device)
    to_channels_last(detector.to(accelerator.device))
    optimizer = build_optimizer(config.optimizer, detector, 16)
    for group in optimizer.param_groups:
        group["lr"] = 1e-9  # weights and proposals stay what they are
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    model, optimizer = accelerator.prepare(detector, optimizer)

    def step() -> None:
        torch.manual_seed(1)
        train_one_epoch(model, [batch], 1, optimizer, scheduler, accelerator)

    return step


def _accelerator(precision: str, device: str) -> Accelerator:
    """Return one of another precision than the last, which a process otherwise keeps."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return build_accelerator(precision, device)


def _their_step(precision: str, device: str, batch: tuple) -> Callable[[], None]:
    torch.manual_seed(0)
    _, height, width = SHAPES[device]
    sizes = {"min_size": min(height, width), "max_size": max(height, width)}
    layers: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": CLASSES + 1, **sizes}
    detector = fasterrcnn_resnet50_fpn(**layers).to(device).train()
    body: Any = detector.backbone.body
    for module in (body.conv1, body.bn1, body.layer1):
        module.requires_grad_(False)
    return torchvision_step(detector, batch, device, precision == "bf16")
