"""Selective state spaces, whose N states a channel are read by the input: S6 of Mamba and SSD of Mamba-2.

    Δ = softplus(W_Δ x + b),   h = exp(Δ A)·h + Δ B x,   y = ⟨C, h⟩ + d·x

A < 0 is learned, B and C (N) are parts of the pre-activations that all channels share. From the formulas of Gu and Dao
2023 and Dao and Gu 2024; without their convolution, gate and norm, which are those of a block around the recurrence.
"""

# N states of a channel, D hidden size, K heads of E channels (S6: of one), P = D + K + 2·N pre-activations, T steps.

import math
from abc import abstractmethod
from functools import partial
from typing import Annotated, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from detection.cells.cell import ScannedCell, State
from detection.cells.heads import HeadCount, head_count
from detection.cells.initialization import Initialization, forget_bias
from detection.ops.sweep.decay_matrix import state_space_dual
from detection.ops.sweep.selective_scan import selective_scan
from detection.ranges import Range

StateSize = Annotated[int, Range(1, 256)]
"""States of a channel."""

FASTEST, SLOWEST = 0.1, 0.001
"""Δ as the paper initializes it, drawn between them uniformly in its logarithm."""


class StateSpace(ScannedCell):
    """Parent of S6 and SSD: parts x (D), Δ (K), B (N) and C (N) of the pre-activations, and a state (D·N).

    `decay_log` is log(−A), `skip` (K) is d, and `bias_hh` (K + 2·N) is added to Δ before the softplus, to B and to C.

    The papers start with Δ log-uniform in [0.001, 0.1], A = −1 … −N or in [−16, −1], d = 1, and without biases of B and
    C: the input enters with a weight of Δ, and is read through products of pre-activations, which are small at first.
    Here Δ starts at 1, A at a decay that `init` gives, and the biases of B and C at 1/√N, so that ⟨C, B⟩ is about 1: y
    is a sum of x along the line, of which a location has 0.76 of its weight after 40 others. With an `init` that has an
    input gate, as `chrono`, Δ starts at what that gate takes in. `init=partial(framework_default)` is the papers'.
    """

    recurrent_gates = 0
    num_states = 2
    has_keep_gate = True
    default_init = partial(forget_bias)
    short_init = partial(forget_bias, value=1.0)
    # softplus(−∞) = 0: nothing decays and nothing enters.
    identity_step = (0.0, -math.inf, 0.0, 0.0)
    state_size: int
    num_heads: int
    bias_hh: Tensor | None

    @property
    def projection_sizes(self) -> tuple[int, ...]:
        """Channels of x, Δ, B and C."""
        return self.hidden_size, self.num_heads, self.state_size, self.state_size

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Channels of y and of the flattened h."""
        return self.hidden_size, self.hidden_size * self.state_size

    def _add_recurrent_side(self, bias: bool) -> None:
        self.decay_log = nn.Parameter(torch.empty(self.num_heads, self._rates()))
        self.skip = nn.Parameter(torch.empty(self.num_heads))
        self.bias_hh = nn.Parameter(torch.empty(self.num_heads + 2 * self.state_size)) if bias else None

    @abstractmethod
    def _rates(self) -> int:
        """Return how many decays a head has: 1, or N."""

    @abstractmethod
    def _papers_rates(self) -> Tensor:
        """Return −A (K, 1 or N) as the paper initializes it."""

    def _initialize(self, init: Initialization) -> None:
        super()._initialize(init)
        width = self.hidden_size // self.num_heads
        if init.keep is None:
            low, high = math.log(SLOWEST), math.log(FASTEST)
            step, rates = torch.empty(self.num_heads).uniform_(low, high).exp(), self._papers_rates()
        else:
            keep = -logsigmoid(init.keep[::width])  # of a head's first channel
            step = torch.ones_like(keep) if init.take is None else torch.sigmoid(init.take[::width])
            # exp(Δ A) is to be the share that `init` keeps, at the Δ of pre-activations of 0.
            own = step if self.bias_hh is not None else torch.full_like(step, math.log(2))  # softplus(0)
            rates = (keep / own)[:, None].expand(-1, self._rates())
        nn.init.ones_(self.skip)
        self.decay_log.copy_(rates.log())
        if self.bias_hh is not None:
            self.bias_hh.fill_(0 if init.keep is None else self.state_size**-0.5)
            self.bias_hh[: self.num_heads] = step + torch.log(-torch.expm1(-step))  # the inverse of softplus
            if init.keep is not None:
                self._clear_input_bias(1, 2, 3)  # Δ, B and C

    def decay(self) -> Tensor:
        """Return A (K, 1 or N), below 0."""
        return -self.decay_log.exp()

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x (…, D), Δ (…, K), B and C (…, N) of pre-activations (…, P)."""
        new, *others = x.split(self.projection_sizes, -1)
        if self.bias_hh is not None:
            biases = self.bias_hh.to(x.dtype).split(self.projection_sizes[1:])
            others = [part + bias for part, bias in zip(others, biases, strict=True)]
        step, b, c = others
        return new, softplus(step), b, c

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a step keeps of h and what it takes in, (…, D·N) each, of pre-activations (…, P)."""
        new, step, b, _ = self.parts(x)
        keep = torch.exp(step[..., None] * self.decay().to(x.dtype))[..., None, :]  # (…, K, 1, 1 or N)
        new = new.unflatten(-1, (self.num_heads, -1)) * step[..., None]  # (…, K, E)
        taken = new[..., None] * b[..., None, None, :]  # (…, K, E, N)
        return keep.expand_as(taken).flatten(-3), taken.flatten(-3)  # (…, K·E·N) each

    def read(self, x: Tensor, h: Tensor) -> Tensor:
        """Return y (…, D) of pre-activations (…, P) and the states after the step (…, D·N)."""
        new, _, _, c = self.parts(x)
        read = (h.unflatten(-1, (self.hidden_size, self.state_size)) * c[..., None, :]).sum(-1)  # ⟨C, h⟩, (…, D)
        return read + self.skip.to(x.dtype).repeat_interleave(self.hidden_size // self.num_heads) * new

    def step(self, x: Tensor, state: State) -> State:
        """Return y and h."""
        keep, taken = self.coefficients(x)
        h = keep * state[1] + taken
        return self.read(x, h), h


class S6(StateSpace):
    """The selective scan of Mamba (Gu, Dao 2023): a Δ for each channel and a decay for each of its N states.

    Args:
        hidden_size, input_size, bias, init: as in `Cell`; `init` is a forget bias of 5.
        learned_initial_state: False, for h is empty at first.
        state_size: N; time is proportional to it, memory is not.
    """

    def __init__(
        self,
        hidden_size: int,
        input_size: int | None = None,
        bias: bool = True,
        init: partial[Initialization] | None = None,
        learned_initial_state: bool = False,
        state_size: StateSize = 4,
    ) -> None:
        self.state_size, self.num_heads = state_size, hidden_size
        super().__init__(hidden_size, input_size, bias, init, learned_initial_state)

    def _rates(self) -> int:
        return self.state_size

    def _papers_rates(self) -> Tensor:
        return torch.arange(1.0, self.state_size + 1).expand(self.hidden_size, -1)

    def scan(self, lines: Tensor, inside: Tensor | None, reverse: bool) -> Tensor:
        """Scan by an operation in which states stay in the cache."""
        others = self.projection_channels - self.hidden_size
        bias = self.skip.new_zeros(others) if self.bias_hh is None else self.bias_hh
        vectors = (v.to(lines.dtype) for v in (self.decay(), bias, self.skip))
        return cast(Tensor, selective_scan(lines, *vectors, inside, reverse))


class SSD(StateSpace):
    """The state space of Mamba-2 (Dao, Gu 2024): Δ, one decay and d for each head of channels.

    Lines are computed as products of matrices for each head, T×T, or of pieces where they are long.

    Args:
        hidden_size, input_size, bias, init: as in `Cell`; `init` is a forget bias of 5.
        learned_initial_state: False, for h is empty at first.
        state_size: N.
        num_heads: K; None for 4, or for 2 or 1 where `hidden_size` asks for it.
    """

    def __init__(
        self,
        hidden_size: int,
        input_size: int | None = None,
        bias: bool = True,
        init: partial[Initialization] | None = None,
        learned_initial_state: bool = False,
        state_size: StateSize = 16,
        num_heads: HeadCount = None,
    ) -> None:
        self.state_size, self.num_heads = state_size, head_count(hidden_size, num_heads)
        super().__init__(hidden_size, input_size, bias, init, learned_initial_state)

    def _rates(self) -> int:
        return 1

    def _papers_rates(self) -> Tensor:
        return torch.empty(self.num_heads, 1).uniform_(1, 16)

    def scan(self, lines: Tensor, inside: Tensor | None, reverse: bool) -> Tensor:
        """Scan by products of matrices."""
        x, step, b, c = self.parts(lines)
        found = state_space_dual(x, step, self.decay()[:, 0].to(x.dtype), b, c, inside, reverse)
        y = found + self.skip.to(x.dtype).repeat_interleave(self.hidden_size // self.num_heads) * x
        return y if inside is None else y.where(inside[..., None], 0)
