"""Batch and group norm whose statistics are those of the valid cells, so that padding changes nothing."""

import torch
from torch import Tensor, nn


class MaskedBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over valid cells; with all cells valid it is the same."""

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:  # type: ignore[override]
        """Normalize.

        Args:
            x: (B, C, H, W).
            valid: (B, 1, H, W) booleans.
        """
        if not self.training:
            return super().forward(x)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        count = valid.sum()
        mean, variance = _moments(exact, valid, (0, 2, 3))
        self._keep(mean.detach().flatten(), variance.detach().flatten(), count)
        y = (exact - mean) * (variance + self.eps).rsqrt() * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(x.dtype)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics, unless there was no valid cell."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        some = (count > 0).to(mean.dtype)
        weight = some * (self.momentum if self.momentum is not None else 1 / (self.num_batches_tracked + 1))
        self.num_batches_tracked += some.to(self.num_batches_tracked.dtype)
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight.to(self.running_mean.dtype))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), weight.to(self.running_var.dtype))


class MaskedGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` over valid cells; with all cells valid it is the same."""

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:  # type: ignore[override]
        """Normalize each image.

        Args:
            x: (B, C, H, W).
            valid: (B, 1, H, W) booleans.
        """
        exact = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, (self.num_groups, -1))
        mean, variance = _moments(exact, valid[:, None], (2, 3, 4))
        y = ((exact - mean) * (variance + self.eps).rsqrt()).flatten(1, 2)
        return (y * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def _moments(x: Tensor, valid: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance over the valid cells of some dimensions, which stay with size 1; 0 where none is."""
    one_each = valid.expand(*x.shape[:1], *(x.shape[d] if d in dims else 1 for d in range(1, x.ndim)))
    count = one_each.sum(dims, keepdim=True).clamp(min=1)
    mean = (x * valid).sum(dims, keepdim=True) / count
    variance = ((x - mean) * valid).square().sum(dims, keepdim=True) / count
    return mean, variance
