"""Gated cells that are linear in their state, so that a line can be scanned in parallel: h = a·h + b."""

# D hidden size, G gates of the input side.

import math
from abc import abstractmethod
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from detection.cells.cell import Cell, State
from detection.cells.initialization import Initialization, forget_bias, uniform_decay
from detection.ranges import Range

OpenFraction = Annotated[float, Range(0, 1, open_low=True, open_high=True)]

RG_LRU_SCALE = 8.0
"""c of the RG-LRU."""

MAX_ROOT_GRADIENT = 1000.0
"""Bound on the gradient of √(1 − a²), as in the RG-LRU's own code."""


class LinearCell(Cell):
    """h = a·h + b, where a and b depend on the input alone.

    `bias_hh` (gates − 1, D) is added to the gates' pre-activations, so that directions which share an input side can
    remember over different distances.

    Args:
        hidden_size, input_size, bias, init, learned_initial_state: as in `Cell`; `init` is a forget bias of 5.
    """

    recurrent_gates = 0
    has_keep_gate = True
    default_init = partial(forget_bias)
    short_init = partial(forget_bias, value=1.0)
    keep_signs: ClassVar[tuple[float, ...]]
    """Sign of the logit of what is kept in the bias of each gate; 0 where the gate does not decide about it."""

    def _add_recurrent_side(self, bias: bool) -> None:
        self.bias_hh = nn.Parameter(torch.empty(self.gates - 1, self.hidden_size)) if bias else None

    def _initialize(self, init: Initialization) -> None:
        super()._initialize(init)
        if self.bias_hh is not None:
            nn.init.zeros_(self.bias_hh)
            if init.keep is not None:
                for bias, sign in zip(self.bias_hh, self.keep_signs, strict=True):
                    bias.copy_(sign * init.keep)
                self._clear_input_bias(*range(self.gates - 1))

    @abstractmethod
    def coefficients(self, x: Tensor, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return a (…, D) in [0, 1] and b (…, D) of pre-activations (…, G·D).

        Args:
            x: pre-activations.
            first: booleans (…, 1), the first locations of a line, for a cell that takes in more there.
        """

    def step(self, x: Tensor, state: State) -> State:
        """Return a·h + b."""
        a, b = self.coefficients(x)
        return (a * state[0] + b,)

    def vectors(self, like: Tensor) -> Tensor:
        """Return the vectors (V, D) of a step, in the type of `like`: the gates' biases, then the class's own."""
        if self.bias_hh is None:
            return like.new_zeros(self.gates - 1, self.hidden_size)
        return self.bias_hh.to(like.dtype)

    def _biased(self, x: Tensor) -> tuple[Tensor, ...]:
        *gates, new = x.chunk(self.gates, -1)
        if self.bias_hh is not None:
            gates = [gate + bias for gate, bias in zip(gates, self.bias_hh.unbind(), strict=True)]
        return (*gates, new)


class MinGRU(LinearCell):
    """z = σ(W_z x), h = (1 − z)·h + z·(W x) (Feng et al. 2024, "Were RNNs all we needed?"); gates z, n."""

    gates = 2
    keep_signs = (-1.0,)

    def coefficients(self, x: Tensor, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return a = 1 − z and b = z·n."""
        z, new = self._biased(x)
        z = torch.sigmoid(z)
        return 1 - z, z * new


class MinLSTM(LinearCell):
    """f, i = σ(W x), h = f/(f + i)·h + i/(f + i)·(W x) (Feng et al. 2024); gates f, i, n.

    A forget bias v is v for f and −v for i, which together keep σ(v).
    """

    gates = 3
    keep_signs = (1.0, -1.0)

    def coefficients(self, x: Tensor, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return a = f/(f + i) and b = i/(f + i)·n."""
        f, i, new = self._biased(x)
        # f/(f + i) = σ(log f − log i), which cannot become 0/0.
        keep = torch.sigmoid(logsigmoid(f) - logsigmoid(i))
        return keep, (1 - keep) * new


class GatedLinear(LinearCell):
    """f = l + (1 − l)·σ(W_f x), h = f·h + (1 − f)·(W x): HGRN's unit (Qin et al. 2023) on real states; gates f, n.

    The floor l of the forget gate is learned, one for each channel.

    Args:
        hidden_size, input_size, bias, init, learned_initial_state: as in `Cell`.
        floor: l at first.
    """

    gates = 2
    keep_signs = (1.0,)

    def __init__(
        self,
        hidden_size: int,
        input_size: int | None = None,
        bias: bool = True,
        init: partial[Initialization] | None = None,
        learned_initial_state: bool = False,
        floor: OpenFraction = 0.5,
    ) -> None:
        self.floor = floor
        super().__init__(hidden_size, input_size, bias, init, learned_initial_state)

    def _add_recurrent_side(self, bias: bool) -> None:
        super()._add_recurrent_side(bias)
        self.floor_logit = nn.Parameter(torch.empty(self.hidden_size))

    def _initialize(self, init: Initialization) -> None:
        super()._initialize(init)
        nn.init.constant_(self.floor_logit, math.log(self.floor / (1 - self.floor)))

    def coefficients(self, x: Tensor, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return a = f and b = (1 − f)·n."""
        f, new = self._biased(x)
        # 1 − f as a product, which keeps its digits where f is close to 1.
        take = torch.sigmoid(-self.floor_logit) * torch.sigmoid(-f)
        return 1 - take, take * new

    def vectors(self, like: Tensor) -> Tensor:
        """Return the gate's bias and the floor's logit."""
        return torch.cat([super().vectors(like), self.floor_logit[None].to(like.dtype)])


class RGLRU(LinearCell):
    """The real-gated linear recurrent unit of Griffin (De et al. 2024); gates r, i, n.

        r, i = σ(W x + b),  log a = −c·softplus(λ)·r,  h = a·h + √(1 − a²)·i·n,   c = 8

    At the first location of a line the square root is 1. It is initialized with a at r = 1 uniform in [0.9, 0.999]; any
    other `init` sets that a.

    The second tensor of its state is 1 once a line has begun.
    """

    gates = 3
    num_states = 2
    num_flags = 1
    keep_signs = (0.0, 0.0)
    default_init = short_init = partial(uniform_decay)

    def _add_recurrent_side(self, bias: bool) -> None:
        super()._add_recurrent_side(bias)
        self.decay = nn.Parameter(torch.empty(self.hidden_size))

    def _initialize(self, init: Initialization) -> None:
        super()._initialize(init)
        keep = init.keep if init.keep is not None else uniform_decay(self.hidden_size).keep
        # softplus(λ) = −log σ(keep) / c; the logarithm of expm1 without its overflow.
        wanted = -logsigmoid(keep) / RG_LRU_SCALE  # type: ignore[arg-type]
        self.decay.copy_(wanted + torch.log(-torch.expm1(-wanted)))

    def coefficients(self, x: Tensor, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return a and b; without `first` no location is the first of a line."""
        r, i, new = self._biased(x)
        log_a = -RG_LRU_SCALE * softplus(self.decay) * torch.sigmoid(r)
        share = _bounded_root(-torch.expm1(2 * log_a))  # √(1 − a²), whose difference a near 1 would leave no digits
        share = share if first is None else torch.where(first, 1.0, share)
        return torch.exp(log_a), share * torch.sigmoid(i) * new

    def step(self, x: Tensor, state: State) -> State:
        """Return a·h + b, and 1."""
        a, b = self.coefficients(x, state[1] == 0)
        return a * state[0] + b, torch.ones_like(state[1])

    def vectors(self, like: Tensor) -> Tensor:
        """Return the gates' biases and λ."""
        return torch.cat([super().vectors(like), self.decay[None].to(like.dtype)])


def _bounded_root(x: Tensor) -> Tensor:
    """Return √x, whose gradient is at most `MAX_ROOT_GRADIENT`."""
    least = (2 * MAX_ROOT_GRADIENT) ** -2  # where the slope 1/(2·√x) reaches the bound
    line = MAX_ROOT_GRADIENT * x
    # Below it, the value of the root with the slope of a line. The clamp is for the gradient of the other branch: the
    # slope of √0 is infinite, and NaN where it is masked.
    return torch.where(x < least, line + (x.sqrt() - line).detach(), x.clamp(min=least).sqrt())
