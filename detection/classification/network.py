"""A classifier of a backbone: global max pooling of its last feature map, and a linear layer (Liang, Hu 2015)."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from detection.backbones import RCNN, Backbone
from detection.ops.ragged import to_device

RCNN_96 = partial(RCNN, channels=(96, 96), first_stride=1, dropout=0.5)


class Classifier(nn.Module):
    """Classify images (B, 3, H, W); gray ones come as three equal channels.

    With `RCNN(channels=(K, K), first_stride=1)` it is the paper's RCNN-K, of 25·3·K + K + 4(18K² + K) + 10K + 10
    parameters for 10 classes.

    Args:
        num_classes: without a background.
        backbone: a partial of its class; the last of its feature maps is read.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_classes: int, backbone: partial = RCNN_96) -> None:
        super().__init__()
        self.backbone: Backbone = backbone()
        self.linear = nn.Linear(list(self.backbone.out_channels.values())[-1], num_classes)
        # Buffers, so that they come with the weights.
        self.register_buffer("mean", torch.tensor(self.backbone.image_mean)[:, None, None])
        self.register_buffer("std", torch.tensor(self.backbone.image_std)[:, None, None])

    @torch.no_grad()
    def set_statistics(self, images: Tensor) -> None:
        """Set mean and standard deviation of each channel to those of training images, (N, 1 or 3, H, W) uint8."""
        # From the counts of the 256 values, without a float copy of all pixels.
        shades = torch.arange(256, device=images.device) / 255
        for channel in range(3):
            values = images[:, channel % images.shape[1]].flatten()
            shares = torch.bincount(values, minlength=256) / values.numel()
            mean = (shares * shades).sum()
            self.mean[channel] = mean
            self.std[channel] = (shares * (shades - mean) ** 2).sum().sqrt().clamp(min=1 / 255)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]] | None = None
    ) -> Tensor | dict[str, Tensor]:
        """Classify images of one size.

        Args:
            images: B images (3, H, W), values in [0, 1].
            targets: in training the class of each, from 0, under `label`.

        Returns:
            (B, K) scores before the softmax; in training their cross-entropy as `loss_class`.
        """
        batch = (torch.stack(list(images)) - self.mean) / self.std
        last = list(self.backbone(batch).values())[-1]  # (B, C, H', W')
        scores = self.linear(last.amax((2, 3))).float()
        if not self.training or targets is None:
            return scores
        labels = to_device(np.array([target["label"] for target in targets], np.int64), scores.device)
        return {"loss_class": cross_entropy(scores, labels)}
