"""An update of our training loop against torchvision's, and updates of other configs against `finetune`."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from detection.analysis.timing import Measurements, interleaved, settle_on
from detection.backbones import FPN
from detection.config import Config, load_config
from detection.config.files import find_config
from detection.detector import Detector, build_detector
from detection.heads import FastRCNN
from detection.pooling import RoIAlign
from detection.pretrained import load_pretrained
from detection.regions import RPN
from detection.training.engine import train_one_epoch
from detection.training.freezing import freeze
from detection.training.loaders import build_accelerator
from detection.weights import load_state

Batch = tuple[list[torch.Tensor], list[dict[str, Any]]]
"""Images (3, H, W) uint8 and their targets."""


def benchmark_train_step(device: str) -> Measurements:
    """Measure one update by our loop and by a plain one: two images of 240x320, and 16 of 128x128; 14 boxes each."""
    found = _against_torchvision(device, noise_images(), 25)
    small = _against_torchvision(device, noise_images(16, 128, 128), 9)
    return found | {f"{name}, 16x128x128": value for name, value in small.items()}


def _against_torchvision(device: str, batch: Batch, rounds: int) -> Measurements:
    ours, our_step = our_train_step(device, _as_large_as_torchvisions(load_config(find_config("finetune"))), batch)
    height, width = batch[0][0].shape[1:]
    twin = torchvision_twin(ours, min(height, width), max(height, width))
    plain_step = torchvision_step(twin.to(device).train(), batch, device)
    return interleaved({"our step": our_step, "plain torchvision step": plain_step}, rounds, settle_on(device))


def benchmark_config_step(name: str, device: str) -> Measurements:
    """Measure one update on `noise_images` of a config's detector and of `finetune`'s."""
    steps = {config: our_train_step(device, load_config(find_config(config)))[1] for config in (name, "finetune")}
    return interleaved(steps, 15, settle_on(device))


def _as_large_as_torchvisions(config: Config) -> Config:
    """The same backbone with the pyramid, RPN and head of torchvision's `fasterrcnn_resnet50_fpn`."""
    detector = config.detector
    pyramid = partial(FPN, body=detector.backbone.keywords["body"], norm="batch")
    parts = {"regions": partial(RPN), "pool": partial(RoIAlign), "head": partial(FastRCNN)}
    return replace(config, detector=replace(detector, backbone=pyramid, **parts))


def our_train_step(device: str, config: Config, batch: Batch | None = None) -> tuple[Detector, Callable[[], None]]:
    """Return the detector of a config, with its weights, and a function that updates it once on a batch.

    The batch is `noise_images` where none is given.
    """
    torch.manual_seed(0)
    detector = build_detector(config.detector, 3, resize_in_training=False)
    load_pretrained(detector, None)
    freeze(detector, {}, 0)
    accelerator = build_accelerator("no", device)  # stated, for a benchmark before may have been in another precision
    detector.to(memory_format=torch.channels_last)
    # So small a rate that weights and proposals stay the same in all rounds.
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-9, momentum=0.9, weight_decay=1e-4, fused=True)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    model, optimizer = accelerator.prepare(detector, optimizer)
    images, targets = noise_images() if batch is None else batch
    lines: list[dict[str, float]] = []

    def step() -> None:
        torch.manual_seed(1)
        train_one_epoch(model, [(images, targets)], 1, optimizer, scheduler, accelerator, log=lines.append)

    return detector, step


def torchvision_step(detector: nn.Module, batch: tuple, device: str, bf16: bool = False) -> Callable[[], None]:
    """Return a function that updates a detector as torchvision's reference script does, its check of the loss included.

    Args:
        detector: torchvision's, in training mode.
        batch: images (3, H, W) uint8 and their targets.
        device: of the detector, to which each step copies the batch.
        bf16: whether the forward pass is under autocast.
    """
    parameters = [p for p in detector.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-9, momentum=0.9, weight_decay=1e-4)
    images, targets = [image.float() / 255 for image in batch[0]], batch[1]

    def step() -> None:
        torch.manual_seed(1)
        floats = [image.to(device) for image in images]
        ground_truth = [{k: v.to(device) for k, v in t.items() if k != "image_id"} for t in targets]
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss: Any = sum(detector(floats, ground_truth).values())
        if not torch.isfinite(loss).item():
            raise FloatingPointError
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def noise_images(number: int = 2, height: int = 240, width: int = 320) -> Batch:
    """Return images (3, height, width) of noise and targets of 14 boxes each, always the same."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator) for _ in range(number)]
    corners = torch.rand(number, 14, 2, generator=generator) * torch.tensor([width - 60.0, height - 60.0])
    boxes = torch.cat([corners, corners + 20 + torch.rand(number, 14, 2, generator=generator) * 40], dim=2)
    labels = torch.randint(1, 4, (number, 14), generator=generator)
    return images, [
        {"boxes": b, "labels": k, "image_id": i} for i, (b, k) in enumerate(zip(boxes, labels, strict=True))
    ]


def torchvision_twin(detector: Detector, min_size: int, max_size: int) -> FasterRCNN:
    """Return torchvision's `FasterRCNN` with the backbone, pyramid and weights of a detector with Lite0 of such a size.

    It resizes to `min_size` pixels of the shorter side, and `max_size` at most of the longer.
    """
    import timm
    import timm.layers

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            network: Any = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4))
            self.body = timm.layers.freeze_batch_norm_2d(network)  # type: ignore[attr-defined]
            channels = network.feature_info.channels()
            self.fpn = FeaturePyramidNetwork(channels, 256, LastLevelMaxPool(), norm_layer=nn.BatchNorm2d)
            self.out_channels = 256

        def forward(self, x):
            return self.fpn({str(i): y for i, y in enumerate(self.body(x))})

    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    sizes = {"min_size": min_size, "max_size": max_size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    twin = FasterRCNN(Backbone(), num_classes=4, rpn_anchor_generator=anchors, **sizes)
    names = (("backbone.body.body.", "backbone.body."), ("regions.rpn.", "rpn."), ("head.roi_heads.", "roi_heads."))
    state = detector.state_dict()
    for ours, theirs in names:
        state = {theirs + n[len(ours) :] if n.startswith(ours) else n: t for n, t in state.items()}
    load_state(twin, state, "our detector", at_least=1.0)
    return twin
