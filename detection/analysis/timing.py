"""Time and memory of functions."""

import statistics
import time
from collections.abc import Callable, Mapping

Measurements = dict[str, float | str]


def settle_on(device: str) -> Callable[[], object]:
    """Return a function that waits until the device has finished its work."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else (lambda: None)


def interleaved(
    functions: Mapping[str, Callable[[], object]], rounds: int, settle: Callable[[], object]
) -> Measurements:
    """Measure median seconds of two functions called in turn, and the median of the ratios round by round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for position in range(rounds + 2):
        for name, function in functions.items():
            settle()
            began = time.perf_counter()
            function()
            settle()
            if position >= 2:  # after two rounds of warm-up
                times[name].append(time.perf_counter() - began)
    first, second = times.values()
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    measured: Measurements = {f"{name} (s, median)": statistics.median(t) for name, t in times.items()}
    return {**measured, f"{' / '.join(times)} (median of {rounds} ratios)": statistics.median(ratios)}


def peak_bytes(function: Callable[[], object], device: str) -> int:
    """Measure the most memory that a call holds beyond what was held before."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    function()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")  # type: ignore[attr-defined]
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak
