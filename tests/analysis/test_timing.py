"""Times of functions that are called in turns."""

from functools import partial

from detection.analysis import timing


def test_functions_have_their_turns(monkeypatch):
    """The clock stands still but for what each call adds; two rounds of warm-up do not count."""
    clock, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def call(name, seconds):
        order.append(name)
        clock[0] += seconds[min(order.count(name), len(seconds)) - 1]

    functions = {"a": partial(call, "a", [9, 9, 1]), "b": partial(call, "b", [9, 9, 2, 2, 50])}
    assert timing.times_in_turns(list(functions.values()), 3, int) == [[1, 1, 1], [2, 2, 50]]
    assert order == ["a", "b"] * 5
    order.clear()
    measured = timing.interleaved(functions, 3, int)
    assert measured == {"a (s, median)": 1, "b (s, median)": 2, "a / b (median of 3 ratios)": 0.5}
