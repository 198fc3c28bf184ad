"""Sweeps through PyTorch's own recurrent kernels, which are cuDNN's on CUDA: tanh RNN, IRNN, LSTM and GRU.

Those kernels have an input side. Ours is shared by all directions and comes before, so theirs is the identity, which
costs as many multiplications as the recurrent side for the RNNs, 4 and 3 times as many for LSTM and GRU, but in one
product for all steps. Where TF32 is allowed (`torch.backends.cudnn.allow_tf32`) it rounds x to 11 bits.
"""

# B images, D hidden size, H×W map, K directions, T steps, N lines of all images.

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from detection.cells import GRU, IRNN, LSTM, Cell, TanhRNN
from detection.ops.sweep.directions import from_lines, is_reversed, to_lines
from detection.ops.sweep.layout import as_map, as_rows, close
from detection.ops.sweep.lines import by_axis

# Not −∞, which times the identity's zeros would be NaN.
CLOSED = -1e30

_KERNELS: dict[type[Cell], tuple[Callable[..., Any], tuple[float, ...]]] = {
    TanhRNN: (torch._VF.rnn_tanh, (0.0,)),  # type: ignore[attr-defined]
    IRNN: (torch._VF.rnn_relu, (CLOSED,)),  # type: ignore[attr-defined]
    LSTM: (torch._VF.lstm, (CLOSED, CLOSED, 0.0, 0.0)),  # type: ignore[attr-defined]
    GRU: (torch._VF.gru, (CLOSED, CLOSED, 0.0)),  # type: ignore[attr-defined]
}

_allowed = ContextVar("_allowed", default=True)


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Keep `auto` sweeps from choosing cuDNN, on any device."""
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)


def cudnn_is_allowed() -> bool:
    """Return whether the caller is outside of `without_cudnn`."""
    return _allowed.get()


def cudnn_computes(kind: type[Cell], valid: Tensor | None) -> bool:
    """Return whether the kernels compute this cell: under a mask no pre-activation makes a tanh RNN forget."""
    return kind in _KERNELS and (kind is not TanhRNN or valid is None)


def cudnn_sweep(
    kind: type[Cell], x: Tensor, weight: Tensor, bias: Tensor | None, valid: Tensor | None, directions: str
) -> Tensor:
    """Compute `sweep` for the cells of which `cudnn_computes` is true.

    Arguments are as in `detection.ops.sweep.lstm.lstm`, but x (B, G·D, H, W) has the type of weight (K, G·D, D).
    """
    kernel, closed = _KERNELS[kind]
    rows = close(as_rows(x), valid, *closed)
    outputs: list[Tensor] = []
    for places, names in by_axis(directions):
        outputs += _scan(kernel, rows, weight[places], None if bias is None else bias[places], names)
    return as_map(torch.cat(outputs, 3))


def _scan(
    kernel: Callable[..., Any], rows: Tensor, weight: Tensor, bias: Tensor | None, names: list[str]
) -> list[Tensor]:
    """Return the outputs (B, H, W, D) along each direction of one axis, by one bidirectional call for two."""
    forward = next((p for p, name in enumerate(names) if not is_reversed(name)), None)
    backward = next((p for p, name in enumerate(names) if is_reversed(name)), None)
    if len(names) == 2 and forward is not None and backward is not None:
        if forward == 1:  # the kernels have the forward direction first
            weight, bias = weight.flip(0), None if bias is None else bias.flip(0)
        found = _call(kernel, rows, weight, bias, names[forward])
        return found if forward == 0 else found[::-1]
    alone = ((weight[p : p + 1], None if bias is None else bias[p : p + 1], name) for p, name in enumerate(names))
    return [_call(kernel, rows, w, b, name)[0] for w, b, name in alone]


def _call(kernel: Callable[..., Any], rows: Tensor, weight: Tensor, bias: Tensor | None, name: str) -> list[Tensor]:
    """Scan one direction as named, or two, as named and against it; outputs (B, H, W, D) each."""
    count, gates, size = weight.shape
    lines = to_lines(rows, name)  # (T, B, L, G·D)
    scanned = lines.flatten(1, 2)  # (T, B·L, G·D)
    state = scanned.new_zeros(count, scanned.shape[1], size)
    identity = torch.eye(gates, dtype=rows.dtype, device=rows.device)
    parameters: list[Tensor] = []  # W, U and, with biases, those of both, of each direction
    for p in range(count):
        parameters += [identity, weight[p]]
        if bias is not None:
            parameters += [torch.zeros_like(bias[p]), bias[p]]
    states = (state, state) if kernel is torch._VF.lstm else state  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        # The weights are copied together on each call, which costs little compared with the scan.
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
        output = kernel(
            scanned, states, parameters, bias is not None, 1, 0.0, torch.is_grad_enabled(), count == 2, False
        )[0]
    parts = output.unflatten(1, lines.shape[1:3]).chunk(count, -1)  # (T, B, L, D) each
    return [from_lines(part, name) for part in parts]
