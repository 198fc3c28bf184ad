"""Recurrent cells, one step each: what the spatial RNN, the box decoder and the attention module have in common.

A cell has two sides. The input side, `project`, is linear and does not look at the state, so a user may do it for all
steps at once, or leave it out (`input_size=None`) and hand in pre-activations that it made itself, as a 1×1 convolution
does for all four directions of a spatial RNN. The recurrent side, `step`, is what has to wait.

Gates lie in PyTorch's order and parameters carry the names of `nn.RNNCell`, `nn.LSTMCell` and `nn.GRUCell`, so their
weights load. A cell has no matrices but these; σ is the logistic function, · is element by element.
"""

# N lines (or regions) at once, I input size, D hidden size, G gates of the input side.

import torch
from torch import Tensor, nn

from detection.cells.cell import Cell, State


class TanhRNN(Cell):
    """h = tanh(W x + U h + b) (Elman 1990). Its gradient vanishes over long distances."""

    def step(self, x: Tensor, state: State) -> State:
        """See `Cell`."""
        return (torch.tanh(x + self._recur(state[0])),)


class IRNN(Cell):
    """h = max(W x + U h + b, 0), U starting as the identity and b as 0 (Le, Jaitly, Hinton 2015).

    W starts gaussian with a standard deviation of 0.001, as in that paper.
    """

    def reset_parameters(self) -> None:
        """See the class."""
        for name, parameter in self.named_parameters():
            nn.init.zeros_(parameter)
            if name == "weight_ih":
                nn.init.normal_(parameter, std=0.001)
        nn.init.eye_(self.weight_hh)

    def step(self, x: Tensor, state: State) -> State:
        """See `Cell`."""
        return (torch.relu(x + self._recur(state[0])),)


class IndRNN(Cell):
    """h = max(W x + u·h, 0): an IRNN whose channels do not mix, u (D,) starting at 1 (IndRNN, Li et al. 2018)."""

    recurrent_gates = 0

    def _add_recurrent_side(self, bias: bool) -> None:
        self.weight_hh = nn.Parameter(torch.empty(self.hidden_size))

    def reset_parameters(self) -> None:
        """See the class; the input side is even in ±1/√D."""
        super().reset_parameters()
        nn.init.ones_(self.weight_hh)

    def step(self, x: Tensor, state: State) -> State:
        """See `Cell`."""
        return (torch.relu(x + self.weight_hh * state[0]),)


class Accumulator(Cell):
    """h = max(W x + h, 0): an IRNN whose U stays the identity, ION's final choice (Bell et al. 2016, section 5)."""

    recurrent_gates = 0

    def step(self, x: Tensor, state: State) -> State:
        """See `Cell`."""
        return (torch.relu(x + state[0]),)
