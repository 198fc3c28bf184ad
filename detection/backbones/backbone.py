"""The contract of a backbone: images (B, 3, H, W) → feature maps by name, `cK` at a stride of 2^K pixels."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detection.errors import UserError
from detection.weights import LoadReport, load_state, read_state

Norm = Literal["auto", "frozen", "batch"]

# The mean and standard deviation of ImageNet's RGB values in [0, 1], which torchvision's weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module, ABC):
    """Images (B, 3, H, W), normalized, → `{"c2": (B, C2, H/4, W/4), …}`; H and W are multiples of the largest stride.

    Construction gives random weights, which `load_pretrained` replaces, so that a run is rebuilt without a download.

    Attributes:
        out_channels: channels of each feature map by name.
        strides: image pixels between locations of each feature map, by name.
        image_mean: RGB mean in [0, 1] that the weights expect to be subtracted.
        image_std: RGB standard deviation that they expect to be divided by.
    """

    out_channels: Mapping[str, int]
    strides: Mapping[str, int]
    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    image_std: tuple[float, float, float] = IMAGENET_STD

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps (B, C, H/stride, W/stride) of images (B, 3, H, W) by name."""

    @abstractmethod
    def stages(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each stage by name, `stem` first: what can be frozen."""

    def ends(self) -> dict[str, nn.Module]:
        """Return the modules whose outputs are the feature maps that later stages read, where a layer can follow."""
        return {}

    def recomputed(self) -> list[tuple[nn.Module, str]]:
        """Return what is computed again in the backward pass where memory is short: modules, and the method of each.

        Here the largest modules inside of a stage that are called: those that `stages` names, or the blocks that hold
        the single layers that it names.
        """
        found, inside = list[nn.Module](), set[nn.Module]()
        named = [set(modules) for modules in self.stages().values()]
        stages = [{part for module in modules for part in module.modules()} for modules in named]
        for module in self.modules():
            held = {part for part in module.modules() if next(part.parameters(recurse=False), None) is not None}
            # Containers may be iterated over, and their own `forward` never called.
            is_called = not isinstance(module, Backbone | nn.Sequential | nn.ModuleList | nn.ModuleDict)
            is_called |= any(module in modules for modules in named)
            has_layers = held and next(module.children(), None) is not None  # a single layer keeps little but its input
            if has_layers and is_called and module not in inside and any(held <= stage for stage in stages):
                found.append(module)
                inside |= set(module.modules())
        return [(module, "forward") for module in found]

    def load_pretrained(self) -> LoadReport | None:
        """Fill in the weights that the backbone was built for; None where they are random."""
        return None


class WrappedBackbone(Backbone):
    """A backbone around another, whose feature maps, ends and weights it keeps.

    Args:
        body: the inner backbone, a partial of its class.
    """

    def __init__(self, body: partial[Backbone]) -> None:
        super().__init__()
        self.body: Backbone = body()
        self.out_channels, self.strides = self.body.out_channels, self.body.strides
        self.image_mean, self.image_std = self.body.image_mean, self.body.image_std

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of images (B, 3, H, W) by name."""
        return self.body(images)

    def ends(self) -> dict[str, nn.Module]:
        """Return the last module of each of the body's stages by name."""
        return self.body.ends()

    def recomputed(self) -> list[tuple[nn.Module, str]]:
        """Return what the body has computed again, and the modules around it."""
        inner = set(self.body.modules())
        return [*self.body.recomputed(), *(found for found in super().recomputed() if found[0] not in inner)]

    def load_pretrained(self) -> LoadReport | None:
        """Fill in the body's weights; what is around it stays as it is."""
        return self.body.load_pretrained()


class BlockBackbone(Backbone):
    """A `stem`, then a block for each feature map, in order of their strides."""

    stem: nn.Module
    blocks: nn.ModuleDict

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of images (B, 3, H, W) by name."""
        x, features = self.stem(images), {}
        for name, block in self.blocks.items():
            x = features[name] = block(x)
        return features

    def stages(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each stage by name."""
        return {"stem": [self.stem], **{name: [block] for name, block in self.blocks.items()}}

    def ends(self) -> dict[str, nn.Module]:
        """Return the last module of each stage by name."""
        return dict(self.blocks.items())


def load_torchvision(
    body: nn.Module, model: str, weights: str | None, classifier: tuple[str, ...]
) -> LoadReport | None:
    """Fill in the weights of a torchvision model but for its classifier.

    Args:
        body: the layers, named as in torchvision's model.
        model: name of the model in torchvision's weights, such as `VGG16`.
        weights: their name without the model, or a file; nothing is done for None and `detector`.
        classifier: beginnings of the names that are left out.
    """
    if weights in (None, "detector"):
        return None
    name = weights if "." in weights or "/" in weights else f"{model}_Weights.{weights}"
    state = {n: t for n, t in read_state(name).items() if not n.startswith(classifier)}
    return load_state(body, state, name)


def norm_layer(norm: Norm, weights: str | None, eps: float = 1e-5) -> Callable[[int], nn.Module]:
    """Return the normalization that fits the weights: frozen statistics when pre-trained, live ones when random.

    Args:
        norm: `auto` chooses by `weights`; `frozen` or `batch` is that one.
        weights: source of the weights; None for random ones.
        eps: added to the variance.

    Raises:
        UserError: frozen statistics of random weights, which would normalize nothing.
    """
    frozen = norm == "frozen" or (norm == "auto" and weights is not None)
    if frozen and weights is None:
        raise UserError(
            "norm='frozen' with weights=None: frozen batch norm of random weights normalizes nothing; "
            "use norm='batch' or pre-trained weights."
        )
    return partial(FrozenBatchNorm2d if frozen else nn.BatchNorm2d, eps=eps)


def gives_nhwc(network: nn.Module) -> bool:
    """Return whether a network, or the one that it wraps, gives feature maps (B, H, W, C), as some of timm's do.

    A map's shape does not show it: its height may be its number of channels.
    """
    while isinstance(body := getattr(network, "body", None), nn.Module):
        network = body
    return getattr(network, "output_fmt", "NCHW") == "NHWC"
