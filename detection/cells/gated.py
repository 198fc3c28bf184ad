"""Gated cells with a product of the last state: LSTM, GRU, the MUTs and their variants."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from detection.cells.cell import Cell, State
from detection.cells.initialization import Initialization, forget_bias, framework_default


def _negative(logits: Tensor | None) -> Tensor | None:
    return None if logits is None else -logits


class LSTM(Cell):
    """i, f, o = σ(W x + U h + b), g = tanh(·), c = f·c + i·g, h = o·tanh(c); gates i, f, g, o.

    Initialized with a forget bias of 5, so that a line of 40 locations is remembered;
    `init=partial(forget_bias, value=1)` is that of Jozefowicz et al. 2015, the default of former versions.
    """

    gates = 4
    recurrent_gates = 4
    num_states = 2
    has_keep_gate = True
    default_init = partial(forget_bias)
    short_init = partial(forget_bias, value=1.0)

    def _initialize(self, init: Initialization) -> None:
        super()._initialize(init)
        self._set_gate(0, init.take)  # i
        self._set_gate(1, init.keep)  # f

    def step(self, x: Tensor, state: State) -> State:
        """Return h and c."""
        h, c = state
        i, f, g, o = (x + self._recur(h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class PeepholeLSTM(LSTM):
    """An LSTM whose i and f also read p·c of the step before, and o reads p_o·c of this one (Gers, Schmidhuber 2000).

    `peephole` (3, D) holds p_i, p_f and p_o and is 0 at first, which makes it an LSTM.
    """

    def _add_recurrent_side(self, bias: bool) -> None:
        super()._add_recurrent_side(bias)
        self.peephole = nn.Parameter(torch.empty(3, self.hidden_size))

    def reset_parameters(self) -> None:
        """Initialize as an LSTM, with peepholes of 0."""
        super().reset_parameters()
        nn.init.zeros_(self.peephole)

    def step(self, x: Tensor, state: State) -> State:
        """Return h and c; i and f read the cell state of the step before, o the new one."""
        h, c = state
        p_i, p_f, p_o = self.peephole
        i, f, g, o = (x + self._recur(h)).chunk(4, -1)
        c = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
        return torch.sigmoid(o + p_o * c) * torch.tanh(c), c


class TiedLSTM(Cell):
    """An LSTM whose forget gate is tied to its output gate: f = 1 − o, c = f·c + i·g, h = o·c; gates i, g, o.

    The cell of ReInspect's code (Stewart et al. 2016), in which the last tanh is missing. It is initialized as PyTorch
    does, with half of the state kept, and so its memory is short: a long one would close its output gate.

    Args:
        hidden_size, input_size, bias, init, learned_initial_state: as in `Cell`.
        squash: restore the tanh, h = o·tanh(c).
    """

    gates = 3
    recurrent_gates = 3
    num_states = 2
    has_keep_gate = True

    def __init__(
        self,
        hidden_size: int,
        input_size: int | None = None,
        bias: bool = True,
        init: partial[Initialization] | None = None,
        learned_initial_state: bool = False,
        squash: bool = False,
    ) -> None:
        super().__init__(hidden_size, input_size, bias, init, learned_initial_state)
        self.squash = squash

    def _initialize(self, init: Initialization) -> None:
        super()._initialize(init)
        self._set_gate(0, init.take)  # i
        self._set_gate(2, _negative(init.keep))  # o, as f = 1 − o

    def step(self, x: Tensor, state: State) -> State:
        """Return h and c."""
        h, c = state
        i, g, o = (x + self._recur(h)).chunk(3, -1)
        o = torch.sigmoid(o)
        c = (1 - o) * c + torch.sigmoid(i) * torch.tanh(g)
        return o * (torch.tanh(c) if self.squash else c), c


class GRU(Cell):
    """r, z = σ(W x + U h + b), h = (1 − z)·n + z·h (Cho et al. 2014); gates r, z, n. z has a bias of 5 at first.

    Args:
        hidden_size, input_size, bias, init, learned_initial_state: as in `Cell`.
        reset: `after` the product, n = tanh(W x + b + r·(U h + b')), as in PyTorch and cuDNN; or `before` it,
            n = tanh(W x + b + U (r·h) + b'), as in the paper.
    """

    gates = 3
    recurrent_gates = 3
    has_keep_gate = True
    default_init = partial(forget_bias)
    short_init = partial(framework_default)

    def __init__(
        self,
        hidden_size: int,
        input_size: int | None = None,
        bias: bool = True,
        init: partial[Initialization] | None = None,
        learned_initial_state: bool = False,
        reset: Literal["after", "before"] = "after",
    ) -> None:
        super().__init__(hidden_size, input_size, bias, init, learned_initial_state)
        self.reset = reset

    def _initialize(self, init: Initialization) -> None:
        super()._initialize(init)
        self._set_gate(1, init.keep)  # z, which in PyTorch's form is what is kept

    def step(self, x: Tensor, state: State) -> State:
        """Return (1 − z)·n + z·h."""
        (h,) = state
        x_r, x_z, x_n = x.chunk(3, -1)
        if self.reset == "after":
            h_r, h_z, h_n = self._recur(h).chunk(3, -1)
            n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        else:
            h_r, h_z = self._recur_gates(h, 0, 2).chunk(2, -1)
            n = torch.tanh(x_n + self._recur_gates(torch.sigmoid(x_r + h_r) * h, 2, 3))
        z = torch.sigmoid(x_z + h_z)
        return (n + z * (h - n),)  # (1 − z)·n + z·h with one product less


class MUT1(Cell):
    """z = σ(W_z x + b), r = σ(W_r x + U_r h + b), h = z·tanh(U (r·h) + tanh(P x) + b) + (1 − z)·h.

    Jozefowicz et al. 2015, appendix; gates z, r, P, and of the recurrent side r, U. P is always a learned matrix (with
    a bias where the input side has them); the paper also takes the identity where the sizes allow it. `bias_hh` is of
    r, U and z, which has a bias of −5 at first.
    """

    gates = 3
    recurrent_gates = 2
    has_keep_gate = True
    default_init = partial(forget_bias)
    short_init = partial(framework_default)

    def _add_recurrent_side(self, bias: bool) -> None:
        super()._add_recurrent_side(bias)
        if bias:
            # Without an input side z would have no bias to remember by.
            self.bias_hh = nn.Parameter(torch.empty(3 * self.hidden_size))

    def _initialize(self, init: Initialization) -> None:
        super()._initialize(init)
        self._set_gate(0, _negative(init.keep), recurrent_gate=2)  # z, which is what is taken in

    def step(self, x: Tensor, state: State) -> State:
        """Return z·n + (1 − z)·h; z depends on the input alone."""
        (h,) = state
        x_z, x_r, x_p = x.chunk(3, -1)
        r = torch.sigmoid(x_r + self._recur_gates(h, 0, 1))
        n = torch.tanh(self._recur_gates(r * h, 1, 2) + torch.tanh(x_p))
        z = torch.sigmoid(x_z if self.bias_hh is None else x_z + self.bias_hh[2 * self.hidden_size :])
        return (h + z * (n - h),)


class MUT2(Cell):
    """z = σ(W_z x + U_z h + b), r = σ(P x + U_r h + b), h = z·tanh(U (r·h) + W x + b) + (1 − z)·h.

    Jozefowicz et al. 2015, appendix; gates z, r (of P) and n (of W), and of the recurrent side z, r, U. P is always a
    learned matrix; the paper also takes the identity where the sizes allow it. z has a bias of −5 at first.
    """

    gates = 3
    recurrent_gates = 3
    has_keep_gate = True
    default_init = partial(forget_bias)
    short_init = partial(framework_default)

    def _initialize(self, init: Initialization) -> None:
        super()._initialize(init)
        self._set_gate(0, _negative(init.keep))  # z, which is what is taken in

    def _input_of_z(self, h: Tensor) -> Tensor:
        return h

    def step(self, x: Tensor, state: State) -> State:
        """Return z·n + (1 − z)·h."""
        (h,) = state
        x_z, x_r, x_n = x.chunk(3, -1)
        z = torch.sigmoid(x_z + self._recur_gates(self._input_of_z(h), 0, 1))
        r = torch.sigmoid(x_r + self._recur_gates(h, 1, 2))
        n = torch.tanh(self._recur_gates(r * h, 2, 3) + x_n)
        return (h + z * (n - h),)


class MUT3(MUT2):
    """MUT2 with z = σ(W_z x + U_z tanh(h) + b) and W_r in the place of P (Jozefowicz et al. 2015, appendix)."""

    def _input_of_z(self, h: Tensor) -> Tensor:
        return torch.tanh(h)
