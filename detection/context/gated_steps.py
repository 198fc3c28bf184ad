"""Gated recurrent convolution (Wang, Hu 2017): a gate decides how much each location takes in of its surroundings.

    x(0) = ReLU(BN(W_f * u)),
    G(t) = σ(BN(W_gf * u) + BN(W_gr * x(t−1))),                 (1)     W_gf and W_gr are 1×1
    x(t) = ReLU(BN(W_f * u) + BN(BN(W_r * x(t−1)) ⊙ G(t))),     (2)     output x(T)

Each batch norm is one for each step, and no convolution has a bias.
"""

# B images, C channels of u, K of the state, H×W map, T steps.

from typing import Literal

import torch
from torch import Tensor, nn

from detection.context.step_norms import StepNorm, StepNorms


class GatedSteps(nn.Module):
    """The steps of a gated `RecurrentConv`, which has the convolutions W_f and W_r.

    Args:
        in_channels: channels of u.
        channels: K, channels of the state.
        num_steps: T; without any there is no gate.
        norm: BN, or another in its place.
        residual: u itself in the place of BN(W_f * u), and the sum before its ReLU for output.
        feed: with `first`, x(t) and G(t) are without their terms of u after x(0).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_steps: int,
        norm: StepNorm,
        residual: bool,
        feed: Literal["always", "first"],
    ) -> None:
        super().__init__()
        self.residual, fed_steps = residual, num_steps if feed == "always" else 0
        self.gate_forward_conv = nn.Conv2d(in_channels, channels, 1, bias=False) if fed_steps else None
        self.gate_recurrent_conv = nn.Conv2d(channels, channels, 1, bias=False) if num_steps else None
        for conv in (self.gate_forward_conv, self.gate_recurrent_conv):
            if conv is not None:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="sigmoid")
        self.feeds = feed == "always"
        self.forward_norm = StepNorms(norm, channels, 0 if residual else 1 + fed_steps)
        self.gate_forward_norm = StepNorms(norm, channels, fed_steps)
        self.gate_recurrent_norm = StepNorms(norm, channels, num_steps)
        self.recurrent_norm = StepNorms(norm, channels, num_steps)
        self.product_norm = StepNorms(norm, channels, num_steps)

    def forward(self, u: Tensor, fed: Tensor, recurrent_conv: nn.Module | None, valid: Tensor, steps: int) -> Tensor:
        """Return the output (B, K, H, W) after some steps, from u (B, C, H, W) and W_f * u, or u itself if residual."""
        gate_fed = None if self.gate_forward_conv is None else self.gate_forward_conv(u)
        z = self.forward_norm(fed, valid, 0)  # of x(0), before its ReLU
        for step in range(steps):
            state = torch.relu(z) * valid
            gate = self.gate_recurrent_norm(self.gate_recurrent_conv(state), valid, step)  # type: ignore[misc]
            if gate_fed is not None:
                gate = gate + self.gate_forward_norm(gate_fed, valid, step)  # equation (1) but for σ
            new = self.recurrent_norm(recurrent_conv(state), valid, step)  # type: ignore[misc]
            z = self.product_norm(new * torch.sigmoid(gate), valid, step)  # equation (2)
            if self.feeds:
                z = z + self.forward_norm(fed, valid, step + 1)
        return (z if self.residual else torch.relu(z)) * valid
