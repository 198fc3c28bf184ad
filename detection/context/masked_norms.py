"""Batch and group norm whose statistics are those of the valid locations, so that padding changes nothing."""

# B images, C channels, H×W map.

from collections.abc import Callable

import torch
from torch import Tensor, nn

from detection.contracts import at_least_float32


class MaskedBatchNorm(nn.Module):
    """`nn.BatchNorm2d` over valid locations; with all locations valid it is the same.

    Parameters and running statistics belong to `norm`. Where `nn.SyncBatchNorm.convert_sync_batchnorm` has replaced it,
    the statistics are those of all processes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm: nn.BatchNorm2d | nn.SyncBatchNorm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Normalize x (B, C, H, W) under booleans `valid` (B, 1, H, W)."""
        norm = self.norm
        if not norm.training:
            return norm(x)
        exact = at_least_float32(x)
        mean, variance = _moments(exact, valid, (0, 2, 3), self._over_processes)  # (1, C, 1, 1) each
        self._update(mean.detach().flatten(), variance.detach().flatten(), self._over_processes(valid.sum()))
        y = (exact - mean) * (variance + norm.eps).rsqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
        return y.to(x.dtype)

    def _over_processes(self, total: Tensor) -> Tensor:
        """Return the sum over processes of a batch norm that was converted, else `total` itself."""
        if not isinstance(self.norm, nn.SyncBatchNorm) or not torch.distributed.is_initialized():
            return total
        from torch.distributed.nn.functional import all_reduce  # builds without distributed have no such module

        return all_reduce(total, group=self.norm.process_group or torch.distributed.group.WORLD)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Update the running statistics by those (C,) of a batch, unless it had no valid location."""
        norm = self.norm
        if norm.num_batches_tracked is None:  # an activation checkpoint computes a batch again that is counted
            return
        assert norm.running_mean is not None and norm.running_var is not None
        some = (count > 0).to(mean.dtype)
        weight = some * (norm.momentum if norm.momentum is not None else 1 / (norm.num_batches_tracked + 1))
        norm.num_batches_tracked += some.to(norm.num_batches_tracked.dtype)
        # As in PyTorch, which normalizes by the biased variance and keeps the unbiased one.
        unbiased = variance * count / (count - 1).clamp(min=1)
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), weight.to(norm.running_mean.dtype))
        norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), weight.to(norm.running_var.dtype))


class MaskedGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` over valid locations; with all locations valid it is the same."""

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:  # type: ignore[override]
        """Normalize each image of x (B, C, H, W) under booleans `valid` (B, 1, H, W)."""
        # A reshape and not `unflatten`, which an ONNX export would fix at the example's size.
        shape = (x.shape[0], self.num_groups, self.num_channels // self.num_groups, *x.shape[2:])
        exact = at_least_float32(x).reshape(shape)  # (B, groups, C / groups, H, W)
        mean, variance = _moments(exact, valid[:, None], (2, 3, 4))
        y = ((exact - mean) * (variance + self.eps).rsqrt()).flatten(1, 2)  # (B, C, H, W)
        return (y * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def _moments(
    x: Tensor, valid: Tensor, dims: tuple[int, ...], total: Callable[[Tensor], Tensor] = lambda part: part
) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance over the valid locations of `dims`, kept with size 1; 0 where none is valid.

    Sums are passed through `total`, which may add those of other processes.
    """
    # Expanded to the shape of x, but with size 1 in the dimensions that are not summed, but for the batch.
    one_each = valid.expand(*x.shape[:1], *(x.shape[d] if d in dims else 1 for d in range(1, x.ndim)))
    count = total(one_each.sum(dims, keepdim=True)).clamp(min=1)
    mean = total((x * valid).sum(dims, keepdim=True)) / count
    variance = total(((x - mean) * valid).square().sum(dims, keepdim=True)) / count
    return mean, variance
