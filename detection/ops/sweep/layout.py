"""Memory layout of sweeps: channels last, states in float32 or wider, closed locations outside the image."""

# B images, C channels, H×W map.

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


def some_outside(valid: Tensor | None) -> bool:
    """Return whether a mask may close a location; on an accelerator it is not read, which would wait for the device."""
    return valid is not None and not (valid.device.type == "cpu" and bool(valid.all()))


def close(rows: Tensor, valid: Tensor | None, value: float | Tensor) -> Tensor:
    """Return `rows` (B, H, W, C) with `value`, a number or (C,), at the locations outside of `valid` (B, 1, H, W)."""
    if valid is None or not some_outside(valid):
        return rows
    fill = torch.as_tensor(value, dtype=rows.dtype, device=rows.device)
    return torch.where(valid.permute(0, 2, 3, 1), rows, fill)  # (B, H, W, C)
