"""A small residual network for tests, the quick start and laptops: 0.5 M weights, random at first."""

from torch import Tensor, nn

from detection.backbones.backbone import BlockBackbone
from detection.ranges import Channels


class _Residual(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.skip, self.stride = nn.Conv2d(in_channels, out_channels, 1, bias=False), stride
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        # A 1×1 convolution with a stride: of fewer than 16 channels, channels last, oneDNN 3.12's backward pass writes
        # beyond its memory.
        skipped = self.skip(x[..., :: self.stride, :: self.stride])
        return self.relu(self.norm2(self.conv2(y)) + skipped)


class Tiny(BlockBackbone):
    """A stem at stride 2 and one residual block a stage.

    Args:
        channels: of `c2`, `c3`, …: one stage each.
        stem_channels: channels of the stem, at stride 2.
    """

    def __init__(self, channels: tuple[Channels, ...] = (32, 64, 96, 128), stem_channels: Channels = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem_channels, 3, 2, 1, bias=False), nn.BatchNorm2d(stem_channels), nn.ReLU(inplace=True)
        )
        inputs = (stem_channels, *channels)
        self.out_channels = {f"c{k}": c for k, c in enumerate(channels, start=2)}
        self.strides = {name: 2 ** int(name[1:]) for name in self.out_channels}
        self.blocks = nn.ModuleDict(
            {name: _Residual(inputs[i], c, 2) for i, (name, c) in enumerate(self.out_channels.items())}
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
