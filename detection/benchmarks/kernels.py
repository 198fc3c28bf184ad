"""Time in kernels of every cell's sweeps, without launches, and their rate of memory against that of a copy."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import ProfilerActivity, profile

from detection.analysis.timing import Measurements
from detection.benchmarks.recurrences import KINDS
from detection.benchmarks.sweep import channels_last
from detection.cells import Cell
from detection.ops.sweep.directions import DIRECTIONS
from detection.ops.sweep.dispatch import sweep

SHAPES = {"cuda": (4, 512, 38, 63), "cpu": (1, 64, 12, 16)}
"""Images, channels, height and width; on a CPU for a trial only."""
COPIED_BYTES = {"cuda": 2**28, "cpu": 2**24}
ROUNDS = 10


def benchmark_kernels(device: str) -> Measurements:
    """Measure four directions of every cell over maps of ION's size: bfloat16 on CUDA, float32 on a CPU.

    The rate of memory counts what a pass must move: forward it reads its input and writes its output; backward it reads
    its output and the output's gradient and writes the input's. Cells with a recurrent matrix compute more than they
    move. On a CPU, which has no kernels, the operations' own time is measured.
    """
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    source = torch.empty(COPIED_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rate = 2 * source.nbytes / kernel_time(lambda: target.copy_(source), device)[0]
    measured: Measurements = {"copy (GB/s)": rate / 1e9}
    for kind in KINDS:
        measured |= _of_cell(kind, SHAPES[device], dtype, device, rate)
    return measured


def _of_cell(
    kind: type[Cell], shape: tuple[int, int, int, int], dtype: torch.dtype, device: str, rate: float
) -> Measurements:
    torch.manual_seed(0)
    batch, size, height, width = shape
    cells = nn.ModuleList(kind(size) for _ in DIRECTIONS).to(device)
    read = kind(size).projection_channels
    x = channels_last(torch.randn(batch, read, height, width, device=device, dtype=dtype)).requires_grad_()
    grad = channels_last(torch.randn(batch, len(DIRECTIONS) * size, height, width, device=device, dtype=dtype))

    def forward() -> Tensor:
        return sweep(list(cells), x, None, DIRECTIONS)  # type: ignore[arg-type]

    output = forward()
    parameters = list(cells.parameters())
    backward = partial(torch.autograd.grad, output, [x, *parameters], grad.to(output.dtype), retain_graph=True)
    moved = {"forward": x.nbytes + output.nbytes, "backward": 2 * output.nbytes + x.nbytes}
    measured: Measurements = {}
    for name, function in (("forward", torch.no_grad()(forward)), ("backward", backward)):
        seconds, launches = kernel_time(function, device)
        measured |= {
            f"{kind.__name__} {name} (ms)": 1e3 * seconds,
            f"{kind.__name__} {name}: kernels": launches,
            f"{kind.__name__} {name}: part of the copy's rate": moved[name] / seconds / rate,
        }
    return measured


def kernel_time(function: Callable[[], object], device: str) -> tuple[float, float]:
    """Measure the time in kernels of a call, and their number; on a CPU those of its operations.

    Returns:
        Seconds and number, means over `ROUNDS` calls after two to warm up.
    """
    function()
    function()
    on_device = DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        for _ in range(ROUNDS):
            function()
        if device == "cuda":
            torch.cuda.synchronize()
    # Times are in microseconds.
    times = [
        event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        for event in profiler.events() or ()
        if event.device_type == on_device
    ]
    return sum(times) / 1e6 / ROUNDS, len(times) / ROUNDS
