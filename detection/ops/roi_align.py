"""RoIAlign (He et al. 2017) over the levels of a pyramid: torchvision's, or where gradients are needed one of our own.

Ours is used where it is faster, in training on a CPU; its backward also where a GPU must repeat to the bit:
torchvision's adds with atomics in any order there, and under deterministic algorithms it replaces the operation by a
composition of others, forward too, which holds all samples of all channels at once. Without gradients descriptors are
torchvision's bit by bit; with them they are sums of the same terms in another order.

torchvision computes the bilinear weights of every sample again for every channel, reads or scatters one by one, and
keeps channels first. RoIAlign is linear in the map, out = W map, and a bin's weights are the product of its rows' and
its columns'. Here W is built once for both passes and all sources of a pool; out = W map and grad_map = Wᵀ grad_out are
one `embedding_bag` each, with channels as columns. The order of sums is fixed, so results are repeatable.

Ours / torchvision's with backward in float32, medians of interleaved calls (2026-11-27, one thread on 2 shared cores,
torch 2.14):

    2 images, 1024 boxes on four levels 60x80 … 8x10, 256 channels, 7x7, S 2   0.10 (backward alone 0.06)
    8 images, 256 boxes on one map 32x32, 64 channels, 7x7, S 1                0.16 to 0.23
    2 images, 128 boxes on one map 24x24, 64 channels, 7x7, S 4                0.09

Other methods to multiply by Wᵀ took longer: CSR 1.1 to 1.8 times, CSC 1.2 to 1.9, `index_add_` 1.1 to 6.4. Building W
costs 0.6 ms and more whatever the channels: with 8 channels torchvision's was faster (1024 boxes: 1.1), with 16 or more
it is so below about 25 000 output values (R·C·n·n). S above 4 was not measured, S 0 differs by box: both are
torchvision's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag
from torchvision.ops import roi_align as torchvision_roi_align

# B images, C channels, H×W map, R regions of all images and levels, n bins on a side, S samples on a side of a bin.

MIN_CHANNELS = 16
MIN_VALUES = 32_768  # R·C·n·n
MAX_SAMPLES = 4


def roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    output_size: int,
    sampling_ratio: int,
) -> Tensor:
    """Pool descriptors (R, C, n, n) of boxes, each from the feature map of its level.

    Args:
        features: (B, C, H, W) of each level.
        rois: (R, 5), the index of the image in the batch and the box xyxy in pixels of the input.
        levels: (R,) integers, the index in `features` of the map each box reads; for any other index its descriptor
            is 0.
        scales: map locations per pixel of the input, by level.
        output_size: n.
        sampling_ratio: S; 0 adapts to the box.
    """
    args = (rois, levels, scales, output_size, sampling_ratio)
    if _must_repeat(features, sampling_ratio) or _pays(features, rois, output_size, sampling_ratio):
        return _RoIAlign.apply(*args, *features)
    return _forward(features, *args)


def _must_repeat(features: Sequence[Tensor], sampling_ratio: int) -> bool:
    """Return whether torchvision's operation would be replaced by its deterministic composition."""
    return torch.are_deterministic_algorithms_enabled() and features[0].device.type != "cpu" and sampling_ratio > 0


def _pays(features: Sequence[Tensor], rois: Tensor, output_size: int, sampling_ratio: int) -> bool:
    """Return whether a backward pass will follow, and ours is faster."""
    channels = features[0].shape[1]
    return (
        torch.is_grad_enabled()
        and any(m.requires_grad for m in features)
        and features[0].device.type == "cpu"
        and (rois.dtype in (torch.float32, torch.float64) or torch.is_autocast_enabled("cpu"))
        and 0 < sampling_ratio <= MAX_SAMPLES
        and channels >= MIN_CHANNELS
        and len(rois) * channels * output_size**2 >= MIN_VALUES
    )


def _forward(
    features: Sequence[Tensor], rois: Tensor, levels: Tensor, scales: Sequence[float], n: int, samples: int
) -> Tensor:
    """Pool level by level with torchvision's operation, and restore the order of `rois`."""
    if len(features) == 1:
        return _of_one_map(features[0], rois, n, scales[0], samples)
    pooled = features[0].new_zeros(len(rois), features[0].shape[1], n, n)
    # One wait for the numbers of all levels; a `where` for each would be as many.
    of_level = levels == torch.arange(len(features), device=levels.device)[:, None]  # (L, R)
    counts = of_level.sum(1).tolist()
    rows = torch.where(of_level.any(0), levels, len(features)).argsort(stable=True)
    # Boxes of no level come last, and their descriptors stay 0.
    rows_of_levels = rows.split([*counts, len(rows) - sum(counts)])[:-1]
    for places, feature_map, scale in zip(rows_of_levels, features, scales, strict=True):
        found = _of_one_map(feature_map, rois[places], n, scale, samples)
        # Under autocast the maps may have different types; an operation in place is not cast for us.
        pooled.index_copy_(0, places, found.to(pooled.dtype))
    return pooled


def _of_one_map(feature_map: Tensor, rois: Tensor, n: int, scale: float, samples: int) -> Tensor:
    if _must_repeat([feature_map], samples):
        # The operation itself, whose forward repeats.
        return torch.ops.torchvision.roi_align(feature_map, rois, scale, n, n, samples, False)
    return torchvision_roi_align(feature_map, rois, n, scale, samples)


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rois, levels, scales, n, samples, *features):
        ctx.save_for_backward(rois, levels)
        ctx.scales, ctx.samples = scales, samples
        ctx.shapes = [m.shape for m in features]
        if features[0].device.type != "cpu":
            # There torchvision's forward repeats, and only the backward is ours.
            return _forward(features, rois, levels, scales, n, samples)
        dtype = torch.float64 if features[0].dtype == torch.float64 else torch.float32
        weights = _last_weights(rois.to(dtype), levels, scales, ctx.shapes, n, samples)
        # (locations of all levels, C)
        rows = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]) for m in features]).to(dtype)
        descriptors = weights.by_bin(rows).view(len(rois), n, n, rows.shape[1]).permute(0, 3, 1, 2)  # (R, C, n, n)
        return descriptors.to(features[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rois, levels = ctx.saved_tensors
        # Under autocast torchvision computes in float32; a double stays one.
        grad = grad if grad.dtype == torch.float64 else grad.float()
        weights = _last_weights(rois.to(grad.dtype), levels, ctx.scales, ctx.shapes, grad.shape[-1], ctx.samples)
        rows = grad.permute(0, 2, 3, 1).reshape(-1, grad.shape[1])  # (R·n·n, C)
        grads = weights.by_location(rows).split([b * h * w for b, _, h, w in ctx.shapes])
        # (B, C, H, W) each, in channels-last memory
        return (None,) * 5 + tuple(
            g.view(b, h, w, c).permute(0, 3, 1, 2) if needed else None
            for g, (b, c, h, w), needed in zip(grads, ctx.shapes, ctx.needs_input_grad[5:], strict=True)
        )


class _Weights:
    """W, of which row i holds the weights with which bin i reads the locations of all levels, without its zeros.

    Args:
        bins, locations, weights: of the entries, by increasing bin (each (entries,)).
        shape: how many bins and how many locations there are.
    """

    def __init__(self, bins: Tensor, locations: Tensor, weights: Tensor, shape: tuple[int, int]) -> None:
        self._bins, self._locations, self._weights, self._shape = bins, locations, weights, shape
        self._first_of_bin: Tensor | None = None
        self._sorted: tuple[Tensor, Tensor, Tensor] | None = None

    def by_bin(self, rows: Tensor) -> Tensor:
        """Return W rows: the values (bins, C) of `rows` (locations, C)."""
        if self._first_of_bin is None:
            self._first_of_bin = _firsts(self._bins, self._shape[0])
        return _sums(self._locations, rows, self._first_of_bin, self._weights)

    def by_location(self, rows: Tensor) -> Tensor:
        """Return Wᵀ rows: the gradients (locations, C) of `rows` (bins, C)."""
        if self._sorted is None:
            locations, order = self._locations.sort(stable=True)
            self._sorted = self._bins[order], _firsts(locations, self._shape[1]), self._weights[order]
        bins, firsts, weights = self._sorted
        return _sums(bins, rows, firsts, weights)


def _firsts(indices: Tensor, number: int) -> Tensor:
    """Return where each of so many indices begins in sorted ones, and their number (number + 1,)."""
    return torch.searchsorted(indices, torch.arange(number + 1, dtype=indices.dtype, device=indices.device)).int()


def _sums(read: Tensor, rows: Tensor, firsts: Tensor, weights: Tensor) -> Tensor:
    return embedding_bag(read, rows, firsts, mode="sum", per_sample_weights=weights, include_last_offset=True)


class _LastWeights:
    """`_weights` with a cache of one: a gradient needs its forward pass's.

    So do sources of a `SkipPool`, pooled once or, with a norm, twice, that read equal boxes. Comparing boxes by value
    takes a hundredth of the time.
    """

    def __init__(self) -> None:
        self._kept: tuple | None = None

    def __call__(
        self, rois: Tensor, levels: Tensor, scales: Sequence[float], shapes: Sequence[torch.Size], n: int, samples: int
    ) -> _Weights:
        settings = (tuple(scales), tuple((b, h, w) for b, _, h, w in shapes), n, samples, rois.dtype)
        if self._kept is not None:
            kept_settings, kept_rois, kept_levels, weights = self._kept
            if kept_settings == settings and torch.equal(kept_rois, rois) and torch.equal(kept_levels, levels):
                return weights
        weights = _weights(rois, levels, scales, shapes, n, samples)
        self._kept = (settings, rois.clone(), levels.clone(), weights)
        return weights


_last_weights = _LastWeights()


def _weights(
    rois: Tensor, levels: Tensor, scales: Sequence[float], shapes: Sequence[torch.Size], n: int, samples: int
) -> _Weights:
    """Return the weights with which the bins of `rois` read maps of these shapes."""
    firsts = [0]
    for b, _, h, w in shapes:
        firsts.append(firsts[-1] + b * h * w)
    known = (levels >= 0) & (levels < len(shapes))
    levels = torch.where(known, levels, 0)
    # One copy to the device for all numbers of the levels.
    numbers = [[h, w, first] for (_, _, h, w), first in zip(shapes, firsts, strict=False)]
    per_level = torch.tensor(numbers, device=rois.device)
    heights, widths, first_locations = per_level[levels].unbind(1)  # (R,) each
    x1, y1, x2, y2 = (rois[:, 1:] * rois.new_tensor(scales)[levels, None]).unbind(1)
    rows, row_weights = _axis(y1, y2, heights, n, samples)  # (R, n, 2S)
    row_weights = torch.where(known[:, None, None], row_weights, 0)
    columns, column_weights = _axis(x1, x2, widths, n, samples)
    first = first_locations + rois[:, 0].long() * heights * widths
    # Half the width sorts in half the time; locations and bins are far fewer than 2**31.
    rows, columns = (first[:, None, None] + rows * widths[:, None, None]).int(), columns.int()
    locations = rows[:, :, None, :, None] + columns[:, None, :, None, :]  # (R, n, n, 2S, 2S)
    weights = (row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]).flatten()  # (R·n·n·2S·2S,)
    kept = weights.nonzero().squeeze(1)
    bins = (kept // (2 * samples) ** 2).int()
    return _Weights(bins, locations.flatten()[kept], weights[kept], (len(rois) * n * n, firsts[-1]))


def _axis(low: Tensor, high: Tensor, size: Tensor, n: int, samples: int) -> tuple[Tensor, Tensor]:
    """Return the indices (R, n, 2S) that each bin reads along one axis, and their weights; each index has one weight.

    Boxes reach from `low` to `high` (R,) in units of their map, which has the length `size` (R,).
    """
    # As torchvision's, not `aligned`: a box is at least a location long.
    step = ((high - low).clamp(min=1) / n)[:, None, None]
    bins = torch.arange(n, dtype=low.dtype, device=low.device)[:, None]
    within = torch.arange(samples, dtype=low.dtype, device=low.device) + 0.5
    place = low[:, None, None] + bins * step + within * step / samples  # (R, n, S)
    size = size[:, None, None]
    inside = (place >= -1) & (place <= size)  # torchvision's rule: up to 1 outside counts as the border
    place = place.clamp(min=0).minimum(size - 1)
    near = place.long()
    far_weight = place - near
    index = torch.stack([near, (near + 1).minimum(size - 1)], -1).flatten(-2)  # (R, n, 2S)
    weight = torch.stack([1 - far_weight, far_weight], -1) / samples
    weight = torch.where(inside[..., None], weight, 0).flatten(-2)  # (R, n, 2S)
    # An index that two samples read gets the sum of their weights once, and 0 the second time.
    same = index[..., :, None] == index[..., None, :]
    weight = (same * weight[..., None, :]).sum(-1)
    return index, weight.masked_fill(same.tril(-1).any(-1), 0)
