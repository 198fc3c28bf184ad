"""A detector at work, to be measured: its size, one update on one batch, one look at one picture."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from detection.ablation.kinds import Workload
from detection.complexity import count_flops, count_parameters
from detection.config import Config
from detection.detector import Detector, build_detector
from detection.engine import train_one_epoch
from detection.freezing import freeze
from detection.optim import build_optimizer
from detection.runs import build_accelerator
from detection.training import open_data

SOME_CLASSES = 3
"""For sizes that must not depend on whether the data is there."""


def detector_size(config: Config, what: str) -> int:
    """`parameters`, or `flops` on one picture of noise, of the detector at its start of seed 0, for a few classes."""
    detector = _start(config, SOME_CLASSES)
    if what == "parameters":
        return count_parameters(detector)
    side = config.detector.min_size
    noise = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    return count_flops(detector.eval(), [noise])


def detector_workload(config: Config) -> Workload:
    """The detector at its start of seed 0, on the first pictures of its own data.

    The learning rate is next to nothing, so that the weights stay as they are and boxes with them, step after step. At
    a random start boxes are as many as they may be, so that what depends on their number is at its dearest.

    Raises:
        UserError: the data is not there.
    """
    accelerator = build_accelerator(config.precision)
    data = open_data(dataclasses.replace(config, data=dataclasses.replace(config.data, workers=0)), accelerator)
    detector = _start(config, len(data.train.categories))
    picture = data.val[0][0]
    parameters, flops = count_parameters(detector), count_flops(detector.eval(), [picture])
    detector.to(accelerator.device)
    batch = [data.train[i] for i in range(min(config.batch_size, len(data.train)))]
    step = _train_step(config, detector, tuple(map(list, zip(*batch, strict=True))), accelerator)
    return Workload(parameters, flops, step, _inference(detector, picture.to(accelerator.device), accelerator))


def _start(config: Config, num_classes: int) -> Detector:
    torch.manual_seed(0)
    return build_detector(config.detector, num_classes, resize_in_training=False)


def _train_step(config: Config, detector: Detector, batch: Any, accelerator: Any) -> Callable[[], object]:
    freeze(detector, config.freeze, 0)
    optimizer = build_optimizer(dataclasses.replace(config.optimizer, lr=1e-12), detector, config.batch_size)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    model, prepared = accelerator.prepare(detector, optimizer)

    def step() -> None:
        freeze(detector, config.freeze, 0)
        torch.manual_seed(1)
        train_one_epoch(model, [batch], 1, prepared, scheduler, accelerator)

    return step


def _inference(detector: Detector, picture: Tensor, accelerator: Any) -> Callable[[], object]:
    def look() -> None:
        detector.eval()
        with torch.inference_mode(), accelerator.autocast():
            detector([picture])

    return look
