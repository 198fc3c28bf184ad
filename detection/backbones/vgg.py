"""VGG16 (Simonyan, Zisserman 2015) from torchvision as a backbone.

Stages are named by stride as everywhere here, so the paper's conv3_3, conv4_3 and conv5_3 are `c2`, `c3` and `c4`,
and `c5` is the pooled conv5_3.
"""

from itertools import islice

from torch import Tensor, nn
from torchvision.models import vgg

from detection.backbones.backbone import Backbone, Norm, load_torchvision, norm_layer
from detection.backbones.folding import fold_frozen_norms
from detection.weights import LoadReport

# Index in torchvision's `features` after the last ReLU of each block.
_ENDS = {
    False: {"stem": 4, "c1": 9, "c2": 16, "c3": 23, "c4": 30, "c5": 31},
    True: {"stem": 6, "c1": 13, "c2": 23, "c3": 33, "c4": 43, "c5": 44},
}


class VGG16(Backbone):
    """The 13 convolutions of VGG16.

    Args:
        weights: torchvision's name without the model (`IMAGENET1K_V1`, or `IMAGENET1K_FEATURES` for the original ones),
            a file, `detector` when they come with the detector's weights, or None for random ones.
        batch_norm: the variant with a batch norm after every convolution.
        norm: normalization, see `norm_layer`; only with `batch_norm`.
    """

    def __init__(
        self, weights: str | None = "IMAGENET1K_FEATURES", batch_norm: bool = False, norm: Norm = "auto"
    ) -> None:
        super().__init__()
        self.weights, self.batch_norm = weights, batch_norm
        layer = norm_layer(norm, weights)
        # Without the classifier of `vgg16`, which has nine of ten parameters.
        convolutions = vgg.make_layers(vgg.cfgs["D"], batch_norm=batch_norm).children()
        modules = [layer(m.num_features) if isinstance(m, nn.BatchNorm2d) else m for m in convolutions]
        for module in modules:
            if isinstance(module, nn.ReLU):
                module.inplace = True
            elif isinstance(module, nn.Conv2d):  # torchvision's initialization
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        self.features = nn.Sequential(*modules)
        self.ends_at = {end: name for name, end in _ENDS[batch_norm].items()}
        self.out_channels = {"c2": 256, "c3": 512, "c4": 512, "c5": 512}
        self.strides = {f"c{k}": 2**k for k in range(2, 6)}
        fold_frozen_norms(self)
        if weights == "IMAGENET1K_FEATURES":
            # These weights come from Caffe: values 0 … 255 less the mean, here written for values in [0, 1].
            self.image_mean, self.image_std = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of images (B, 3, H, W) by name."""
        features, x, start = {}, images, 0
        for end, name in self.ends_at.items():
            # A layer of `RecurrentStages` follows the last one, and is not computed again with these.
            x = self.features[end - 1](self._run(x, start, end - 1))
            if name in self.out_channels:
                features[name] = x
            start = end
        return features

    def _run(self, x: Tensor, start: int, end: int) -> Tensor:
        """Return x after the layers from `start` to before `end`."""
        for module in islice(self.features, start, end):
            x = module(x)
        return x

    def recomputed(self) -> list[tuple[nn.Module, str]]:
        """Return the layers of a stage as one; no module holds them."""
        return [(self, "_run")]

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each stage by name; `stem` is conv1 and `c1` is conv2."""
        ends = _ENDS[self.batch_norm]
        starts = [0, *ends.values()]
        return {name: list(self.features[start:end]) for (name, end), start in zip(ends.items(), starts, strict=False)}

    def ends(self) -> dict[str, nn.Module]:
        """Return the last module of each stage by name."""
        return {name: self.features[end - 1] for end, name in self.ends_at.items() if name in self.out_channels}

    def load_pretrained(self) -> LoadReport | None:
        """Fill in the weights but for the classifier; None where they are random or come with the detector."""
        model = "VGG16_BN" if self.batch_norm else "VGG16"
        return load_torchvision(self, model, self.weights, ("classifier.",))
