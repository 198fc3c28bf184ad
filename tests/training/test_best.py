"""Which checkpoint is the best: by a metric that has a value."""

import json

import pytest
from accelerate import Accelerator

from detection.training import run as training
from detection.training.run import train
from tests.tiny_runs import tiny_config


@pytest.fixture
def metric_by_epoch(monkeypatch, blank_plots):
    """Sets the AP of each evaluation in turn, the last one for those after it."""

    def set_values(*values):
        evaluate, left = training.evaluate_detections, list(values)
        next_value = lambda: left.pop(0) if len(left) > 1 else left[0]  # noqa: E731
        monkeypatch.setattr(training, "evaluate_detections", lambda *args: {**evaluate(*args), "AP": next_value()})

    return set_values


def best_epoch(folder):
    return json.loads((folder / "checkpoints/best/meta.json").read_text())["epoch"]


def test_the_choice_and_early_stopping_wait_for_a_defined_metric(shapes, tmp_path, capsys, blank_plots):
    # Images of 64 pixels have no large object.
    config = tiny_config(shapes, "schedule.epochs=3", "best_metric=APl", "early_stopping=1", "samples=0")
    metrics = train(config, tmp_path / "run", Accelerator(cpu=True))
    printed = capsys.readouterr().out
    assert metrics["APl"] == -1 and metrics["epoch"] == best_epoch(tmp_path / "run") == 3
    assert "stopped" not in printed and printed.count("APl is not defined at epoch") == 1
    assert "best checkpoint: epoch 3 by APl, the newest, since it was never defined" in printed


def test_an_undefined_metric_is_neither_better_nor_worse(shapes, tmp_path, capsys, metric_by_epoch):
    metric_by_epoch(-1, 0.0, -1, -1, 0.0, 0.0)
    config = tiny_config(shapes, "schedule.epochs=6", "early_stopping=2", "evaluate_every=1", "samples=0")
    train(config, tmp_path / "run", Accelerator(cpu=True))
    printed = capsys.readouterr().out
    assert best_epoch(tmp_path / "run") == 2 and "best checkpoint: epoch 2 by AP\n" in printed
    assert [f"at epoch {n}, and" in printed for n in range(1, 7)] == [True, False, True, True, False, False]


def test_early_stopping_counts_evaluations_with_a_value(shapes, tmp_path, capsys, metric_by_epoch):
    metric_by_epoch(0.2, float("nan"), 0.1, -1, 0.1)
    config = tiny_config(shapes, "schedule.epochs=9", "early_stopping=2", "samples=0")
    train(config, tmp_path / "run", Accelerator(cpu=True))
    assert "no better AP in 2 evaluations" in capsys.readouterr().out and best_epoch(tmp_path / "run") == 1
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert max(line["epoch"] for line in log) == 4
