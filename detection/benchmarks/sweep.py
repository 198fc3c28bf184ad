"""Sweeps of recurrent cells over feature maps against plain loops and PyTorch's RNNs: time, memory, bandwidth."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from detection import cells as cell_classes
from detection.analysis.timing import Measurements, interleaved, peak_bytes, settle_on
from detection.ops.sweep.accumulate import accumulate
from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.dispatch import sweep


def benchmark_sweep(device: str) -> Measurements:
    """Measure four directions of recurrent cells, plain loops and PyTorch's RNNs.

    2x256x38x50 in float32 on a CPU, ION's 4x512x38x63 in bfloat16 (RNNs in float32) on CUDA; all maps channels last.

    The accumulator: all four directions, against `h = relu(h + x[..., t])` step by step, stacked; and against the same
    over `x.unbind()`, whose gradient is one stack instead of a map a step. The incoming gradient is channels last, as
    the 1x1 convolution that follows returns it; the loops are faster with it, too. Memory is the most that a forward
    and backward pass hold, without the input map, 1, and the incoming gradient, 4.
    IRNN, LSTM and GRU: ours is one 1x1 convolution and four sweeps, theirs two bidirectional `nn.RNN`, `nn.LSTM` and
    `nn.GRU` over rows and columns, with their input sides and the permutations of the map to them and back.
    """
    torch.manual_seed(0)
    cuda, settle, rounds = device == "cuda", settle_on(device), 31
    shape, dtype = ((4, 512, 38, 63), torch.bfloat16) if cuda else ((2, 256, 38, 50), torch.float32)
    x = channels_last(torch.randn(shape, device=device, dtype=dtype)).requires_grad_()
    grad = channels_last(torch.randn(shape[0], 4 * shape[1], *shape[2:], device=device, dtype=dtype))

    def ours(m):
        return accumulate(m, None, None, "right left down up")

    measured: Measurements = {}
    for loop in ("select", "unbind"):
        backends = {f"loop by {loop}": partial(loop_accumulate, x, cut=loop), "ours": partial(ours, x)}
        measured |= both_passes({f"accumulator {n}": (f, [x]) for n, f in backends.items()}, grad, rounds, settle)
    peak = peak_bytes(lambda: torch.autograd.grad(ours(x), x, grad), device)
    measured["accumulator: peak memory / the input map's"] = peak / x.nbytes
    if cuda:
        out = ours(x.detach())
        copied = interleaved({"copy": lambda: out.copy_(grad), "sweep": lambda: ours(x.detach())}, rounds, settle)
        # A copy reads and writes four maps; the sweeps must read one and write four.
        ratio = float(copied[f"copy / sweep (median of {rounds} ratios)"])
        measured["accumulator: part of the copy's bandwidth"] = ratio * 5 / 8
        measured |= accumulator_against_rnns(x, grad, ours, rounds, settle)
    for name in ("IRNN", "LSTM", "GRU"):
        measured |= rnn_ratios(name, device, x.detach().float().requires_grad_(), 9, settle)
    return measured


def both_passes(
    backends: Mapping[str, tuple[Callable[[], Tensor], list[Tensor]]],
    grad: Tensor,
    rounds: int,
    settle: Callable[[], object],
) -> Measurements:
    """Measure two functions of the tensors that they learn, forward and with the backward pass of a gradient."""
    forward = {n: torch.no_grad()(f) for n, (f, _) in backends.items()}
    both = {
        f"{n}, with backward": lambda f=f, learned=learned: torch.autograd.grad(f(), learned, grad)
        for n, (f, learned) in backends.items()
    }
    return interleaved(forward, rounds, settle) | interleaved(both, rounds, settle)


def channels_last(x: Tensor) -> Tensor:
    """Return the map in channels-last memory."""
    return x.contiguous(memory_format=torch.channels_last)


def loop_accumulate(x: Tensor, cut: str) -> Tensor:
    """Scan an accumulator in plain PyTorch; slices by `select`, as indexing does, or all at once by `unbind`."""
    outputs = []
    for dim, backwards in ((3, False), (3, True), (2, False), (2, True)):
        steps = x.unbind(dim) if cut == "unbind" else [x.select(dim, t) for t in range(x.shape[dim])]
        h, states = None, []
        for x_t in reversed(steps) if backwards else steps:
            h = torch.relu(x_t if h is None else h + x_t)
            states.append(h)
        outputs.append(torch.stack(states[::-1] if backwards else states, dim))
    return torch.cat(outputs, 1)


def accumulator_against_rnns(
    x: Tensor, grad: Tensor, ours: Callable[[Tensor], Tensor], rounds: int, settle: Callable[[], object]
) -> Measurements:
    """Measure two bidirectional `nn.RNN` of cuDNN in the map's type, with input sides, and our accumulator."""
    make = partial(nn.RNN, nonlinearity="relu", bidirectional=True, device=x.device, dtype=x.dtype)
    rnns = nn.ModuleList(make(x.shape[1], x.shape[1]) for _ in range(2))
    theirs = partial(over_lines, rnns, x), [x, *rnns.parameters()]
    return both_passes({"nn.RNN": theirs, "accumulator": (partial(ours, x), [x])}, grad, rounds, settle)


def over_lines(rnns: nn.ModuleList, x: Tensor) -> Tensor:
    """Scan the rows and the columns of a map by bidirectional RNNs of PyTorch, concatenated as our directions are."""
    outputs = []
    for rnn, to_lines, back in zip(rnns, ((3, 0, 2, 1), (2, 0, 3, 1)), ((1, 3, 2, 0), (1, 3, 0, 2)), strict=True):
        lines = x.permute(to_lines)  # (T, B, L, C)
        # Each output (T, B·L, 2·D) becomes a map (B, 2·D, H, W).
        outputs.append(rnn(lines.flatten(1, 2))[0].unflatten(1, lines.shape[1:3]).permute(back))
    return torch.cat(outputs, 1)


def rnn_ratios(name: str, device: str, x: Tensor, rounds: int, settle: Callable[[], object]) -> Measurements:
    """Measure two bidirectional RNNs of PyTorch over rows and columns, and our four sweeps."""
    size, kind = x.shape[1], getattr(cell_classes, name)
    cells = nn.ModuleList(kind(size) for _ in DIRECTIONS).to(device)
    conv = nn.Conv2d(size, kind.gates * size, 1, device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    make = {"IRNN": lambda **k: nn.RNN(nonlinearity="relu", **k), "LSTM": nn.LSTM, "GRU": nn.GRU}[name]
    rnns = nn.ModuleList(make(input_size=size, hidden_size=size, bidirectional=True) for _ in range(2)).to(device)

    def ours() -> Tensor:
        return sweep(list(cells), conv(x), None, DIRECTIONS)  # type: ignore[arg-type]

    theirs = partial(over_lines, rnns, x)
    grad = channels_last(torch.randn_like(theirs()))
    backends = {
        f"{name} of nn": (theirs, [x, *rnns.parameters()]),
        f"{name} ours": (ours, [x, *conv.parameters(), *cells.parameters()]),
    }
    return both_passes(backends, grad, rounds, settle)
