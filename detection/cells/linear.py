"""Gated cells that are linear in their state, so that a whole line can be scanned in parallel."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from detection.cells.cell import Cell, State


class LinearCell(Cell):
    """h = a·h + b, a and b seen in the input alone, so that a whole line can be scanned in parallel (Feng et al. 2024).

    `bias_hh` (gates − 1, D) is added to the gates' pre-activations, so that directions which share an input side can
    remember differently long; it starts so that more is kept than taken in, like an LSTM's forget bias.

    Args:
        hidden_size: D.
        input_size: I, or None.
        bias: whether there are bias vectors.
        forget_bias: how far the gates start from even, in favor of keeping.
    """

    recurrent_gates = 0

    def __init__(
        self, hidden_size: int, input_size: int | None = None, bias: bool = True, forget_bias: float = 1.0
    ) -> None:
        self.forget_bias = forget_bias
        super().__init__(hidden_size, input_size, bias)

    _keeping: ClassVar[float]

    def _add_recurrent_side(self, bias: bool) -> None:
        self.bias_hh = nn.Parameter(torch.empty(self.gates - 1, self.hidden_size)) if bias else None

    def reset_parameters(self) -> None:
        """See the class; the input side is even in ±1/√D."""
        super().reset_parameters()
        if self.bias_hh is not None:
            nn.init.zeros_(self.bias_hh)
            nn.init.constant_(self.bias_hh[0], self._keeping * self.forget_bias)

    @abstractmethod
    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-activations (…, G·D) → a (…, D) in [0, 1] and b (…, D)."""

    def step(self, x: Tensor, state: State) -> State:
        """See `Cell`."""
        a, b = self.coefficients(x)
        return (a * state[0] + b,)

    def _biased(self, x: Tensor) -> tuple[Tensor, ...]:
        *gates, new = x.chunk(self.gates, -1)
        if self.bias_hh is not None:
            gates = [gate + bias for gate, bias in zip(gates, self.bias_hh.unbind(), strict=True)]
        return (*gates, new)


class MinGRU(LinearCell):
    """z = σ(W_z x), h = (1 − z)·h + z·(W x) (Feng et al. 2024, "Were RNNs all we needed?"); gates z, n."""

    gates = 2
    _keeping = -1.0

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `LinearCell`."""
        z, new = self._biased(x)
        z = torch.sigmoid(z)
        return 1 - z, z * new


class MinLSTM(LinearCell):
    """f, i = σ(W x), h = f/(f + i)·h + i/(f + i)·(W x) (Feng et al. 2024); gates f, i, n."""

    gates = 3
    _keeping = 1.0

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `LinearCell`; f/(f + i) is written so that it cannot become 0/0."""
        f, i, new = self._biased(x)
        keep = torch.sigmoid(torch.nn.functional.logsigmoid(f) - torch.nn.functional.logsigmoid(i))
        return keep, (1 - keep) * new
