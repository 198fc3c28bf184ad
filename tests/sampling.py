"""Torchvision's sampler of boxes with the draw of ours."""

import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from detection.ops import sampling


def torchvisions_sampler(monkeypatch, sampler, negatives=True, keys=None):
    """Return a sampler that permutes by keys (B, N), those that ours drew last if None; without negatives on request.

    Ours are padded to the image with the most boxes.
    """
    drawn = [keys]
    if keys is None:
        monkeypatch.setattr(sampling, "random_keys", lambda states: drawn.append(torch.rand(states.shape)) or drawn[-1])

    class Sampler(BalancedPositiveNegativeSampler):
        def __call__(self, matched_idxs):
            masks = [
                (mask, key) for own, key in zip(matched_idxs, drawn[-1], strict=True) for mask in (own >= 1, own == 0)
            ]
            orders = [key[: len(mask)][mask].argsort(descending=True) for mask, key in masks]
            with monkeypatch.context() as patch:
                patch.setattr(torch, "randperm", lambda n, device: orders.pop(0))
                positive, negative = super().__call__(matched_idxs)
            return positive, negative if negatives else [torch.zeros_like(n) for n in negative]

    return Sampler(sampler.batch_size_per_image, sampler.positive_fraction)
