"""Recurrent convolution: RCL (Liang, Hu 2015, section 3), a convolution that reads its own last output too.

    z(t) = W_f * u + W_r * x(t−1) + b,      (1) z(0) without the middle term
    x(t) = norm(max(z(t), 0)),              (2) output x(T)

With every step a location depends on one more ring of neighbors, by the same weights. `gated_steps` has the gated form.
"""

# B images, C channels of u, K of the state, H×W map, T steps.

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from detection.context.gated_steps import GatedSteps
from detection.context.step_norms import StepNorm, StepNorms
from detection.contracts import Context
from detection.errors import UserError
from detection.ranges import Bins, Channels, Range

StepCount = Annotated[int, Range(0, 1_000)]


class RecurrentConv(Context):
    """A recurrent convolutional layer over T steps, its weights shared by all of them.

    Args:
        in_channels: channels of the input u.
        hidden_channels: K, channels of the state x and of the output; None for `in_channels`.
        num_steps: T; at 0 it is a plain convolution.
        inference_steps: T in evaluation mode; None for `num_steps`.
        norm: of each step's state. `lrn`, the paper's: x / (1 + α/N · Σ x²)^β over N = K/8 + 1 channels, with α = 0.001
            and β = 0.75. `batch`: one batch norm for each step, as a shared one loses accuracy. `group`: one group norm
            for all steps.
        kernel_size: side of both kernels; odd.
        residual: u itself in the place of W_f * u, and z(T) for output: the recurrence adds to the input. At T = 0, or
            with W_r = 0, the output is the input, bit by bit.
        init: of W_r: `random` (He et al. 2015), or `zero`, which makes the layer a plain convolution at first (with
            `feed=always`).
        feed: `always`, or `first`: u is read at x(0) only, which is the paper's control "rCNN", a cascade of
            convolutions that share their weights.
        gated: multiply what comes from x(t−1) by a gate (Wang, Hu 2017; see `gated_steps`), which lets each location
            choose how much of its surroundings it takes in. Norms are of the sums' parts, `batch`, as in that paper,
            `group` or `none`; `zero` starts that of the gated product at 0 in the place of W_r.

    Raises:
        UserError: settings that do not go together.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        hidden_channels: Channels | None = None,
        num_steps: StepCount = 3,
        inference_steps: StepCount | None = None,
        norm: StepNorm = "lrn",
        kernel_size: Bins = 3,
        residual: bool = False,
        init: Literal["random", "zero"] = "random",
        feed: Literal["always", "first"] = "always",
        gated: bool = False,
    ) -> None:
        super().__init__()
        channels = hidden_channels or in_channels
        self.num_steps, self.inference_steps = num_steps, num_steps if inference_steps is None else inference_steps
        self.residual, self.feed, self.out_channels = residual, feed, channels
        self._check(in_channels, inference_steps, norm, kernel_size, gated, init)
        padding = kernel_size // 2
        # The bias b is one: that of the convolution which every step has. Gated steps have none.
        biases = (False, False) if gated else (True, residual)
        self.forward_conv = (
            None if residual else nn.Conv2d(in_channels, channels, kernel_size, padding=padding, bias=biases[0])
        )
        self.recurrent_conv = (
            nn.Conv2d(channels, channels, kernel_size, padding=padding, bias=biases[1]) if num_steps else None
        )
        self.norm = StepNorms(norm, channels, num_steps + (not residual)) if not gated else None
        self.steps = GatedSteps(in_channels, channels, num_steps, norm, residual, feed) if gated else None
        for conv in (self.forward_conv, self.recurrent_conv):
            if conv is not None:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
        if init == "zero" and self.recurrent_conv is not None:
            if self.steps is not None and norm != "none":
                self.steps.product_norm.zero()
            else:
                nn.init.zeros_(self.recurrent_conv.weight)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the output (B, K, H, W) after T steps, from u (B, C, H, W); padding is zeros, as beyond the border."""
        steps = self.num_steps if self.training else self.inference_steps
        u = x * valid
        fed = u if self.forward_conv is None else self.forward_conv(u)
        if self.steps is not None:
            return self.steps(u, fed, self.recurrent_conv, valid, steps)
        assert self.norm is not None
        z = fed
        for step in range(steps):
            state = self.norm(torch.relu(z), valid, step) * valid  # equation (2)
            z = self.recurrent_conv(state)  # type: ignore[misc]  # equation (1)
            if self.feed == "always":
                z = z + fed
        return (z if self.residual else self.norm(torch.relu(z), valid, steps)) * valid

    def _check(
        self, in_channels: int, inference_steps: int | None, norm: StepNorm, kernel_size: int, gated: bool, init: str
    ) -> None:
        num_steps, channels, given = self.num_steps, self.out_channels, f"inference_steps={inference_steps}"
        if kernel_size % 2 == 0:
            raise UserError(f"kernel_size={kernel_size}: must be odd, to keep the map's size.")
        if self.residual and channels != in_channels:
            reason = f"with residual=true they are those of the map, {in_channels}; leave them out."
            raise UserError(f"hidden_channels={channels}: {reason}")
        if self.residual and self.feed == "first":
            raise UserError("feed=first: takes away what residual=true adds to; set one of them only.")
        if self.feed == "first" and init == "zero" and num_steps:
            raise UserError("init=zero: with feed=first all is 0 after a step, and nothing learns; set one of them.")
        if gated and norm == "lrn":
            raise UserError(
                "norm=lrn: is of a state at least 0, and with gated=true norms are of the parts of its sum; set "
                "norm=batch, as the paper, group or none."
            )
        if norm == "batch" and (inference_steps or 0) > num_steps:
            raise UserError(
                f"{given}: with norm=batch each step has its own statistics and only {num_steps} steps are trained; "
                "use at most as many, or train with norm=lrn or group."
            )
        if num_steps == 0 and inference_steps:
            raise UserError(f"{given}: with num_steps=0 nothing recurrent is trained; set inference_steps=0.")
