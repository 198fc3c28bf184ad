"""Global context by T attention steps over the feature map (AC-CNN, Li et al. 2017, section 3.2, after Sharma 2015).

    a(t) = softmax over locations i of score_i(h(t−1)),     (1)
    g(t) = Σ a_i(t) x_i, of which g(T) is the output,       (2)
    h(t) = LSTMs(g(t), h(t−1))                              (3)

The paper's sizes (20×20 locations, three layers) and its linear score are recalled, not read. Here the output of the
last layer is not needed once g(T) is known, so the layers run T − 1 times.
"""

# B images, C channels, H×W map, k×k locations of the pooled map (k ≤ K), D hidden, L layers, T attention steps.

from collections.abc import Callable
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from detection.cells import LSTM, Cell, State, build_cell, with_short_memory
from detection.context.by_location import linear_wide
from detection.contracts import Context, at_least_float32
from detection.errors import UserError
from detection.ranges import Channels, Count

Score = Callable[[Tensor], Tensor]
"""From h (B, D) of the last layer to the scores (B, k·k) of the pooled map's locations."""


class AttentionLSTM(Context):
    """The features that stacked recurrent layers attend to in their last step, the same vector at every location.

    The map is pooled to at most K×K locations of equal share of each image, and never enlarged. The initial state is
    computed from their mean by a small perceptron.

    Args:
        in_channels: C, channels of the input and of the output.
        cell: the recurrent cell, a partial of a `Cell`. Unless it names an `init`, its memory is short at first:
            the steps are few.
        hidden_channels: D, channels of a cell's state.
        num_layers: L, stacked cells.
        num_steps: T.
        size: K, most locations on a side of the pooled map.
        score: of location i by the last layer's state h. `linear`: W_i·h, by position and not by features (on fewer
            than K×K locations, with the weights of the nearest relative position). `additive`:
            u·tanh(W x_i + V h + b), by features and not by position.

    Raises:
        UserError: a cell with `learned_initial_state=True`.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        cell: partial[Cell] = partial(LSTM),
        hidden_channels: Channels = 512,
        num_layers: Count = 3,
        num_steps: Count = 3,
        size: Count = 20,
        score: Literal["linear", "additive"] = "linear",
    ) -> None:
        super().__init__()
        self.num_steps, self.size, self.out_channels = num_steps, size, in_channels
        # A single attention step needs the initial state alone, and layers that never run would be idle weights.
        layers = num_layers if num_steps > 1 else 0
        widths = [in_channels, *[hidden_channels] * (layers - 1)] if layers else []
        self.cells = nn.ModuleList(build_cell(with_short_memory(cell), hidden_channels, width) for width in widths)
        if any(c.initial is not None for c in self.cells):
            raise UserError(
                "cell.learned_initial_state=True: AttentionLSTM computes initial states of the features; leave it out."
            )
        # Sizes of each layer's states that are computed from the features, and of its flags; without layers h alone.
        own = [(c.state_sizes, c.num_flags) for c in cast(list[Cell], list(self.cells))] or [((hidden_channels,), 0)]
        self.states, self.flags = zip(*((s[: len(s) - n], s[len(s) - n :]) for s, n in own), strict=True)
        self.initial_state = nn.Sequential(
            nn.Linear(in_channels, hidden_channels),
            nn.Tanh(),
            nn.Linear(hidden_channels, sum(map(sum, self.states))),
            nn.Tanh(),
        )
        scores = {"linear": partial(_LinearScore, size=size), "additive": partial(_AdditiveScore, in_channels)}
        self.score = scores[score](hidden_channels)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return g(T) at every location (B, C, H, W) of x (B, C, H, W).

        `valid` (B, 1, H, W) is a rectangle from the top left of each image.
        """
        attended, _ = self._attend(x, *_shares(valid, self.size))
        return attended[:, :, None, None].to(x.dtype) * valid

    def attention_weights(self, x: Tensor, valid: Tensor) -> Tensor:
        """Compute the attention weights of each step of `forward`.

        Returns:
            (B, T, H, W), float32 or wider, with a sum of 1 over the valid locations of an image and 0 elsewhere; the
            weight of a pooled location is spread over those it was pooled from.
        """
        rows, columns = _shares(valid, self.size)
        _, weights = self._attend(x, rows, columns)
        weights = weights.unflatten(2, (rows.shape[1], columns.shape[1]))  # (B, T, k, k)
        with torch.autocast(x.device.type, enabled=False):
            # (B, 1, H, k) by (B, T, k, k) by (B, 1, k, W)
            return rows.transpose(1, 2)[:, None].to(weights) @ weights @ columns[:, None].to(weights)

    def _attend(self, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return g(T) (B, C) and the weights of all steps (B, T, k·k), given the pooling of rows and of columns."""
        with torch.autocast(x.device.type, enabled=False):
            x = at_least_float32(x)
            rows, columns = rows.to(x.dtype), columns.to(x.dtype)
            # A weight of 0 alone would keep what is not finite outside of the valid rectangle.
            inside = (rows.sum(1) > 0)[:, None, :, None] & (columns.sum(1) > 0)[:, None, None, :]  # (B, 1, H, W)
            pooled = rows[:, None] @ torch.where(inside, x, 0.0) @ columns.transpose(1, 2)[:, None]  # (B, C, k, k)
            exists = ((rows.sum(2) > 0)[:, :, None] & (columns.sum(2) > 0)[:, None]).flatten(1)  # (B, k·k)
            pooled = pooled.flatten(2).transpose(1, 2)  # (B, k·k, C)
            score = self.score(pooled, rows, columns)
            states = self._initial_states(pooled.sum(1) / exists.sum(1, keepdim=True).clamp(min=1))
            attended, weights = pooled[:, :0].sum(1), []  # (B, C), which no step reads
            # Finite, so that an image without any valid location gives no NaN.
            lowest = torch.finfo(x.dtype).min
            for step in range(self.num_steps):
                if step:
                    states = self._advance(attended, states)  # equation (3)
                weights.append(score(states[-1][0]).masked_fill(~exists, lowest).softmax(1))  # equation (1)
                attended = (weights[-1][:, None] @ pooled)[:, 0]  # equation (2)
        return attended, torch.stack(weights, 1)

    def _initial_states(self, mean: Tensor) -> list[State]:
        """Return the states of each layer (B, D) for the mean of the pooled map (B, C)."""
        # As `Sequential` would, in the type of the features also where the weights are in half precision.
        hidden = torch.tanh(linear_wide(self.initial_state[0], mean))
        layers = torch.tanh(linear_wide(self.initial_state[2], hidden)).split([sum(sizes) for sizes in self.states], 1)
        return [
            (*layer.split(sizes, 1), *(layer.new_zeros(len(mean), size) for size in flags))
            for layer, sizes, flags in zip(layers, self.states, self.flags, strict=True)
        ]

    def _advance(self, x: Tensor, states: list[State]) -> list[State]:
        """Return the next states of all layers, of which the first reads x (B, C), each other the layer below."""
        advanced = []
        for cell, state in zip(self.cells, states, strict=True):
            advanced.append(cell(x, state))
            x = advanced[-1][0]
        return advanced


class _LinearScore(nn.Module):
    """W_i·h for each location i of a K×K map; those of a smaller map use the weights of their relative position."""

    def __init__(self, hidden_channels: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_channels, size * size, bias=False)
        self.size = size

    def forward(self, pooled: Tensor, rows: Tensor, columns: Tensor) -> Score:
        row, column = (self._positions(shares) for shares in (rows, columns))
        position = (row[:, :, None] * self.size + column[:, None]).flatten(1)  # (B, k·k)
        return lambda h: linear_wide(self.linear, h).gather(1, position)

    def _positions(self, shares: Tensor) -> Tensor:
        """Return the position (B, k) among K of each of an image's n ≤ k locations: (i + 1/2)·K/n, rounded down."""
        count = (shares.sum(2) > 0).sum(1, keepdim=True).clamp(min=1)
        index = torch.arange(shares.shape[1], device=shares.device)
        return ((2 * index + 1) * self.size // (2 * count)).clamp(max=self.size - 1)


class _AdditiveScore(nn.Module):
    """u·tanh(W x_i + V h + b) (Bahdanau et al. 2015)."""

    def __init__(self, in_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.of_location = nn.Linear(in_channels, hidden_channels)
        self.of_state = nn.Linear(hidden_channels, hidden_channels, bias=False)
        self.out = nn.Linear(hidden_channels, 1, bias=False)

    def forward(self, pooled: Tensor, rows: Tensor, columns: Tensor) -> Score:
        projected = linear_wide(self.of_location, pooled)
        return lambda h: linear_wide(self.out, torch.tanh(projected + linear_wide(self.of_state, h)[:, None]))[..., 0]


def _shares(valid: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return adaptive average pooling of each image's valid rectangle as two matrices of row and column weights.

    Returns:
        (B, k, H) and (B, k', W) float32; a row of them has a sum of 1, or of 0 where the image has fewer locations.
    """
    return _shares_of_line(valid[:, 0].any(2), size), _shares_of_line(valid[:, 0].any(1), size)


def _shares_of_line(valid: Tensor, size: int) -> Tensor:
    """Pool n valid positions of a line (B, N): of m = min(n, K), i averages ⌊i·n/m⌋ … ⌈(i+1)·n/m⌉ − 1, as PyTorch."""
    positions = torch.arange(valid.shape[1], device=valid.device)
    count = valid.sum(1)[:, None, None]
    pooled = count.clamp(min=1, max=size)
    index = positions[:size, None]
    # Rounded up by a sum: an ONNX export would truncate the quotient of negative numbers.
    first, end = index * count // pooled, ((index + 1) * count + pooled - 1) // pooled
    inside = (positions >= first) & (positions < end) & (index < pooled) & (positions < count)
    return inside / inside.sum(2, keepdim=True).clamp(min=1)
