"""The contract of a recurrent cell, which computes one step.

A cell has two sides. The input side, `project`, is linear and does not read the state, so a user may do it for all
steps at once, or leave it out (`input_size=None`) and pass pre-activations, as a 1×1 convolution computes them for all
four directions of a spatial RNN. The recurrent side, `step`, is what has to wait for the step before.

Gates are in PyTorch's order and parameters have the names of `nn.RNNCell`, `nn.LSTMCell` and `nn.GRUCell`, so their
weights load. A cell has no matrices but these; σ is the logistic function, · is the element-wise product.
"""

# N lines (or regions) at once, B·L of a map, I input size, D hidden size, G gates of the input side, T steps,
# P pre-activations of a step, G·D for most cells.

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from detection.cells.initialization import Initialization, framework_default
from detection.errors import UserError

State = tuple[Tensor, ...]


class Cell(nn.Module, ABC):
    """x (N, I) and a state of tensors (N, D) → the next state; its first tensor is the output.

    Attributes:
        gates: G, the pre-activations of size D that a step reads from the input, if all are of size D.
        recurrent_gates: products of size D with the last state, the rows of `weight_hh` over D.
        num_states: tensors in a state.
        num_flags: how many of them, the last, are 0 before the first step and nothing that could be learned.
        has_keep_gate: whether a gate, whose bias `init` sets, decides what is kept of the state.
        default_init: `init` where none is given.
        short_init: the same in modules of a few steps, which a long memory would only slow down.

    Args:
        hidden_size: D.
        input_size: I; None for no input side: inputs are pre-activations (N, P).
        bias: whether there are bias vectors.
        init: a function of `detection.cells.initialization`; None for the class's own, for scans of long lines. Without
            bias vectors it sets recurrent matrices and decays alone.
        learned_initial_state: learn the state before the first step, zeros at first, instead of keeping it at 0.

    Raises:
        UserError: the class has nothing that `init` sets, or no initial state that could be learned.
    """

    gates: ClassVar[int] = 1
    recurrent_gates: ClassVar[int] = 1
    num_states: ClassVar[int] = 1
    num_flags: ClassVar[int] = 0
    has_keep_gate: ClassVar[bool] = False
    default_init: ClassVar[partial[Initialization]] = partial(framework_default)
    short_init: ClassVar[partial[Initialization] | None] = None
    weight_hh: Tensor
    bias_hh: Tensor | None
    initial: Tensor | None
    computes_step: ClassVar[bool]
    """Whether `scan` or `coefficients`, of a class that has it, is about its `step`, not that of a class before it."""

    def __init_subclass__(cls, **settings: object) -> None:
        super().__init_subclass__(**settings)
        # Where in the order of classes each method is: a subclass may have written another step alone.
        place = {
            name: next(i for i, kind in enumerate(cls.__mro__) if name in vars(kind))
            for name in ("scan", "coefficients", "step")
            if hasattr(cls, name)
        }
        cls.computes_step = place["step"] >= min(place.values()) == next(iter(place.values()))

    def __init__(
        self,
        hidden_size: int,
        input_size: int | None = None,
        bias: bool = True,
        init: partial[Initialization] | None = None,
        learned_initial_state: bool = False,
    ) -> None:
        super().__init__()
        self.hidden_size, self.input_size = hidden_size, input_size
        self.init = init or self.default_init
        if input_size is not None:
            self.weight_ih = nn.Parameter(torch.empty(self.projection_channels, input_size))
            self.bias_ih = nn.Parameter(torch.empty(self.projection_channels)) if bias else None
        self._add_recurrent_side(bias)
        if learned_initial_state and (isinstance(self, ScannedCell) or set(self.state_sizes) != {hidden_size}):
            raise UserError(
                f"cell.learned_initial_state=True: {type(self).__name__} begins with an empty memory; leave it out."
            )
        learned = torch.empty(self.num_states - self.num_flags, hidden_size) if learned_initial_state else None
        self.initial = None if learned is None else nn.Parameter(learned)
        self.reset_parameters()

    @property
    def projection_sizes(self) -> tuple[int, ...]:
        """Channels of each part of the pre-activations P, which is initialized as a separate matrix: D for a gate."""
        return (self.hidden_size,) * self.gates

    @property
    def projection_channels(self) -> int:
        """Channels P of the pre-activations that a step reads."""
        return sum(self.projection_sizes)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Channels of each tensor of a state: D, and what a cell needs after the first."""
        return (self.hidden_size,) * self.num_states

    def _add_recurrent_side(self, bias: bool) -> None:
        if self.recurrent_gates:
            rows = self.recurrent_gates * self.hidden_size
            self.weight_hh = nn.Parameter(torch.empty(rows, self.hidden_size))
            self.bias_hh = nn.Parameter(torch.empty(rows)) if bias else None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize as PyTorch's cells do, matrices and their biases uniformly in ±1/√D; then by `init`."""
        bound = 1 / math.sqrt(self.hidden_size)
        for name in ("weight_ih", "bias_ih", *(("weight_hh", "bias_hh") if self.recurrent_gates else ())):
            parameter = getattr(self, name, None)
            if parameter is not None:
                nn.init.uniform_(parameter, -bound, bound)
        if self.initial is not None:
            nn.init.zeros_(self.initial)
        self._initialize(self.init(self.hidden_size))

    def _initialize(self, init: Initialization) -> None:
        """Set what `init` gives and the cell has; a class with a gate that keeps the state sets its bias here."""
        has_matrix = bool(self.recurrent_gates)
        sets = (init.recurrent is not None and has_matrix) or (init.keep is not None and self.has_keep_gate)
        if (init.keep is not None or init.recurrent is not None) and not sets:
            lacks = "gate that keeps its state" if init.recurrent is None else "recurrent matrix"
            raise UserError(f"cell.init: {type(self).__name__} has no {lacks}; leave init out.")
        if init.recurrent is not None and has_matrix:
            self.weight_hh.copy_(init.recurrent.repeat(self.recurrent_gates, 1))

    def _set_gate(self, gate: int, logits: Tensor | None, recurrent_gate: int | None = None) -> None:
        """Set the bias of a gate, the sum of both vectors: the recurrent one gets it, that of the input side is 0."""
        if logits is None or self.bias_hh is None:
            return
        own = gate if recurrent_gate is None else recurrent_gate
        self.bias_hh[own * self.hidden_size : (own + 1) * self.hidden_size] = logits
        self._clear_input_bias(gate)

    def _clear_input_bias(self, *parts: int) -> None:
        """Set the input side's bias to 0 in parts of the pre-activations, where the recurrent side's is set."""
        if self.input_size is not None and self.bias_ih is not None:
            biases = self.bias_ih.split(self.projection_sizes)
            for part in parts:
                biases[part].zero_()

    def project(self, x: Tensor) -> Tensor:
        """Return the pre-activations (…, P) of x (…, I), which is x itself without an input side."""
        return x if self.input_size is None else linear(x, as_type_of(x, self.weight_ih), as_type_of(x, self.bias_ih))

    @abstractmethod
    def step(self, x: Tensor, state: State) -> State:
        """Return the next state from pre-activations (N, P) and the state before."""

    def initial_state(self, x: Tensor) -> State:
        """Return the state before the first step (N, D), for inputs (N, …): zeros, or what was learned."""
        count = x.shape[0]  # `len` would be a constant in a trace
        if self.initial is None:
            return tuple(x.new_zeros(count, size) for size in self.state_sizes)
        flags = (x.new_zeros(count, self.hidden_size),) * self.num_flags
        return (*self.initial.to(x.dtype)[:, None].expand(-1, count, -1), *flags)  # (N, D) each

    def forward(self, x: Tensor, state: State | None = None) -> State:
        """Compute one step; the state is kept in float32 (or wider) under autocast.

        Args:
            x: (N, I), or pre-activations (N, P) when the cell has no input side.
            state: before the step; None for the initial one.
        """
        return self.advance(self.project(x), state)

    def advance(self, x: Tensor, state: State | None = None) -> State:
        """Compute one step from pre-activations (N, P): `forward` for a caller that projects once and steps often."""
        with torch.autocast(x.device.type, enabled=False):
            # In half precision a sum over many steps loses what one of them adds.
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            return self.next_state(x, state)

    def next_state(self, x: Tensor, state: State | None) -> State:
        """Return `step` of pre-activations (N, P) and a state, None for the initial one.

        Raises:
            UserError: `step` gives no tuple of `num_states` tensors. Of a tensor the first row would be the state.
        """
        found = self.step(x, self.initial_state(x) if state is None else state)
        if not isinstance(found, tuple | list) or len(found) != self.num_states:
            given = len(found) if isinstance(found, tuple | list) else f"a {type(found).__name__}"
            name, states = type(self).__name__, self.num_states
            raise UserError(f"cell: {name}.step must return a tuple of num_states={states} tensors, not {given}.")
        return found

    def _recur(self, h: Tensor) -> Tensor:
        """Return U h + b of all recurrent gates (N, `recurrent_gates`·D) for h (N, D)."""
        return linear(h, as_type_of(h, self.weight_hh), as_type_of(h, self.bias_hh))

    def _recur_gates(self, h: Tensor, first: int, end: int) -> Tensor:
        """Return U h + b of the recurrent gates `first` … `end` − 1: (N, (end − first)·D)."""
        rows = slice(first * self.hidden_size, end * self.hidden_size)
        weight, bias = as_type_of(h, self.weight_hh), as_type_of(h, self.bias_hh)
        return linear(h, weight[rows], None if bias is None else bias[rows])


class ScannedCell(Cell):
    """A cell with an operation for complete lines, which computes what its `step` computes one after another.

    Its states may be larger than its outputs, and need not be written to memory.

    Attributes:
        identity_step: a value for each part of `projection_sizes` with which a step leaves every state as it is; None
            if there is none. `CrossScan` passes over locations outside of an image with it.
    """

    identity_step: ClassVar[tuple[float, ...] | None] = None

    @abstractmethod
    def scan(self, lines: Tensor, inside: Tensor | None, reverse: bool) -> Tensor:
        """Return the outputs (B, L, T, D) of all steps of L lines of each image, in float32 or wider.

        Args:
            lines: pre-activations (B, L, T, P), a view with any strides, in float32 or wider, 0 outside of images.
            inside: (B, L, T) booleans, the locations inside each image; None for all. Outside outputs are 0, and the
                next location inside begins a line.
            reverse: scan from the last step to the first.
        """


def build_cell(cell: Callable[..., Cell], hidden_size: int, input_size: int | None) -> Cell:
    """Build a cell of a part's setting, whose input size the part gives; None for no input side.

    Raises:
        UserError: the setting has an input size of its own, which nothing would read.
    """
    own = cell.keywords.get("input_size") if isinstance(cell, partial) else None
    if own is not None:
        raise UserError(f"cell.input_size={own}: what uses the cell gives it its input size; leave it out.")
    return cell(hidden_size, input_size=input_size)


_Parameter = TypeVar("_Parameter", Tensor, Tensor | None)


def as_type_of(state: Tensor, parameter: _Parameter) -> _Parameter:
    """Return a cell's parameter in the type of its states, which is wider where the weights are in half precision."""
    # A trace would have a node of a conversion to the same type.
    return parameter if parameter is None or parameter.dtype == state.dtype else parameter.to(state.dtype)


def with_short_memory(cell: Callable[..., Cell]) -> Callable[..., Cell]:
    """Return a cell's class, or a partial of it, with its `short_init` where it names no `init`."""
    kind, settings = (cell.func, cell.keywords) if isinstance(cell, partial) else (cell, {})
    short = getattr(kind, "short_init", None)
    return cell if short is None or settings.get("init") is not None else partial(cell, init=short)
