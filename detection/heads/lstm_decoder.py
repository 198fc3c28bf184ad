"""A recurrent decoder of boxes: descriptors in, one box after another out (Stewart et al. 2016, ReInspect).

Every region is decoded alone: the cell sees the same descriptor at every step, begins with a state of zeros, and
after each step a linear layer reads a box and the class scores from its output.
"""

# R regions, F features of a descriptor, T steps, K classes, D hidden size.

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from detection.cells import LSTM, Cell, State, build_cell, with_short_memory
from detection.ranges import Channels, Count, Positive, ProperFraction


@dataclass(frozen=True)
class Decoded:
    """Output of a decoder; T may be less than its steps where it stopped early.

    Attributes:
        codes: (R, T, 4) boxes, in units of the decoder.
        logits: (R, T, 1 + K) class scores, the background first.
        hidden: (R, T, D) the outputs of the last layer.
        going: (R, T) booleans: the region had not stopped before this step or at it.
    """

    codes: Tensor
    logits: Tensor
    hidden: Tensor
    going: Tensor


class LSTMDecoder(nn.Module):
    """Descriptors (R, F) → T boxes and class scores of each.

    Args:
        in_features: F.
        num_classes: K, foreground classes.
        num_steps: T, boxes of a region.
        cell: any of `detection.cells`; ReInspect's own is `TiedLSTM`, without biases. Unless it names
            an `init`, its memory is short at first: the steps are few.
        hidden_size: D.
        layers: cells on top of each other.
        shared_heads: read all steps by the same linear layers; ReInspect has some for each step.
        dropout: of a cell's output, on its way to the linear layers and to the next cell.
        init_range: initialize all weights uniformly in ± this and biases as 0, as ReInspect does (0.1); None: as each
            class does.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        num_steps: Count = 5,
        cell: partial[Cell] = partial(LSTM),
        hidden_size: Channels = 250,
        layers: Count = 1,
        shared_heads: bool = False,
        dropout: ProperFraction = 0.15,
        init_range: Positive | None = None,
    ) -> None:
        super().__init__()
        self.num_steps, self.hidden_size = num_steps, hidden_size
        self.dropout, self.shared_heads = nn.Dropout(dropout), shared_heads
        inputs = (in_features, *(hidden_size,) * (layers - 1))
        self.cells = nn.ModuleList(build_cell(with_short_memory(cell), hidden_size, size) for size in inputs)
        heads = 1 if shared_heads else num_steps
        # One product reads both: the box's four rows, then the classes'.
        self.weight = nn.Parameter(torch.empty(heads, 4 + 1 + num_classes, hidden_size))
        self.bias = nn.Parameter(torch.zeros(heads, 4 + 1 + num_classes))
        bound = 1 / math.sqrt(hidden_size)
        nn.init.uniform_(self.weight, -bound, bound)
        if init_range is not None:
            for name, parameter in self.named_parameters():
                nn.init.zeros_(parameter) if "bias" in name else nn.init.uniform_(parameter, -init_range, init_range)

    def forward(self, x: Tensor, stop_below: float | None = None) -> Decoded:
        """Decode.

        Args:
            x: (R, F).
            stop_below: a region stops at its first step whose probability of being background is above one minus
                this, and decoding ends when all have; None: none stops.
        """
        first, *others = cast(Iterable[Cell], self.cells)
        projected = first.project(x)  # the input is the same at every step
        states: list[State | None] = [None] * len(self.cells)
        steps: list[tuple[Tensor, Tensor, Tensor]] = []
        going = torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
        # A trace has every step: where its example stops, other regions may go on.
        may_end = stop_below is not None and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        for t in range(self.num_steps):
            states[0] = state = first.advance(projected, states[0])
            h = self._drop(state[0])
            for layer, cell in enumerate(others, start=1):
                states[layer] = state = cell(h, states[layer])
                h = self._drop(state[0])
            read = self._read(h, t)
            if stop_below is not None:
                going = going & (read[:, 4:].softmax(-1)[:, 0] <= 1 - stop_below)
            steps.append((read, h, going))
            if may_end and not going.any():
                break
        read, hidden, all_going = (torch.stack(seen, 1) for seen in zip(*steps, strict=True))
        return Decoded(read[..., :4], read[..., 4:], hidden, all_going)

    def _drop(self, h: Tensor) -> Tensor:
        return self.dropout(h) if self.dropout.p else h

    def _read(self, h: Tensor, t: int) -> Tensor:
        """Return box and class scores (R, 4 + 1 + K), in float32 or wider."""
        place = 0 if self.shared_heads else t
        with torch.autocast(h.device.type, enabled=False):
            return linear(h, self.weight[place], self.bias[place])
