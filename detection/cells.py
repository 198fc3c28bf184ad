"""Recurrent cells, one step each: what the spatial RNN, the box decoder and the attention module have in common.

A cell has two sides. The input side, `project`, is linear and does not look at the state, so a user may do it for all
steps at once, or leave it out (`input_size=None`) and hand in pre-activations that it made itself, as a 1×1 convolution
does for all four directions of a spatial RNN. The recurrent side, `step`, is what has to wait.

Gates lie in PyTorch's order and parameters carry the names of `nn.RNNCell`, `nn.LSTMCell` and `nn.GRUCell`, so their
weights load. A cell has no matrices but these; σ is the logistic function, · is element by element.
"""

# N lines (or regions) at once, I input size, D hidden size, G gates of the input side.

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

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

    def start(self, x: Tensor) -> State:
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
            return self.step(x, self.start(x) if state is None else state)

    def _recur(self, h: Tensor) -> Tensor:
        return linear(h, self.weight_hh, self.bias_hh)


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


class ChannelIRNN(Cell):
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


class LSTM(Cell):
    """i, f, o = σ(W x + U h + b), g = tanh(·), c = f·c + i·g, h = o·tanh(c); gates i, f, g, o.

    Args:
        hidden_size: D.
        input_size: I, or None.
        bias: whether there are bias vectors.
        forget_bias: where f's bias starts, all vectors together (1: Jozefowicz et al. 2015).
    """

    gates = 4
    recurrent_gates = 4
    num_states = 2

    def __init__(
        self, hidden_size: int, input_size: int | None = None, bias: bool = True, forget_bias: float = 1.0
    ) -> None:
        self.forget_bias = forget_bias
        super().__init__(hidden_size, input_size, bias)

    def reset_parameters(self) -> None:
        """Even in ±1/√D, but for the forget gate's bias."""
        super().reset_parameters()
        forget = slice(self.hidden_size, 2 * self.hidden_size)
        with torch.no_grad():
            if self.bias_hh is not None:
                self.bias_hh[forget] = self.forget_bias
                if self.input_size is not None and self.bias_ih is not None:
                    self.bias_ih[forget] = 0

    def step(self, x: Tensor, state: State) -> State:
        """See `Cell`."""
        h, c = state
        i, f, g, o = (x + self._recur(h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class PeepholeLSTM(LSTM):
    """An LSTM whose i and f also see p·c of the step before, and o sees p_o·c of this one (Gers, Schmidhuber 2000).

    `peephole` (3, D) holds p_i, p_f and p_o and starts at 0.
    """

    def _add_recurrent_side(self, bias: bool) -> None:
        super()._add_recurrent_side(bias)
        self.peephole = nn.Parameter(torch.empty(3, self.hidden_size))

    def reset_parameters(self) -> None:
        """As an LSTM, which it is at first."""
        super().reset_parameters()
        nn.init.zeros_(self.peephole)

    def step(self, x: Tensor, state: State) -> State:
        """See `Cell`."""
        h, c = state
        p_i, p_f, p_o = self.peephole
        i, f, g, o = (x + self._recur(h)).chunk(4, -1)
        c = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
        return torch.sigmoid(o + p_o * c) * torch.tanh(c), c


class TiedLSTM(Cell):
    """An LSTM that forgets what it shows: f = 1 − o, c = f·c + i·g, h = o·c; gates i, g, o.

    The cell of ReInspect's code (Stewart et al. 2016), recalled: its last tanh is missing there.

    Args:
        hidden_size: D.
        input_size: I, or None.
        bias: whether there are bias vectors.
        squash: put the tanh back, h = o·tanh(c).
    """

    gates = 3
    recurrent_gates = 3
    num_states = 2

    def __init__(
        self, hidden_size: int, input_size: int | None = None, bias: bool = True, squash: bool = False
    ) -> None:
        super().__init__(hidden_size, input_size, bias)
        self.squash = squash

    def step(self, x: Tensor, state: State) -> State:
        """See `Cell`."""
        h, c = state
        i, g, o = (x + self._recur(h)).chunk(3, -1)
        o = torch.sigmoid(o)
        c = (1 - o) * c + torch.sigmoid(i) * torch.tanh(g)
        return o * (torch.tanh(c) if self.squash else c), c


class GRU(Cell):
    """r, z = σ(W x + U h + b), h = (1 − z)·n + z·h (Cho et al. 2014); gates r, z, n.

    Args:
        hidden_size: D.
        input_size: I, or None.
        bias: whether there are bias vectors.
        reset: `after` the product, n = tanh(W x + b + r·(U h + b')), as in PyTorch and cuDNN; or `before` it,
            n = tanh(W x + b + U (r·h) + b'), as in the paper.
    """

    gates = 3
    recurrent_gates = 3

    def __init__(
        self,
        hidden_size: int,
        input_size: int | None = None,
        bias: bool = True,
        reset: Literal["after", "before"] = "after",
    ) -> None:
        super().__init__(hidden_size, input_size, bias)
        self.reset = reset

    def step(self, x: Tensor, state: State) -> State:
        """See `Cell`."""
        (h,) = state
        x_r, x_z, x_n = x.chunk(3, -1)
        if self.reset == "after":
            h_r, h_z, h_n = self._recur(h).chunk(3, -1)
            n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        else:
            gates, new = (slice(0, 2 * self.hidden_size), slice(2 * self.hidden_size, None))
            h_r, h_z = _recur_rows(self, gates, h).chunk(2, -1)
            n = torch.tanh(x_n + _recur_rows(self, new, torch.sigmoid(x_r + h_r) * h))
        z = torch.sigmoid(x_z + h_z)
        return (n + z * (h - n),)


class MUT1(Cell):
    """z = σ(W_z x + b), r = σ(W_r x + U_r h + b), h = z·tanh(U (r·h) + tanh(P x) + b) + (1 − z)·h.

    Jozefowicz et al. 2015, appendix; gates z, r, P, and of the recurrent side r, U. P is always a learned matrix (with
    a bias where the input side has them); the paper also takes the identity where the sizes allow it.
    """

    gates = 3
    recurrent_gates = 2

    def step(self, x: Tensor, state: State) -> State:
        """See `Cell`."""
        (h,) = state
        x_z, x_r, x_p = x.chunk(3, -1)
        first, second = slice(0, self.hidden_size), slice(self.hidden_size, None)
        r = torch.sigmoid(x_r + _recur_rows(self, first, h))
        n = torch.tanh(_recur_rows(self, second, r * h) + torch.tanh(x_p))
        z = torch.sigmoid(x_z)
        return (h + z * (n - h),)


class MUT2(Cell):
    """z = σ(W_z x + U_z h + b), r = σ(P x + U_r h + b), h = z·tanh(U (r·h) + W x + b) + (1 − z)·h.

    Jozefowicz et al. 2015, appendix; gates z, r (of P) and n (of W), and of the recurrent side z, r, U. P is always a
    learned matrix; the paper also takes the identity where the sizes allow it.
    """

    gates = 3
    recurrent_gates = 3

    def _seen_by_z(self, h: Tensor) -> Tensor:
        return h

    def step(self, x: Tensor, state: State) -> State:
        """See `Cell`."""
        (h,) = state
        x_z, x_r, x_n = x.chunk(3, -1)
        z_rows, r_rows, n_rows = (slice(k * self.hidden_size, (k + 1) * self.hidden_size) for k in range(3))
        z = torch.sigmoid(x_z + _recur_rows(self, z_rows, self._seen_by_z(h)))
        r = torch.sigmoid(x_r + _recur_rows(self, r_rows, h))
        n = torch.tanh(_recur_rows(self, n_rows, r * h) + x_n)
        return (h + z * (n - h),)


class MUT3(MUT2):
    """MUT2 with z = σ(W_z x + U_z tanh(h) + b) and W_r in the place of P (Jozefowicz et al. 2015, appendix)."""

    def _seen_by_z(self, h: Tensor) -> Tensor:
        return torch.tanh(h)


class LinearCell(Cell):
    """h = a·h + b, a and b seen in the input alone, so that a whole line can be scanned in parallel (Feng et al. 2024).

    `bias_hh` (gates − 1, D) is added to the gates' pre-activations, so that directions which share an input side can
    remember differently long; it starts so that more is kept than taken in, like an LSTM's forget bias.

    Args:
        hidden_size: D.
        input_size: I, or None.
        bias: whether there are bias vectors.
        forget_bias: how far the gates start from even, in favour of keeping.
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


def _recur_rows(cell: Cell, rows: slice, h: Tensor) -> Tensor:
    """The product of some of the gates with h."""
    return linear(h, cell.weight_hh[rows], None if cell.bias_hh is None else cell.bias_hh[rows])


CELLS: tuple[type[Cell], ...] = (
    TanhRNN, IRNN, ChannelIRNN, Accumulator, LSTM, PeepholeLSTM, TiedLSTM, GRU, MUT1, MUT2, MUT3, MinGRU, MinLSTM,
)  # fmt: skip
"""Every cell, for those who compare them."""
