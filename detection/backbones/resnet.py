"""ResNet (He et al. 2016) from torchvision as a backbone: `c2` … `c5` are its four layers."""

from typing import Any, Literal

import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from detection.backbones.backbone import Backbone, Norm, load_torchvision, norm_layer
from detection.backbones.folding import fold_frozen_norms
from detection.ranges import NonNegative
from detection.weights import LoadReport


class ResNet(Backbone):
    """ResNet-18, 34, 50, 101 or 152.

    Args:
        depth: number of layers.
        weights: torchvision's name without the model (`IMAGENET1K_V1`), a file, `detector` when they come with the
            detector's weights, or None for random ones.
        norm: normalization, see `norm_layer`.
        norm_eps: added to the variance; torchvision's `fasterrcnn_resnet50_fpn` COCO weights want 0.
    """

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101, 152] = 50,
        weights: str | None = "IMAGENET1K_V1",
        norm: Norm = "auto",
        norm_eps: NonNegative = 1e-5,
    ) -> None:
        super().__init__()
        self.depth, self.weights = depth, weights
        network: Any = torchvision.models.get_model(f"resnet{depth}", norm_layer=norm_layer(norm, weights, norm_eps))
        width = network.fc.in_features // 8
        self.body = IntermediateLayerGetter(network, {f"layer{k - 1}": f"c{k}" for k in range(2, 6)})
        self.out_channels = {f"c{k}": width * 2 ** (k - 2) for k in range(2, 6)}
        self.strides = {f"c{k}": 2**k for k in range(2, 6)}
        fold_frozen_norms(self, only_in_training=True)  # torchvision's detections stay equal to the bit

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of images (B, 3, H, W) by name."""
        return self.body(images)

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each stage by name."""
        body = self.body
        return {"stem": [body["conv1"], body["bn1"]], **{f"c{k}": [body[f"layer{k - 1}"]] for k in range(2, 6)}}

    def ends(self) -> dict[str, nn.Module]:
        """Return the last module of each stage by name."""
        return {f"c{k}": self.body[f"layer{k - 1}"] for k in range(2, 6)}

    def load_pretrained(self) -> LoadReport | None:
        """Fill in the weights but for the classifier; None where they are random or come with the detector."""
        return load_torchvision(self.body, f"ResNet{self.depth}", self.weights, ("fc.",))
