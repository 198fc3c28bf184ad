"""A model at work: a training step and inference, whose costs are measured."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from detection.analysis.complexity import count_flops, count_parameters
from detection.training.engine import Batch, train_one_epoch
from detection.training.freezing import freeze
from detection.training.optim import build_optimizer


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model whose costs are measured.

    Attributes:
        parameters: their number, learned or frozen.
        flops: FLOPs of a forward pass on one image.
        train_step: updates the model once on one batch, always the same.
        infer: runs inference on one image.
    """

    parameters: int
    flops: int
    train_step: Callable[[], object]
    infer: Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Effort:
    """Work of a run, from which its time is estimated.

    Attributes:
        epochs: its epochs.
        steps: training steps, on one batch each.
        evaluated: images that it runs inference on, all evaluations together.
        batch_size: images of a training step.
        load_s: seconds to load and augment an image, measured.
    """

    epochs: int
    steps: int
    evaluated: int
    batch_size: int
    load_s: float


def build_workload(
    model: nn.Module,
    config: Any,
    accelerator: Accelerator,
    batch: Batch,
    image: Tensor,
    frozen: Mapping[str, int | None],
) -> Workload:
    """Put a model to work on one batch.

    The learning rate is nearly 0, so that weights and boxes stay as they are from step to step.

    Args:
        model: a detector or a classifier at its initialization; it is moved to the accelerator's device.
        config: its settings, with `optimizer` and `batch_size`.
        accelerator: device and precision.
        batch: images and targets to train on.
        image: (3, H, W), to infer on.
        frozen: for `freeze`.
    """
    parameters, flops = count_parameters(model), count_flops(model.eval(), [image])
    image = image.to(accelerator.device)
    freeze(model.to(accelerator.device), frozen, 0)
    optimizer = build_optimizer(dataclasses.replace(config.optimizer, lr=1e-12), model, config.batch_size)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    prepared, optimizer = accelerator.prepare(model, optimizer)

    def train_step() -> None:
        freeze(model, frozen, 0)
        torch.manual_seed(1)
        train_one_epoch(prepared, [batch], 1, optimizer, scheduler, accelerator)

    def infer() -> None:
        model.eval()
        with torch.inference_mode(), accelerator.autocast():
            model([image])

    return Workload(parameters, flops, train_step, infer)
