"""Parameters and floating-point operations of a module or a detector, the same on every device.

A multiply-add is 2 operations. Convolutions and matrix products count, those of attention and of recurrent steps among
them. Pointwise work (activations, gates, norms) is 0, as in `torch.utils.flop_counter`, which does the counting; the
exception are the sweeps of cells without a product, see `detection.ops.flops`. Pooling, sampling and the
choice of boxes are 0.
"""

# I input size, D hidden size, P pre-activations of a step, N states of a channel, T steps, B lines.

import math
from collections.abc import Callable, Container, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import detection.ops.flops  # noqa: F401 - registers the operations of sweeps
from detection.cells import MLSTM, Accumulator, Cell, IndRNN, LinearCell, StateSpace
from detection.errors import UserError
from detection.ops.sweep.cudnn import without_cudnn

Shape = Sequence[int]

_COUNTED_LIBRARIES = {"aten", "prim", "prims", "profiler", "c10d", "_c10d_functional", "torchvision"}
"""Libraries whose operators are counted by PyTorch, or rightly count 0 (pooling, NMS)."""

_POINTWISE = ((Accumulator, 2), (LinearCell, 2), (IndRNN, 3))


def count_parameters(module: nn.Module) -> int:
    """Count parameters, learned or frozen, a shared tensor once; running means and other buffers do not count."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.enable_grad()
def count_flops(function: Callable[..., Any], *inputs: Any) -> int:
    """Count the operations of one forward pass.

    Args:
        function: a module in its present mode (a detector without targets: `eval()`), or a function.
        inputs: its arguments. The count of a detector's head depends on the boxes that it finds.

    Raises:
        UserError: it calls an operator of a library without a formula, which would count 0.
    """
    # The counter fails on views of weights made under `no_grad`, so gradients are on; nothing is kept for them.
    nothing_kept = torch.autograd.graph.saved_tensors_hooks(lambda _: None, lambda _: torch.empty(0))
    counter = FlopCounterMode(display=False, custom_mapping=_RECURRENT_KERNELS)
    # cuDNN's kernels would count their products with the identity in place of an input side.
    with nothing_kept, without_cudnn(), counter, _Uncounted(counter.flop_registry) as uncounted:
        function(*inputs)
    if uncounted.names:
        raise UserError(
            f"FLOPs cannot be counted: {', '.join(sorted(uncounted.names))} has no formula; register one with "
            "torch.utils.flop_counter.register_flop_formula."
        )
    return counter.get_total_flops()


class _Uncounted(TorchDispatchMode):
    """Collect the operators of other libraries than PyTorch's that have no formula."""

    def __init__(self, formulas: Container[Any]) -> None:
        super().__init__()
        self.formulas = formulas
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        packet = func.overloadpacket if isinstance(func, torch._ops.OpOverload) else func
        if getattr(func, "namespace", "aten") not in _COUNTED_LIBRARIES and packet not in self.formulas:
            self.names.add(str(packet))
        return func(*args, **(kwargs or {}))


def step_flops(cell: Cell) -> int:
    """Count the operations of one step of a cell on one line of a scan.

    The input side, where there is one, is 2·P·I. The recurrent side is 2·D·D, a product with the last state, times

        1  TanhRNN, IRNN
        2  MUT1: r and the new state; z reads the input alone
        3  GRU, whether it resets before or after, TiedLSTM, MUT2, MUT3
        4  LSTM, PeepholeLSTM, whose peepholes are pointwise; SLSTM, divided by its heads

    and without a product D times

        2  Accumulator: a sum and a maximum; MinGRU, MinLSTM: a multiplication and a sum
        3  IndRNN: a multiplication, a sum and a maximum
        4·N  S6, SSD: as MinGRU for each of N states, and their product with C
        4·E + 4  MLSTM: so for each of the E keys of a head, and for n

    A sweep of SSD or MLSTM computes lines of T steps by products of matrices, which cost 2·T·(N + D) and 4·T·D a step;
    of lines of more than 64 in pieces of S, about 2·S·(N + D) + (4 + 2·T/S²)·N·D and 4·S·D + (4 + 2·T/S²)·E·D.
    """
    size = cell.hidden_size
    recurrent = 2 * cell.weight_hh.numel() if cell.recurrent_gates else size * _scanned(cell)
    return 2 * cell.projection_channels * (cell.input_size or 0) + recurrent


def _scanned(cell: Cell) -> int:
    if isinstance(cell, StateSpace):
        return 4 * cell.state_size
    if isinstance(cell, MLSTM):
        return 4 * cell.hidden_size // cell.num_heads + 4
    return next((count for kind, count in _POINTWISE if isinstance(cell, kind)), 0)


def _cudnn_rnn_flops(x: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """Count all matrices of an `nn.RNN`, `nn.LSTM` or `nn.GRU` for each step and line; x is (T, B, I)."""
    return 2 * math.prod(x[:-1]) * sum(math.prod(weight) for weight in weights if len(weight) == 2)


def _mkldnn_rnn_flops(x: Shape, weight_ih: Shape, weight_hh: Shape, *_: Any, **__: Any) -> int:
    """Count one layer and direction of `nn.LSTM` on the CPU."""
    return _cudnn_rnn_flops(x, [weight_ih, weight_hh])


# The counter takes these for 0.
_RECURRENT_KERNELS = {torch.ops.aten._cudnn_rnn: _cudnn_rnn_flops, torch.ops.aten.mkldnn_rnn_layer: _mkldnn_rnn_flops}
