"""GoogLeNet (Szegedy et al. 2015) from torchvision as a backbone: `c3`, `c4`, `c5` end with inception 3b, 4e, 5b."""

import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.googlenet import BasicConv2d

from detection.backbones.backbone import Backbone, Norm, load_torchvision, norm_layer
from detection.backbones.folding import fold_frozen_norms
from detection.weights import LoadReport

_STAGES = {
    "stem": ("conv1",),
    "c2": ("conv2", "conv3"),
    "c3": ("inception3a", "inception3b"),
    "c4": tuple(f"inception4{letter}" for letter in "abcde"),
    "c5": ("inception5a", "inception5b"),
}


class GoogLeNet(Backbone):
    """GoogLeNet without its classifiers, ReInspect's backbone; torchvision's has batch norm.

    Args:
        weights: torchvision's name without the model (`IMAGENET1K_V1`), a file, `detector` when they come with the
            detector's weights, or None for random ones.
        norm: normalization, see `norm_layer`.
    """

    def __init__(self, weights: str | None = "IMAGENET1K_V1", norm: Norm = "auto") -> None:
        super().__init__()
        self.weights = weights
        network = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=weights is None)
        layer = norm_layer(norm, weights, eps=1e-3)  # that of torchvision's GoogLeNet
        for module in network.modules():
            if isinstance(module, BasicConv2d):
                module.bn = layer(module.conv.out_channels)  # type: ignore[assignment]
        self.body = IntermediateLayerGetter(network, {parts[-1]: k for k, parts in _STAGES.items() if k != "stem"})
        self.out_channels = {"c2": 192, "c3": 480, "c4": 832, "c5": 1024}
        self.strides = {f"c{k}": 2**k for k in range(2, 6)}
        fold_frozen_norms(self)
        # torchvision's weights were trained on values from -1 to 1 (its `transform_input`).
        self.image_mean, self.image_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of images (B, 3, H, W) by name."""
        return self.body(images)

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each stage by name."""
        return {name: [self.body[part] for part in parts] for name, parts in _STAGES.items()}

    def ends(self) -> dict[str, nn.Module]:
        """Return the last module of each stage by name; of `c2` it is conv3."""
        return {name: self.body[parts[-1]] for name, parts in _STAGES.items() if name in self.out_channels}

    def load_pretrained(self) -> LoadReport | None:
        """Fill in the weights but for the classifiers; None where they are random or come with the detector."""
        return load_torchvision(self.body, "GoogLeNet", self.weights, ("fc.", "aux1.", "aux2."))
