"""Global context by attention (Li et al. 2017, AC-CNN, section 3.2, after Sharma et al. 2015): T attention steps at
the map.

    a(t) = softmax over cells of score(h(t−1)),   g(t) = Σ a_i(t) X_i,   h(t) = LSTMs(g(t), h(t−1)),   output g(T)

The paper's sizes (20×20 cells, three layers) and its linear score are recalled, not read. Here the output of the last
layer is not needed once g(T) is known, so the layers run T − 1 times.
"""

# B images, C channels, H×W map, k×k cells of the pooled map (k ≤ K), D hidden, L layers, T attention steps.

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from detection.cells import LSTM, State
from detection.errors import UserError

LSTM_CELL = partial(LSTM)


class AttentionLSTM(nn.Module):
    """What stacked recurrent layers looked at last, the same vector at every cell.

    The map is pooled to at most K×K cells of equal share of each image, and never enlarged. The state before the first
    attention step comes from the mean of the cells by a small perceptron.

    Args:
        in_channels: C, of the map and of the context.
        cell: the recurrent cell, a partial of a class of `detection.cells`.
        hidden_channels: D, of a cell's state.
        num_layers: L, cells on top of each other.
        num_steps: T.
        size: K, cells on a side of the pooled map, at most.
        score: how the last layer's state h rates a cell x_i. `linear`: W_i·h, a place has its own weights and what is
            seen there has none (where fewer than K×K cells are there, those of the nearest relative place).
            `additive`: u·tanh(W x_i + V h + b), what is seen is rated and not where.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        cell: partial = LSTM_CELL,
        hidden_channels: int = 512,
        num_layers: int = 3,
        num_steps: int = 3,
        size: int = 20,
        score: Literal["linear", "additive"] = "linear",
    ) -> None:
        super().__init__()
        least = {"num_layers": num_layers, "num_steps": num_steps, "size": size}
        for name, value in least.items():
            if value < 1:
                raise UserError(f"context.{name}={value}: must be 1 or more.")
        self.num_steps, self.size, self.out_channels = num_steps, size, in_channels
        # A single attention step is chosen by the first state alone, and layers that never run would be idle weights.
        layers = num_layers if num_steps > 1 else 0
        widths = [in_channels, *[hidden_channels] * (layers - 1)] if layers else []
        self.cells = nn.ModuleList(cell(hidden_channels, input_size=width) for width in widths)
        self.states = [c.num_states for c in self.cells] or [1]  # type: ignore[misc]
        self.initial_state = nn.Sequential(
            nn.Linear(in_channels, hidden_channels),
            nn.Tanh(),
            nn.Linear(hidden_channels, sum(self.states) * hidden_channels),  # type: ignore[arg-type]
            nn.Tanh(),
        )
        scores = {"linear": partial(_LinearScore, size=size), "additive": partial(_AdditiveScore, in_channels)}
        self.score = scores[score](hidden_channels)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """The last attention step, at every cell.

        Args:
            x: a feature map (B, C, H, W).
            valid: (B, 1, H, W) booleans, the cells inside each image: a rectangle from the top left.

        Returns:
            (B, C, H, W), 0 outside of `valid`.
        """
        seen, _ = self._look(x, *_shares(valid, self.size))
        return seen[:, :, None, None].to(x.dtype) * valid

    def glimpses(self, x: Tensor, valid: Tensor) -> Tensor:
        """Where each attention step of `forward` looks.

        Returns:
            Weights (B, T, H, W), float32 or wider, that add up to 1 over the valid cells of an image and are 0
            elsewhere; those of a pooled cell are spread over what it was made of.
        """
        rows, columns = _shares(valid, self.size)
        _, weights = self._look(x, rows, columns)
        weights = weights.unflatten(2, (rows.shape[1], columns.shape[1]))  # (B, T, k, k)
        return rows.mT[:, None].to(weights) @ weights @ columns[:, None].to(weights)

    def _look(self, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The last attention step (B, C) and the weights of all (B, T, k·k), given each cell's share of rows and columns."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            rows, columns = rows.to(x.dtype), columns.to(x.dtype)
            cells = rows[:, None] @ _without_padding(x, rows, columns) @ columns.mT[:, None]  # (B, C, k, k)
            there = ((rows.sum(2) > 0)[:, :, None] & (columns.sum(2) > 0)[:, None]).flatten(1)  # (B, k·k)
            cells = cells.flatten(2).mT  # (B, k·k, C)
            rate = self.score(cells, rows, columns)
            states = self._start(cells.sum(1) / there.sum(1, keepdim=True).clamp(min=1))
            seen, weights = cells[:, :0].sum(1), []
            for glimpse in range(self.num_steps):
                if glimpse:
                    states = self._advance(seen, states)
                weights.append(_softmax(rate(states[-1][0]), there))
                seen = (weights[-1][:, None] @ cells)[:, 0]
        return seen, torch.stack(weights, 1)

    def _start(self, mean: Tensor) -> list[State]:
        """The states of each layer (B, D) for the mean of the cells (B, C)."""
        numbers = iter(self.initial_state(mean).chunk(sum(self.states), 1))  # type: ignore[arg-type]
        return [tuple(next(numbers) for _ in range(count)) for count in self.states]  # type: ignore[arg-type]

    def _advance(self, x: Tensor, states: list[State]) -> list[State]:
        advanced = []
        for cell, state in zip(self.cells, states, strict=True):
            advanced.append(cell(x, state))
            x = advanced[-1][0]
        return advanced


class _LinearScore(nn.Module):
    """W_i·h for each cell i of a K×K map; cells of a smaller map take the weights of their relative place."""

    def __init__(self, hidden_channels: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_channels, size * size, bias=False)
        self.size = size

    def forward(self, cells: Tensor, rows: Tensor, columns: Tensor):
        row, column = (self._places(shares) for shares in (rows, columns))
        place = (row[:, :, None] * self.size + column[:, None]).flatten(1)  # (B, k·k)
        return lambda h: self.linear(h).gather(1, place)

    def _places(self, shares: Tensor) -> Tensor:
        """The place (B, k) in a row of K of each of an image's n ≤ k cells: (i + 1/2)·K/n, rounded down."""
        count = (shares.sum(2) > 0).sum(1, keepdim=True).clamp(min=1)
        index = torch.arange(shares.shape[1], device=shares.device)
        return ((2 * index + 1) * self.size // (2 * count)).clamp(max=self.size - 1)


class _AdditiveScore(nn.Module):
    """u·tanh(W x_i + V h + b) (Bahdanau et al. 2015)."""

    def __init__(self, in_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.of_cell = nn.Linear(in_channels, hidden_channels)
        self.of_state = nn.Linear(hidden_channels, hidden_channels, bias=False)
        self.out = nn.Linear(hidden_channels, 1, bias=False)

    def forward(self, cells: Tensor, rows: Tensor, columns: Tensor):
        projected = self.of_cell(cells)
        return lambda h: self.out(torch.tanh(projected + self.of_state(h)[:, None]))[..., 0]


def _softmax(scores: Tensor, there: Tensor) -> Tensor:
    """Softmax over the cells (B, k·k) that are there."""
    # Finite, so that an image without any valid cell gives no NaN.
    return scores.masked_fill(~there, torch.finfo(scores.dtype).min).softmax(1)


def _without_padding(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The map with 0 outside of the valid rectangle, where a weight of 0 alone would not stop what is not finite."""
    inside = (rows.sum(1) > 0)[:, None, :, None] & (columns.sum(1) > 0)[:, None, None, :]
    return torch.where(inside, x, 0.0)


def _shares(valid: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Adaptive average pooling of each image's valid rectangle as two matrices of row and column weights.

    Returns:
        (B, k, H) and (B, k', W) float32; a row of them adds up to 1, or is 0 where the image has fewer cells.
    """
    return _shares_of_line(valid[:, 0].any(2), size), _shares_of_line(valid[:, 0].any(1), size)


def _shares_of_line(valid: Tensor, size: int) -> Tensor:
    """Of n valid places of a line (B, N), cell i of m = min(n, K) averages ⌊i·n/m⌋ … ⌈(i+1)·n/m⌉ − 1, as PyTorch."""
    places = torch.arange(valid.shape[1], device=valid.device)
    count = valid.sum(1)[:, None, None]
    cells = count.clamp(min=1, max=size)
    index = places[: min(size, len(places)), None]
    first, end = index * count // cells, -(-(index + 1) * count // cells)
    inside = (places >= first) & (places < end) & (index < cells) & (places < count)
    return inside / inside.sum(2, keepdim=True).clamp(min=1)
