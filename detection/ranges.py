"""Ranges of numeric settings, which belong to their types: `Annotated[int, Range(1)]`.

A config is checked against these annotations where it is read, so that a typing error is one sentence there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """Values that a numeric setting may have.

    Attributes:
        low: least value.
        high: largest value; None for no limit.
        open_low: whether `low` itself is left out.
        open_high: whether `high` itself is left out.
    """

    low: float
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = self.high is None or (value < self.high if self.open_high else value <= self.high)
        return above and below and abs(value) != float("inf")

    def __str__(self) -> str:
        low = f"above {self.low}" if self.open_low else f"at least {self.low}"
        if self.high is None:
            return low
        return f"{low} and {'below' if self.open_high else 'at most'} {self.high}"


@dataclass(frozen=True)
class ReadAs:
    """A reader for settings that are no plain values: `Annotated[partial, ReadAs(read)]`.

    Attributes:
        read: from a value or plain data, and the key for errors, to the value; raises `UserError`.
    """

    read: Callable[[Any, str], Any]


Channels = Annotated[int, Range(1, 65_536)]
"""Width of a layer."""

Count = Annotated[int, Range(1, 1_000)]
"""How often something is repeated: layers, steps, levels."""

BoxCount = Annotated[int, Range(1, 1_000_000)]
"""How many boxes or regions are drawn or kept."""

Pixels = Annotated[int, Range(1, 100_000)]
"""A length in pixels."""

Bins = Annotated[int, Range(1, 64)]
"""Bins on a side of a descriptor."""

SamplingRatio = Annotated[int, Range(0, 64)]
"""Samples on a side of a bin; 0 adapts to the box."""

Level = Annotated[int, Range(0, 16)]
"""Logarithm to base 2 of a stride."""

ImagesAtOnce = Annotated[int, Range(1, 65_536)]
"""Images of one forward pass or update."""

ImageCount = Annotated[int, Range(0, 10_000_000)]
Seed = Annotated[int, Range(0, 2**63 - 1)]

Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]

Fraction = Annotated[float, Range(0, 1)]
"""A share, probability or IoU."""

PositiveFraction = Annotated[float, Range(0, 1, open_low=True)]
ProperFraction = Annotated[float, Range(0, 1, open_high=True)]
