"""Optimizer, learning-rate schedule and weight average, from their settings."""

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from detection.config import OptimizerConfig, ScheduleConfig


def scaled_learning_rate(config: OptimizerConfig, images_per_update: int) -> float:
    """The learning rate for the real number of images an update.

    Linear in it for SGD (Goyal et al. 2017), by the square root for AdamW (Malladi et al. 2022).
    """
    ratio = images_per_update / config.reference_batch
    return config.lr * (ratio if config.kind == "sgd" else math.sqrt(ratio))


def build_optimizer(config: OptimizerConfig, module: nn.Module, images_per_update: int) -> torch.optim.Optimizer:
    """An optimizer over all parameters; frozen ones have no gradient and are left alone.

    Args:
        config: its kind and settings.
        module: whose parameters move; those with one dimension (biases, norms) form a group of their own.
        images_per_update: real images an update, over all processes and accumulation.
    """
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": config.norm_weight_decay},
    ]
    lr = scaled_learning_rate(config, images_per_update)
    if config.kind == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=lr)


def build_scheduler(config: ScheduleConfig, optimizer: torch.optim.Optimizer, updates_per_epoch: int) -> LambdaLR:
    """The schedule by number of updates, see `learning_rate_factor`."""
    total = config.epochs * updates_per_epoch
    return LambdaLR(optimizer, lambda update: learning_rate_factor(config, update, total))


def learning_rate_factor(config: ScheduleConfig, update: int, total: int) -> float:
    """What the learning rate is multiplied with at an update (from 0) of `total`.

    The warm-up rises linearly and multiplies the step, cosine or exponential that goes on beneath it.
    """
    warmup = min(config.warmup, total // 10)
    factor = 1.0
    if update < warmup:
        factor = config.warmup_start + (1 - config.warmup_start) * update / warmup
    if config.kind == "step":
        factor *= config.gamma ** sum(update >= round(m * total) for m in config.milestones)
    elif config.kind == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * min(update, total) / total))
    elif config.kind == "exponential":
        factor *= config.gamma ** (update / total)
    return factor


class WeightAverage(AveragedModel):
    """Exponential moving average of weights and batch statistics, `decay` growing to its value in the first updates.

    The decay at update n is min(decay, (1 + n) / (10 + n)), so that the random start is forgotten at once.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.updates = 0

        def average(averages: Iterable[Tensor], currents: Iterable[Tensor], _: Tensor | int) -> None:
            rate = 1 - min(decay, (1 + self.updates) / (10 + self.updates))
            for old, new in zip(averages, currents, strict=True):
                if old.is_floating_point():
                    old.lerp_(new.to(old.dtype), rate)
                else:
                    old.copy_(new)

        super().__init__(copy.deepcopy(module), multi_avg_fn=average, use_buffers=True)
        self.requires_grad_(False)
        # The first update of an average copies the weights instead; they are already copied.
        self.n_averaged.fill_(1)

    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights as they are now."""
        super().update_parameters(model)
        self.updates += 1
