"""ResNet (He et al. 2016) from torchvision as a backbone: `c2` … `c5` are its four layers."""

from typing import Literal

import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter

from detection.backbones.backbone import Backbone, Norm, norm_layer
from detection.weights import LoadReport, load_state, read_state


class ResNet(Backbone):
    """ResNet-18, 34, 50, 101 or 152.

    Args:
        depth: number of layers.
        weights: torchvision's name without the model (`IMAGENET1K_V1`), a file, `detector` when they come with the
            whole detector's weights, or None for a random start.
        norm: see `norm_layer`.
        norm_eps: added to the variance; torchvision's `fasterrcnn_resnet50_fpn` COCO weights want 0.
    """

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101, 152] = 50,
        weights: str | None = "IMAGENET1K_V1",
        norm: Norm = "auto",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.depth, self.weights = depth, weights
        build = getattr(torchvision.models, f"resnet{depth}")
        network = build(weights=None, norm_layer=norm_layer(norm, weights, norm_eps))
        width = network.fc.in_features // 8
        self.body = IntermediateLayerGetter(network, {f"layer{k - 1}": f"c{k}" for k in range(2, 6)})
        self.out_channels = {f"c{k}": width * 2 ** (k - 2) for k in range(2, 6)}
        self.strides = {f"c{k}": 2**k for k in range(2, 6)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See `Backbone`."""
        return self.body(images)

    def stages(self) -> dict[str, list[nn.Module]]:
        """See `Backbone`."""
        body = self.body
        return {"stem": [body["conv1"], body["bn1"]], **{f"c{k}": [body[f"layer{k - 1}"]] for k in range(2, 6)}}

    def ends(self) -> dict[str, nn.Module]:
        """See `Backbone`."""
        return {f"c{k}": self.body[f"layer{k - 1}"] for k in range(2, 6)}

    def load_pretrained(self) -> LoadReport | None:
        """See `Backbone`; the classifier of ImageNet weights is not part of a backbone and is left out."""
        if self.weights in (None, "detector"):
            return None
        name = (
            self.weights if "." in self.weights or "/" in self.weights else f"ResNet{self.depth}_Weights.{self.weights}"
        )
        state = {n: t for n, t in read_state(name).items() if not n.startswith("fc.")}
        return load_state(self.body, state, name, at_least=0.9)
