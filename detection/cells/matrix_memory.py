"""The cells of xLSTM (Beck et al. 2024): exponential gates, kept in range by a running maximum m of their exponents.

From the paper's formulas, without its blocks, norms and convolutions.
"""

# N lines, D hidden size, K heads of E channels, L lines of an image, T steps.

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from detection.cells.cell import ScannedCell, State, as_type_of
from detection.cells.heads import HeadedCell
from detection.cells.initialization import Initialization, forget_bias
from detection.ops.sweep.decay_matrix import matrix_memory, scaled_one


class MLSTM(HeadedCell, ScannedCell):
    """C = f·C + i·v kᵀ, n = f·n + i·k, h = o·C q / max(abs(nᵀ q), 1) in each head, a matrix memory.

    q, k, v and o = σ(·) are of D channels, i = exp(·) and f = σ(·) of one a head; k is scaled by 1/√E. A state has h,
    C and n scaled by exp(−m), and m = max(log f + m, log i, 0). Lines are computed as products of matrices for each
    head, T×T, or of pieces where they are long. `bias_hh` (2·D + 2·K) is added to q, k, i and f.

    The paper starts without biases of q and k, so that a memory is read through products of pre-activations, which are
    small at first. Here they start at E^(−1/4), where ⟨q, k⟩ is about 1: h is an average of v along the line.
    `init=partial(framework_default)` leaves them, and the gates', at 0.

    Args:
        hidden_size, input_size, bias, init: as in `Cell`; `init` is a forget bias of 5.
        learned_initial_state: False, for the memory is empty at first.
        num_heads: K; None for 4, or for 2 or 1 where `hidden_size` asks for it.
    """

    recurrent_gates = 0
    num_states = 4
    has_keep_gate = True
    default_init = partial(forget_bias)
    short_init = partial(forget_bias, value=1.0)
    # i = 0 and f = 1: nothing enters and nothing decays.
    identity_step = (0.0, 0.0, 0.0, 0.0, -math.inf, math.inf)
    bias_hh: Tensor | None

    @property
    def projection_sizes(self) -> tuple[int, ...]:
        """Channels of q, k, v, o, i and f."""
        return (self.hidden_size,) * 4 + (self.num_heads,) * 2

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Channels of h, of C with the key's channel last, of n, and of m."""
        return self.hidden_size, self.hidden_size**2 // self.num_heads, self.hidden_size, self.num_heads

    def _add_recurrent_side(self, bias: bool) -> None:
        self.bias_hh = nn.Parameter(torch.empty(2 * self.hidden_size + 2 * self.num_heads)) if bias else None

    def _initialize(self, init: Initialization) -> None:
        super()._initialize(init)
        if self.bias_hh is None:
            return
        width = self.hidden_size // self.num_heads
        nn.init.constant_(self.bias_hh, 0.0 if init.keep is None else width**-0.25)
        for bias, logits in zip(self.bias_hh[2 * self.hidden_size :].chunk(2), (init.take, init.keep), strict=True):
            bias.copy_(torch.zeros_like(bias) if logits is None else logits[::width])  # of a head's first channel
        if init.keep is not None:
            self._clear_input_bias(0, 1, 4, 5)  # q, k, i and f

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return q, k, v and o (…, D), log i and log f (…, K)."""
        q, k, v, o, i, f = x.split(self.projection_sizes, -1)
        if self.bias_hh is not None:
            biases = self.bias_hh.to(x.dtype).split(self.projection_sizes[:2] + self.projection_sizes[4:])
            q, k, i, f = (part + bias for part, bias in zip((q, k, i, f), biases, strict=True))
        return q, k / math.sqrt(self.hidden_size // self.num_heads), v, torch.sigmoid(o), i, logsigmoid(f)

    def step(self, x: Tensor, state: State) -> State:
        """Return h, C, n and m."""
        q, k, v, o, log_i, log_f = self._gates(x)
        q, k, v, o, n = (t.unflatten(-1, (self.num_heads, -1)) for t in (q, k, v, o, state[2]))  # (N, K, E)
        memory = state[1].unflatten(-1, (*v.shape[1:], -1))  # (N, K, E, E)
        m = torch.maximum(log_f + state[3], log_i).clamp(min=0)  # so that exp(−m), the scaled 1, is at most 1
        keep, take = ((t - m).exp()[..., None] for t in (log_f + state[3], log_i))  # (N, K, 1)
        memory = keep[..., None] * memory + (take * v)[..., None] * k[..., None, :]
        n = keep * n + take * k
        total = torch.maximum((n * q).sum(-1, keepdim=True).abs(), scaled_one(m)[..., None])
        h = o * (memory @ q[..., None])[..., 0] / total
        return h.flatten(1), memory.flatten(1), n.flatten(1), m  # (N, D), (N, D·E), (N, D), (N, K)

    def scan(self, lines: Tensor, inside: Tensor | None, reverse: bool) -> Tensor:
        """Scan by products of matrices."""
        q, k, v, o, log_i, log_f = self._gates(lines)
        return o * matrix_memory(q, k, v, log_i, log_f, inside, reverse)


class SLSTM(HeadedCell):
    """z = tanh(·), c = f·c + i·z, n = f·n + i, h = o·c/n; i = exp(·), f, o = σ(·) of W x + U h + b; gates i, f, z, o.

    An LSTM that can revise what it stored, for i has no upper bound. c and n are scaled by exp(−m), and
    m = max(log f + m, log i), which is log i at the first location of a line, so that n is at least 1. U mixes the
    channels of a head only: `weight_hh` (4·D, E).

    Args:
        hidden_size, input_size, bias, init, learned_initial_state: as in `Cell`; `init` is a forget bias of 5.
        num_heads: K; None for 4, or for 2 or 1 where `hidden_size` asks for it.
    """

    gates = 4
    recurrent_gates = 4
    num_states = 4
    num_flags = 3
    has_keep_gate = True
    default_init = partial(forget_bias)
    short_init = partial(forget_bias, value=1.0)

    def _add_recurrent_side(self, bias: bool) -> None:
        rows = self.recurrent_gates * self.hidden_size
        self.weight_hh = nn.Parameter(torch.empty(rows, self.hidden_size // self.num_heads))
        self.bias_hh = nn.Parameter(torch.empty(rows)) if bias else None

    def _initialize(self, init: Initialization) -> None:
        if init.recurrent is not None:
            size = self.hidden_size // self.num_heads
            blocks = [self.init(size).recurrent for _ in range(4 * self.num_heads)]
            self.weight_hh.copy_(torch.cat(blocks))  # type: ignore[arg-type]
        else:
            super()._initialize(init)
        self._set_gate(0, init.take)
        self._set_gate(1, init.keep)

    def _recur(self, h: Tensor) -> Tensor:
        heads = h.unflatten(1, (self.num_heads, -1)).transpose(0, 1)  # (K, N, E)
        weight = as_type_of(h, self.weight_hh).unflatten(0, (4, self.num_heads, -1))  # (4, K, E, E)
        weight = weight.transpose(0, 1).flatten(1, 2)  # (K, 4·E, E)
        found = (heads @ weight.transpose(-1, -2)).unflatten(2, (4, -1)).permute(1, 2, 0, 3).flatten(1)  # (N, 4·D)
        return found if self.bias_hh is None else found + self.bias_hh

    def step(self, x: Tensor, state: State) -> State:
        """Return h, c, n and m."""
        h, c, n, m = state
        log_i, f, z, o = (x + self._recur(h)).chunk(4, -1)
        # Where a line begins nothing is kept, however small the first i is.
        log_f = torch.where(n == 0, -math.inf, logsigmoid(f) + m)
        m = torch.maximum(log_f, log_i)
        keep, take = (log_f - m).exp(), (log_i - m).exp()
        c, n = keep * c + take * torch.tanh(z), keep * n + take
        return torch.sigmoid(o) * c / n, c, n, m
