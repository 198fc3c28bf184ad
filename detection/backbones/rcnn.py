"""RCNN-K (Liang, Hu 2015) as a backbone: recurrent convolutions where others have plain ones.

The paper has two stages of K channels; here their number is free. Weights are random.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from detection.backbones.backbone import BlockBackbone
from detection.context.recurrent_conv import RecurrentConv, StepCount, StepNorm
from detection.ranges import Channels, ProperFraction


class RCNN(BlockBackbone):
    """A 5×5 convolution, then in each stage a max pooling and two recurrent convolutions (`RecurrentConv`).

    The paper's network is `RCNN(channels=(K, K), first_stride=1, dropout=0.5)`; `detection.classification.Classifier`
    completes it to the paper's classifier. The norm is part of the paper's recurrent layer, so the stem has none.

    Args:
        channels: of each stage; the stem has those of the first.
        first_stride: stride of the stem in pixels: 2 gives `c2`, `c3`, …; 1, the paper's, gives `c1`, `c2`, … at four
            times the cost; 4 gives `c3`, … at a quarter.
        num_steps: T of every recurrent convolution; 0 leaves plain ones.
        inference_steps: T in evaluation mode; None for `num_steps`.
        norm: of each step, see `RecurrentConv`; the paper's is `lrn`.
        feed: see `RecurrentConv`.
        dropout: probability before every recurrent convolution but the first (the paper: after each but the last, and
            behind the pooling where one follows).
    """

    def __init__(
        self,
        channels: tuple[Channels, ...] = (96, 96, 96, 96),
        first_stride: Literal[1, 2, 4] = 2,
        num_steps: StepCount = 3,
        inference_steps: StepCount | None = None,
        norm: StepNorm = "lrn",
        feed: Literal["always", "first"] = "always",
        dropout: ProperFraction = 0.0,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(3, channels[0], 5, first_stride, 2)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.stem = nn.Sequential(conv, nn.ReLU(inplace=True))
        self.out_channels = {f"c{k}": c for k, c in enumerate(channels, start=first_stride.bit_length())}
        self.strides = {name: 2 ** int(name[1:]) for name in self.out_channels}
        inputs = (channels[0], *channels)
        layer = partial(RecurrentConv, num_steps=num_steps, inference_steps=inference_steps, norm=norm, feed=feed)
        self.blocks = nn.ModuleDict(
            {
                name: _Stage(dropout if i else 0.0, layer(inputs[i], hidden_channels=c), dropout, layer(c))
                for i, (name, c) in enumerate(self.out_channels.items())
            }
        )


class _Stage(nn.Module):
    """Max pooling 3×3 at stride 2, then dropout and a recurrent convolution, twice."""

    def __init__(self, dropout1: float, layer1: RecurrentConv, dropout2: float, layer2: RecurrentConv) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.dropout1, self.dropout2 = nn.Dropout(dropout1), nn.Dropout(dropout2)
        self.layer1, self.layer2 = layer1, layer2

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout1(self.pool(x))
        # As other backbones it does not know where an image ends and padding begins: every location counts.
        valid = torch.ones_like(x[:, :1], dtype=torch.bool)
        return self.layer2(self.dropout2(self.layer1(x, valid)), valid)
