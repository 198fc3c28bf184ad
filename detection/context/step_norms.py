"""Norms of the steps of a recurrent convolution: one for all steps, but a separate batch norm for each."""

# B images, C channels, H×W map.

import math
from typing import Literal

import torch
from torch import Tensor, nn

from detection.context.local_response_norm import LocalResponseNorm
from detection.context.masked_norms import MaskedBatchNorm, MaskedGroupNorm

StepNorm = Literal["lrn", "batch", "group", "none"]


class StepNorms(nn.Module):
    """A norm of a feature map under its valid locations, which knows the step.

    Args:
        kind: of norm; the statistics of steps differ, so that a batch norm shared by them loses accuracy.
        channels: of the map.
        count: how many steps it is for; without any it has no parameters.
    """

    def __init__(self, kind: StepNorm, channels: int, count: int) -> None:
        super().__init__()
        self.separate = kind == "batch"
        makers = {
            "lrn": lambda: LocalResponseNorm(channels, channels // 8 + 1),  # N = K/8 + 1, as in the paper
            "batch": lambda: MaskedBatchNorm(channels),
            "group": lambda: MaskedGroupNorm(math.gcd(32, channels), channels),
        }
        copies = 0 if kind == "none" else count if self.separate else min(count, 1)
        self.norms = nn.ModuleList(makers[kind]() for _ in range(copies))
        self.masked = kind in ("batch", "group")

    def forward(self, x: Tensor, valid: Tensor, step: int) -> Tensor:
        """Normalize x (B, C, H, W) of a step, from 0."""
        if not self.norms:
            return x
        norm = self.norms[step if self.separate else 0]
        return norm(x, valid) if self.masked else norm(x)

    @torch.no_grad()
    def zero(self) -> None:
        """Set the weights to 0: the norm returns 0, and its weights learn."""
        for norm in self.norms:
            nn.init.zeros_(getattr(norm, "norm", norm).weight)  # type: ignore[arg-type]
