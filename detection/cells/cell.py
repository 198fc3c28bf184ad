"""The contract of a recurrent cell, which computes one step.

A cell has two sides. The input side, `project`, is linear and does not read the state, so a user may do it for all
steps at once, or leave it out (`input_size=None`) and pass pre-activations, as a 1×1 convolution computes them for all
four directions of a spatial RNN. The recurrent side, `step`, is what has to wait for the step before.

Gates are in PyTorch's order and parameters have the names of `nn.RNNCell`, `nn.LSTMCell` and `nn.GRUCell`, so their
weights load. A cell has no matrices but these; σ is the logistic function, · is the element-wise product.
"""

# N lines (or regions) at once, I input size, D hidden size, G gates of the input side.

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
        input_size: I; None for no input side: inputs are pre-activations (N, G·D).
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
        """Initialize as PyTorch's cells do: matrices and their biases uniformly in ±1/√D."""
        bound = 1 / math.sqrt(self.hidden_size)
        for name in ("weight_ih", "bias_ih", *(("weight_hh", "bias_hh") if self.recurrent_gates else ())):
            parameter = getattr(self, name, None)
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)

    def project(self, x: Tensor) -> Tensor:
        """Return the pre-activations (…, G·D) of x (…, I), which is x itself without an input side."""
        return x if self.input_size is None else linear(x, self.weight_ih, self.bias_ih)

    @abstractmethod
    def step(self, x: Tensor, state: State) -> State:
        """Return the next state from pre-activations (N, G·D) and the state before."""

    def initial_state(self, x: Tensor) -> State:
        """Return the state before the first step: zeros (N, D), for inputs (N, …)."""
        zero = x.new_zeros(len(x), self.hidden_size)
        return (zero,) * self.num_states

    def forward(self, x: Tensor, state: State | None = None) -> State:
        """Compute one step; the state is kept in float32 (or wider) under autocast.

        Args:
            x: (N, I), or pre-activations (N, G·D) when the cell has no input side.
            state: before the step; None for zeros.
        """
        return self.advance(self.project(x), state)

    def advance(self, x: Tensor, state: State | None = None) -> State:
        """Compute one step from pre-activations (N, G·D): `forward` for a caller that projects once and steps often."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            return self.step(x, self.initial_state(x) if state is None else state)

    def _recur(self, h: Tensor) -> Tensor:
        return linear(h, self.weight_hh, self.bias_hh)

    def _recur_gates(self, h: Tensor, first: int, end: int) -> Tensor:
        """Return U h + b of the recurrent gates `first` … `end` − 1: (N, (end − first)·D)."""
        rows = slice(first * self.hidden_size, end * self.hidden_size)
        return linear(h, self.weight_hh[rows], None if self.bias_hh is None else self.bias_hh[rows])
