"""Initializations of recurrent cells, as functions of the hidden size: how much a cell remembers before it has learned.

A cell takes one of them as `init=partial(chrono, longest=40)`. A gate with a bias b keeps σ(b)^t of the state over t
steps: over 40 steps 1e-12 at b = 0, 4e-6 at b = 1, and 0.76 at b = 5.
"""

# D hidden size.

from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from detection.ranges import PositiveFraction, ProperFraction, Range

Longest = Annotated[int, Range(3, 100_000)]
"""Locations of the longest line that is expected."""


class Initialization(NamedTuple):
    """Initial values of a cell from a function of this module; None is PyTorch's, or that of the cell's paper.

    Attributes:
        keep: (D,) logits of the share of the state that a step keeps, wherever the cell has a gate for it.
        take: (D,) logits of a separate input gate, such as the LSTM's.
        recurrent: (D, D), each recurrent matrix of the cell.
    """

    keep: Tensor | None = None
    take: Tensor | None = None
    recurrent: Tensor | None = None


def framework_default(hidden_size: int) -> Initialization:
    """Leave a cell as PyTorch initializes it; gates of ours without a model there are half open."""
    return Initialization()


def forget_bias(hidden_size: int, *, value: float = 5.0) -> Initialization:
    """Keep σ(value) of the state of every channel (1: Jozefowicz et al. 2015; 5 keeps 0.76 over 40 steps)."""
    return Initialization(keep=torch.full((hidden_size,), float(value)))


def chrono(hidden_size: int, *, longest: Longest = 40) -> Initialization:
    """Spread memories over all lengths: bias log u, u uniform in [1, T − 1], its negative for the input (Tallec 2018).

    Args:
        hidden_size: D.
        longest: T, locations of the longest line that is expected; a channel with u keeps 1/e over about u steps.
    """
    keep = torch.empty(hidden_size).uniform_(1, longest - 1).log_()
    return Initialization(keep=keep, take=-keep)


def uniform_gate(hidden_size: int) -> Initialization:
    """Draw the share that is kept uniformly from [1/D, 1 − 1/D], and take in the rest (Gu et al. 2020).

    That is from [0.1, 0.9] where D is below 10.
    """
    edge = 1 / max(hidden_size, 10)
    keep = torch.logit(torch.empty(hidden_size).uniform_(edge, 1 - edge))
    return Initialization(keep=keep, take=-keep)


def uniform_decay(hidden_size: int, *, low: PositiveFraction = 0.9, high: ProperFraction = 0.999) -> Initialization:
    """Draw the share that is kept uniformly from [low, high], as the RG-LRU's authors (De et al. 2024)."""
    return Initialization(keep=torch.logit(torch.empty(hidden_size).uniform_(min(low, high), max(low, high))))


def scaled_identity(hidden_size: int, *, scale: float = 1.0) -> Initialization:
    """Make each recurrent matrix a multiple of the identity (Le, Jaitly, Hinton 2015)."""
    return Initialization(recurrent=scale * torch.eye(hidden_size))


def orthogonal(hidden_size: int, *, gain: float = 1.0) -> Initialization:
    """Draw a random orthogonal recurrent matrix, which keeps the length of a state (Henaff et al. 2016)."""
    return Initialization(recurrent=torch.nn.init.orthogonal_(torch.empty(hidden_size, hidden_size), gain))
