"""`detection benchmark`: benchmarks run, with one round of each measurement, and their results are finite."""

import json
import math
import re

import pytest

from detection import benchmarks
from detection.analysis import timing
from detection.benchmarks import index, local_response, matching, recurrences, roi_align, sweep, train_step
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
    found = recurrences.measure_cell(recurrences.MinGRU, (1, 8, 3, 4), 1, "cpu")
    assert list(found)[2:] == [
        "MinGRU by steps / MinGRU ours (median of 1 ratios)",
        "MinGRU: scratch (feature maps a direction)",
    ]
    assert all(value > 0 for value in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train-step", "ion-step", "sweep", "matching", "roi-align", "index"])
def test_benchmarks_run(name, one_round, monkeypatch):
    monkeypatch.setattr(index, "SIZES", {"small": (100, 700, 3)})
    results = benchmarks.BENCHMARKS[name]("cpu")
    assert results and all(isinstance(v, str) or math.isfinite(v) for v in results.values())
