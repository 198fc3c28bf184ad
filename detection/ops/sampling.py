"""Boxes sampled for a loss, uniformly without replacement, in all images at once.

torchvision's `BalancedPositiveNegativeSampler` permutes the positives and the negatives of one image after another:
12 operations an image, 4 of which wait for a GPU. Here each box draws a random key, and those with the largest are
taken; the rule for the numbers of positives and negatives is the same.

B images, N boxes of one, P and Q the most positives and negatives that are sampled.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from detection.ops.box_matching import NEGATIVE, POSITIVE


@dataclass(frozen=True)
class Sample:
    """Sampled boxes of each image.

    Attributes:
        positive: (B, P) indices of boxes.
        is_positive: (B, P) false where there were fewer.
        negative: (B, Q) indices of boxes.
        is_negative: (B, Q) false where there were fewer.
    """

    positive: Tensor
    is_positive: Tensor
    negative: Tensor
    is_negative: Tensor

    def ascending(self, boxes: int) -> tuple[Tensor, list[int]]:
        """Return both of N `boxes` as `in_order` does."""
        positive = self.positive.masked_fill(~self.is_positive, boxes)
        taken = torch.cat([positive, self.negative.masked_fill(~self.is_negative, boxes)], 1)
        return _ascending(taken, boxes)


def in_order(chosen: Tensor) -> tuple[Tensor, list[int]]:
    """Return the indices of what is true in booleans (B, N), with one wait for a GPU.

    Returns:
        Ascending indices (B, n), padded by any, and the number of each image.
    """
    places = torch.arange(chosen.shape[1], device=chosen.device)
    return _ascending(torch.where(chosen, places, chosen.shape[1]), chosen.shape[1])


def _ascending(taken: Tensor, boxes: int) -> tuple[Tensor, list[int]]:
    taken = taken.sort(1).values
    return taken.clamp(max=boxes - 1), (taken < boxes).sum(1).tolist()


def random_keys(states: Tensor) -> Tensor:
    """Draw a key in [0, 1) for each box (B, N)."""
    return torch.rand(states.shape, device=states.device)


def sample_boxes(states: Tensor, batch_size_per_image: int, positive_fraction: float) -> Sample:
    """Sample boxes by their states (B, N), as `detection.ops.box_matching` names them.

    Args:
        states: positive, negative, or neither.
        batch_size_per_image: boxes of an image, fewer where it has fewer.
        positive_fraction: most of them that are positive; negatives take the rest.
    """
    # Keys are at least 0: −1 marks what `topk` returns for lack of others, as a fixed size waits for no GPU.
    keys = random_keys(states)
    most = min(int(batch_size_per_image * positive_fraction), states.shape[1])
    key, positive = torch.where(states == POSITIVE, keys, -1).topk(most, 1)
    is_positive = key >= 0
    key, negative = torch.where(states == NEGATIVE, keys, -1).topk(min(batch_size_per_image, states.shape[1]), 1)
    rank = torch.arange(key.shape[1], device=key.device)
    is_negative = (key >= 0) & (rank < batch_size_per_image - is_positive.sum(1, keepdim=True))
    return Sample(positive, is_positive, negative, is_negative)
