"""`detection benchmark`: benchmarks run, with one round of each measurement, and their results are finite."""

import json
import math
import re

import pytest
import torch

from detection import benchmarks
from detection.analysis import timing
from detection.benchmarks import index, kernels, local_response, matching, recurrences, roi_align, sweep, train_step
from detection.cells import MinGRU
from detection.cli import benchmark


@pytest.fixture
def one_round(monkeypatch):
    for module in (local_response, matching, roi_align, sweep, train_step):
        monkeypatch.setattr(module, "interleaved", lambda functions, _, settle: once(functions, settle))


def once(functions, settle):
    times = timing.interleaved(functions, 1, settle)
    # The sweep's bandwidth reads the key of 31 rounds.
    return {name.replace("of 1 ratios", "of 31 ratios"): value for name, value in times.items()}


def test_results_are_printed_and_written(one_round, capsys, tmp_path):
    assert benchmark.main(["local-response", "--output", str(tmp_path / "new" / "results.json")]) == 0
    results = json.loads((tmp_path / "new" / "results.json").read_text())
    assert list(results) == ["machine", "local-response"] and results["machine"]["versions"]["torch"]
    assert results["local-response"]["our LRN (s, median)"] > 0 and "our LRN / PyTorch's LRN" in capsys.readouterr().out


def test_the_help_names_every_benchmark():
    assert set(benchmarks.BENCHMARKS) <= set(re.findall(r"[\w-]+", benchmark.__doc__))


def test_an_unknown_name_gets_one_sentence(capsys):
    assert benchmark.main(["sweeps"]) == 2
    assert "sweeps: no such benchmark; known: train-step, dispatch, sweep," in capsys.readouterr().err


def test_recurrences_are_measured_against_their_steps():
    found = recurrences.measure_cell(MinGRU, (1, 8, 3, 4), 1, "cpu")
    assert list(found)[2:] == [
        "MinGRU by steps / MinGRU ours (median of 1 ratios)",
        "MinGRU: scratch (feature maps a direction)",
    ]
    assert all(value > 0 for value in found.values())


def test_kernels_move_what_their_pass_must(monkeypatch):
    """At 1 ms each, and so a copy at 1 GB/s: one map and four forward, four, four and one backward."""

    def one_millisecond(function, device):
        function()
        return 1e-3, 1.0

    monkeypatch.setattr(kernels, "SHAPES", {"cpu": (1, 8, 3, 4)})
    monkeypatch.setattr(kernels, "COPIED_BYTES", {"cpu": 500_000})
    monkeypatch.setattr(kernels, "KINDS", (kernels.KINDS[0],))
    monkeypatch.setattr(kernels, "kernel_time", one_millisecond)
    found = kernels.benchmark_kernels("cpu")
    one_map = 8 * 3 * 4 * 4
    assert found["copy (GB/s)"] == pytest.approx(1)
    assert found["Accumulator forward: part of the copy's rate"] == pytest.approx((1 + 4) * one_map / 1e6)
    assert found["Accumulator backward: part of the copy's rate"] == pytest.approx((4 + 4 + 1) * one_map / 1e6)
    assert found["Accumulator backward (ms)"] == 1 and found["Accumulator backward: kernels"] == 1


def test_the_time_in_kernels_is_that_of_one_call():
    x = torch.randn(400, 400)
    # The least of nine: another process may take the core from any of them.
    one, operations = min(kernels.kernel_time(lambda: x @ x, "cpu") for _ in range(9))
    five, of_five = min(kernels.kernel_time(lambda: [x @ x for _ in range(5)], "cpu") for _ in range(9))
    assert of_five == 5 * operations and 2 < five / one < 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train-step", "ion-step", "sweep", "matching", "roi-align", "index"])
def test_benchmarks_run(name, one_round, monkeypatch):
    monkeypatch.setattr(index, "SIZES", {"small": (100, 700, 3)})
    results = benchmarks.BENCHMARKS[name]("cpu")
    assert results and all(isinstance(v, str) or math.isfinite(v) for v in results.values())
