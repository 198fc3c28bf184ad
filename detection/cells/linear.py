"""Gated cells that are linear in their state, so that a line can be scanned in parallel (Feng et al. 2024)."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from detection.cells.cell import Cell, State


class LinearCell(Cell):
    """h = a·h + b, where a and b depend on the input alone.

    `bias_hh` (gates − 1, D) is added to the gates' pre-activations, so that directions which share an input side can
    remember over different distances; it is initialized to keep more than is taken in, like an LSTM's forget bias.

    Args:
        hidden_size, input_size, bias: as in `Cell`.
        forget_bias: initial bias of the gates in favor of keeping; at 0 half is kept.
    """

    recurrent_gates = 0

    def __init__(
        self, hidden_size: int, input_size: int | None = None, bias: bool = True, forget_bias: float = 1.0
    ) -> None:
        self.forget_bias = forget_bias
        super().__init__(hidden_size, input_size, bias)

    _keep_sign: ClassVar[float]

    def _add_recurrent_side(self, bias: bool) -> None:
        self.bias_hh = nn.Parameter(torch.empty(self.gates - 1, self.hidden_size)) if bias else None

    def reset_parameters(self) -> None:
        """Initialize the input side uniformly in ±1/√D, and the gates' bias in favor of keeping."""
        super().reset_parameters()
        if self.bias_hh is not None:
            nn.init.zeros_(self.bias_hh)
            nn.init.constant_(self.bias_hh[0], self._keep_sign * self.forget_bias)

    @abstractmethod
    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a (…, D) in [0, 1] and b (…, D) of pre-activations (…, G·D)."""

    def step(self, x: Tensor, state: State) -> State:
        """Return a·h + b."""
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
    _keep_sign = -1.0

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a = 1 − z and b = z·n."""
        z, new = self._biased(x)
        z = torch.sigmoid(z)
        return 1 - z, z * new


class MinLSTM(LinearCell):
    """f, i = σ(W x), h = f/(f + i)·h + i/(f + i)·(W x) (Feng et al. 2024); gates f, i, n."""

    gates = 3
    _keep_sign = 1.0

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a = f/(f + i) and b = i/(f + i)·n."""
        f, i, new = self._biased(x)
        # f/(f + i) = σ(log f − log i), which cannot become 0/0.
        keep = torch.sigmoid(torch.nn.functional.logsigmoid(f) - torch.nn.functional.logsigmoid(i))
        return keep, (1 - keep) * new
