"""Time and memory of functions."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

Measurements = dict[str, float | str]
WARM_UP = 2


def settle_on(device: str) -> Callable[[], object]:
    """Return a function that waits until the device has finished its work."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else (lambda: None)


def times_in_turns(
    functions: Sequence[Callable[[], object]], rounds: int, settle: Callable[[], object]
) -> list[list[float]]:
    """Measure the seconds of functions called in turns, so that other load on the machine affects all of them alike.

    Returns:
        `rounds` times of each function, without those of `WARM_UP` rounds before.
    """
    times: list[list[float]] = [[] for _ in functions]
    for number in range(rounds + WARM_UP):
        for function, of_function in zip(functions, times, strict=True):
            settle()
            began = time.perf_counter()
            function()
            settle()
            if number >= WARM_UP:
                of_function.append(time.perf_counter() - began)
    return times


def interleaved(
    functions: Mapping[str, Callable[[], object]], rounds: int, settle: Callable[[], object]
) -> Measurements:
    """Measure median seconds of two functions called in turns, and the median of the ratios round by round."""
    times = times_in_turns(list(functions.values()), rounds, settle)
    ratios = [first / second for first, second in zip(*times, strict=True)]
    medians = {f"{name} (s, median)": statistics.median(t) for name, t in zip(functions, times, strict=True)}
    return {**medians, f"{' / '.join(functions)} (median of {rounds} ratios)": statistics.median(ratios)}


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
    return max(accumulate((change for _, change in changes), initial=0))
