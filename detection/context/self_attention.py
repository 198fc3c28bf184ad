"""Multi-head self-attention over the feature map (Vaswani et al. 2017), with rotary positions in two dimensions."""

# B images, C channels, D hidden channels, H×W map, N heads, L = H·W locations.

from typing import Annotated

import torch
from torch import Tensor, nn

from detection.context.masked_attention import masked_attention
from detection.contracts import Context
from detection.errors import UserError
from detection.ranges import Channels, Count, ProperFraction, Range


class SelfAttention(Context):
    """Transformer blocks with the norm first: attention of every location to all valid ones, then a pointwise MLP.

    Queries and keys are turned by their row in one half of a head's channels and by their column in the other ("axial"
    rotary embedding; Su et al. 2021, Heo et al. 2024), so that a score depends on the position of one relative to the
    other, at any map size. Each block's last layers are zero at first: the output then is the input, or its projection
    to `hidden_channels`.

    Args:
        in_channels: channels of the input.
        hidden_channels: channels of the blocks and of the output; None for `in_channels`.
        num_heads: attention heads; `hidden_channels` is a multiple of four times as many.
        num_layers: blocks.
        expansion: channels of the MLP in units of `hidden_channels`; 0 for attention alone.
        dropout: of the attention weights, in training.

    Raises:
        UserError: channels that are not a multiple of four times `num_heads`.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        hidden_channels: Channels | None = None,
        num_heads: Count = 4,
        num_layers: Count = 1,
        expansion: Annotated[int, Range(0, 16)] = 2,
        dropout: ProperFraction = 0.0,
    ) -> None:
        super().__init__()
        hidden = hidden_channels or in_channels
        if hidden % (4 * num_heads):
            raise UserError(
                f"context.hidden_channels={hidden}: rotary positions need a multiple of 4 channels in each of "
                f"num_heads={num_heads} heads: a multiple of {4 * num_heads}."
            )
        self.out_channels = hidden
        self.project = nn.Conv2d(in_channels, hidden, 1) if hidden != in_channels else nn.Identity()
        self.blocks = nn.ModuleList(_Block(hidden, num_heads, expansion, dropout) for _ in range(num_layers))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return the context (B, `out_channels`, H, W) of x (B, C, H, W)."""
        x = self.project(x * valid)
        size, x = x.shape[2:], x.flatten(2).transpose(1, 2)  # (B, L, D)
        mask = valid.flatten(2).transpose(1, 2)  # (B, L, 1)
        for block in self.blocks:
            x = block(x, mask, size)
        return (x * mask).transpose(1, 2).unflatten(2, size)  # (B, D, H, W)


class _Block(nn.Module):
    def __init__(self, channels: int, num_heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.norm, self.qkv = nn.LayerNorm(channels), nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        wide = expansion * channels
        self.mlp = None
        if expansion:
            widen, narrow = nn.Linear(channels, wide), nn.Linear(wide, channels)
            self.mlp = nn.Sequential(nn.LayerNorm(channels), widen, nn.GELU(), narrow)
        for part in self.qkv.weight.data.chunk(3):  # three matrices, each with the fan-out of one
            nn.init.xavier_uniform_(part)
        last = [self.out] if self.mlp is None else [self.out, self.mlp[-1]]
        for linear in (self.qkv, *last):
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]
        for linear in last:
            nn.init.zeros_(linear.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor, mask: Tensor, size: torch.Size) -> Tensor:
        """Return the block's output (B, L, D) of x (B, L, D) under booleans `mask` (B, L, 1)."""
        qkv = self.qkv(self.norm(x)).unflatten(2, (3, self.num_heads, -1))  # (B, L, 3, N, D / N)
        parts = qkv.permute(2, 0, 3, 1, 4)  # (3, B, N, L, D / N)
        query, key = rotate(parts[:2], size)
        attended = masked_attention(query, key, parts[2], mask[..., 0], dropout=self.dropout if self.training else 0.0)
        x = x + self.out(attended.transpose(1, 2).flatten(2))  # (B, L, D)
        return x if self.mlp is None else x + self.mlp(x)


def rotate(x: Tensor, size: tuple[int, int] | torch.Size, base: float = 100.0) -> Tensor:
    """Turn pairs of channels by angles proportional to the row, in the first half, and to the column, in the second.

    Args:
        x: (…, H·W, E), E a multiple of 4; channels k and k + E/4 of a half are a pair.
        size: (H, W).
        base: pair k of E/4 turns by base^(-4k/E) a location: 100, as Heo et al. 2024 choose for axes of images.

    Returns:
        The same shape; products of two turned vectors depend on the difference of their locations.
    """
    height, width = size
    pairs = x.shape[-1] // 4
    rates = base ** -(torch.arange(pairs, device=x.device, dtype=torch.float32) / pairs)
    rows = torch.arange(height, device=x.device)[:, None].expand(-1, width).flatten()  # (L,)
    columns = torch.arange(width, device=x.device).repeat(height)  # (L,)
    # In float32 at least: half precision has no exact integers of a long line times a rate.
    angles = torch.stack([rows, columns], 1)[..., None] * rates  # (L, 2, E / 4)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.unflatten(-1, (2, 2, pairs)).unbind(-2)  # (…, L, 2, E / 4) each
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -2).flatten(-3)  # (…, L, E)
