"""Memory layout of sweeps: channels last, states in float32 or wider, closed locations outside the image."""

# B images, C channels, H×W map, G gates of D channels.

import torch
from torch import Tensor


def state_type(x: Tensor) -> torch.dtype:
    """Return the type of states and sums over x: float32, or float64 where x is."""
    return torch.promote_types(x.dtype, torch.float32)


def as_rows(x: Tensor) -> Tensor:
    """Return a map (B, C, H, W) as contiguous (B, H, W, C), without a copy if it is channels last already."""
    return x.permute(0, 2, 3, 1).contiguous()


def as_map(rows: Tensor) -> Tensor:
    """Return (B, H, W, C) as a map (B, C, H, W) in channels-last memory."""
    return rows.permute(0, 3, 1, 2)


def empty_map(x: Tensor, channels: int) -> Tensor:
    """Return an uninitialized map of the size and type of x (B, …, H, W) in channels-last memory."""
    return as_map(x.new_empty(x.shape[0], x.shape[2], x.shape[3], channels))


def some_outside(valid: Tensor) -> bool:
    """Return whether a mask may close a location; on an accelerator it is not read, which would wait for the device."""
    return valid.device.type != "cpu" or not valid.all()


def close(rows: Tensor, valid: Tensor | None, *values: float) -> Tensor:
    """Return contiguous `rows` (B, H, W, G·D) with a value for each of G gates where `valid` (B, 1, H, W) is false."""
    if valid is None or not some_outside(valid):
        return rows
    # Filled gate by gate: a GPU would wait for a list of numbers.
    fill = torch.cat([rows.new_full((rows.shape[3] // len(values),), value) for value in values])
    # A mask of other strides would give its own to the result.
    return torch.where(as_rows(valid), rows, fill).contiguous()  # (B, H, W, G·D)
