"""The contract of a recurrent cell."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

State = tuple[Tensor, ...]


class Cell(nn.Module, ABC):
    """x (N, I) and a state of tensors (N, D) → the next state; its first tensor is the output.

    Attributes:
        gates: G, the pre-activations of size D that a step reads from the input.
        recurrent_gates: products of size D with the last state, the rows of `weight_hh` over D.
        num_states: tensors in a state.

    Args:
        hidden_size: D.
        input_size: I; None: inputs are pre-activations (N, G·D), and there is no input side.
        bias: whether there are bias vectors.
    """

    gates: ClassVar[int] = 1
    recurrent_gates: ClassVar[int] = 1
    num_states: ClassVar[int] = 1
    weight_hh: Tensor
    bias_hh: Tensor | None

    def __init__(self, hidden_size: int, input_size: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.hidden_size, self.input_size = hidden_size, input_size
        if input_size is not None:
            self.weight_ih = nn.Parameter(torch.empty(self.gates * hidden_size, input_size))
            self.bias_ih = nn.Parameter(torch.empty(self.gates * hidden_size)) if bias else None
        self._add_recurrent_side(bias)
        self.reset_parameters()

    def _add_recurrent_side(self, bias: bool) -> None:
        if self.recurrent_gates:
            rows = self.recurrent_gates * self.hidden_size
            self.weight_hh = nn.Parameter(torch.empty(rows, self.hidden_size))
            self.bias_hh = nn.Parameter(torch.empty(rows)) if bias else None

    def reset_parameters(self) -> None:
        """Start as PyTorch's cells do: matrices and their biases even in ±1/√D."""
        bound = 1 / math.sqrt(self.hidden_size)
        for name in ("weight_ih", "bias_ih", *(("weight_hh", "bias_hh") if self.recurrent_gates else ())):
            parameter = getattr(self, name, None)
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)

    def project(self, x: Tensor) -> Tensor:
        """The input side: x (…, I) → pre-activations (…, G·D); x itself where there is none."""
        return x if self.input_size is None else linear(x, self.weight_ih, self.bias_ih)

    @abstractmethod
    def step(self, x: Tensor, state: State) -> State:
        """The recurrent side: pre-activations (N, G·D) and a state → the next state."""

    def initial_state(self, x: Tensor) -> State:
        """The state before the first step: zeros (N, D), for inputs (N, …)."""
        zero = x.new_zeros(len(x), self.hidden_size)
        return (zero,) * self.num_states

    def forward(self, x: Tensor, state: State | None = None) -> State:
        """One whole step; the state is kept in float32 (or wider) under autocast.

        Args:
            x: (N, I), or pre-activations (N, G·D) when the cell has no input side.
            state: before the step; None for zeros.
        """
        return self.advance(self.project(x), state)

    def advance(self, x: Tensor, state: State | None = None) -> State:
        """The rest of `forward`, for who projects once and steps often: pre-activations (N, G·D) → the next state."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            return self.step(x, self.initial_state(x) if state is None else state)

    def _recur(self, h: Tensor) -> Tensor:
        return linear(h, self.weight_hh, self.bias_hh)


def _recur_rows(cell: Cell, rows: slice, h: Tensor) -> Tensor:
    """The product of some of the gates with h."""
    return linear(h, cell.weight_hh[rows], None if cell.bias_hh is None else cell.bias_hh[rows])
