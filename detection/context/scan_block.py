"""The block around the recurrence of Mamba and its successors (Gu, Dao 2023), around any context.

    x ─ norm ─┬─ 1×1 ─ depthwise 3×3, SiLU ─► mixer ─ norm ─► ⊙ ─ 1×1 ─► + x
              └─ 1×1 ─ SiLU ──────────────────────────────────┘

The last 1×1 convolution starts at zero, so that the block returns its input until it is trained. Both norms read one
location at a time: a group norm would mix an image's locations.
"""

# B images, C channels, H×W map.

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detection.context.by_location import initialize_parts, over_rms
from detection.context.spatial_rnn import SpatialRNN
from detection.contracts import Context, at_least_float32
from detection.ranges import Channels


class ScanBlock(Context):
    """A gated residual block around a context; a location depends on what the mixer sees around its neighbors.

    Args:
        in_channels: channels of the input and of the output.
        mixer: the context inside.
        hidden_channels: channels that the mixer reads; None for `in_channels`.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        mixer: partial[Context] = partial(SpatialRNN, hidden_channels=64),
        hidden_channels: Channels | None = None,
    ) -> None:
        super().__init__()
        size = hidden_channels or in_channels
        self.out_channels = in_channels
        self.mixer = mixer(size)
        mixed = self.mixer.out_channels
        self.sizes = (size, mixed)
        self.scale = nn.Parameter(torch.ones(in_channels))
        self.branches = nn.Conv2d(in_channels, size + mixed, 1)
        initialize_parts(self.branches, self.sizes)
        self.depthwise = nn.Conv2d(size, size, 3, padding=1, groups=size)
        self.mixed_scale = nn.Parameter(torch.ones(mixed))
        self.output = nn.Conv2d(mixed, in_channels, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return x (B, C, H, W) and what the mixer adds to it, in the type of x; `valid` is (B, 1, H, W)."""
        x = torch.where(valid, x, 0)
        read, gate = self.branches(_normalized(x, self.scale)).split(self.sizes, 1)
        # A bias is outside of the image, too, and the kernels reach beyond its border.
        y = self.mixer(F.silu(self.depthwise(read * valid)) * valid, valid)
        y = _normalized(y, self.mixed_scale) * F.silu(gate)
        return (x + self.output(y).to(x.dtype)) * valid


def _normalized(x: Tensor, scale: Tensor) -> Tensor:
    """Divide x (B, C, H, W) at each location by its root mean square over channels, in float32 or wider, times `scale`.

    The result has the type of `scale` (C,).
    """
    with torch.autocast(x.device.type, enabled=False):
        return over_rms(at_least_float32(x), at_least_float32(scale)).to(scale.dtype)
