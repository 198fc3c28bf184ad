"""Cells without gates: the tanh RNN, the IRNN and its variants without a recurrent matrix."""

from functools import partial

import torch
from torch import Tensor, nn

from detection.cells.cell import Cell, State
from detection.cells.initialization import Initialization, scaled_identity
from detection.ranges import Count


class TanhRNN(Cell):
    """h = tanh(W x + U h + b) (Elman 1990).

    Its gradient vanishes over long distances however it is initialized: tanh contracts at every step, by about 0.6 on
    standard normal input. `init=partial(orthogonal)` or `scaled_identity` slow that down.
    """

    def step(self, x: Tensor, state: State) -> State:
        """Return tanh(x + U h + b)."""
        return (torch.tanh(x + self._recur(state[0])),)


class IRNN(Cell):
    """h = max(W x + U h + b, 0), U initialized as the identity and b as 0 (Le, Jaitly, Hinton 2015).

    W is initialized normally with a standard deviation of 0.001, as in that paper.
    """

    default_init = partial(scaled_identity)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize W with small normal values, biases as 0, and U by `init`, or else as PyTorch does."""
        init = self.init(self.hidden_size)
        for name, parameter in self.named_parameters():
            nn.init.zeros_(parameter)
            if name == "weight_ih":
                nn.init.normal_(parameter, std=0.001)
        if init.recurrent is None:
            nn.init.uniform_(self.weight_hh, -(self.hidden_size**-0.5), self.hidden_size**-0.5)
        self._initialize(init)

    def step(self, x: Tensor, state: State) -> State:
        """Return max(x + U h + b, 0)."""
        return (torch.relu(x + self._recur(state[0])),)


class IndRNN(Cell):
    """h = max(W x + u·h, 0): an IRNN whose channels do not mix (Li et al. 2018); u (D,) is initialized as 1.

    Args:
        hidden_size, input_size, bias, init, learned_initial_state: as in `Cell`; only the input side has a bias.
        bound_length: T, which bounds `|u|` by 2^(1/T), so that a state at most doubles over T steps by itself. A weight
            beyond the bound is used as the bound and gets no gradient. None for no bound.
    """

    recurrent_gates = 0

    def __init__(
        self,
        hidden_size: int,
        input_size: int | None = None,
        bias: bool = True,
        init: partial[Initialization] | None = None,
        learned_initial_state: bool = False,
        bound_length: Count | None = None,
    ) -> None:
        super().__init__(hidden_size, input_size, bias, init, learned_initial_state)
        self.bound = None if bound_length is None else 2 ** (1 / bound_length)

    def _add_recurrent_side(self, bias: bool) -> None:
        self.weight_hh = nn.Parameter(torch.empty(self.hidden_size))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize u as 1, and the input side uniformly in ±1/√D."""
        super().reset_parameters()
        nn.init.ones_(self.weight_hh)

    def recurrent_weight(self) -> Tensor:
        """Return u (D,), within the bound where there is one."""
        return self.weight_hh if self.bound is None else self.weight_hh.clamp(-self.bound, self.bound)

    def step(self, x: Tensor, state: State) -> State:
        """Return max(x + u·h, 0)."""
        return (torch.relu(x + self.recurrent_weight() * state[0]),)


class Accumulator(Cell):
    """h = max(W x + h, 0): an IRNN whose U stays the identity, ION's final choice (Bell et al. 2016, section 5)."""

    recurrent_gates = 0

    def step(self, x: Tensor, state: State) -> State:
        """Return max(x + h, 0)."""
        return (torch.relu(x + state[0]),)
