"""Benchmarks of loading and of training steps run, and their results have names and values."""

import math

import pytest

from detection.benchmarks import detector_step, loading, quickstart_step, train_step
from detection.config import load_config
from detection.config.files import find_config
from detection.training.loaders import build_accelerator


def test_loading_is_measured():
    results = loading.benchmark_loading("cpu", images=8, rounds=2)
    assert {"images a second, 0 processes", "images a second, in memory, no process"} <= set(results)
    assert all(isinstance(v, str) or v > 0 for v in results.values())
    assert any(name.startswith("jpg, Pillow") for name in results)


def test_the_quick_start_s_update_is_measured(monkeypatch):
    monkeypatch.setattr(quickstart_step, "ROUNDS", 1)
    monkeypatch.setattr(quickstart_step, "IMAGES", 2)
    results = quickstart_step.benchmark_quickstart_step("cpu")
    assert results["an update of 2 images (s, median of 1)"] == results["the fastest (s)"] > 0


def test_steps_are_in_float32_after_a_benchmark_in_bf16(monkeypatch):
    build_accelerator("bf16", "cpu")
    precisions = []
    for module in (train_step, quickstart_step):
        monkeypatch.setattr(module, "train_one_epoch", lambda *args, **_: precisions.append(args[5].mixed_precision))
    monkeypatch.setattr(quickstart_step, "ROUNDS", 1)
    monkeypatch.setattr(quickstart_step, "IMAGES", 2)
    _, step = train_step.our_train_step("cpu", load_config(find_config("finetune")))
    step()
    quickstart_step.benchmark_quickstart_step("cpu")
    assert set(precisions) == {"no"}


@pytest.mark.slow
def test_a_detector_s_step_is_measured(monkeypatch):
    monkeypatch.setattr(detector_step, "SHAPES", {"cpu": (1, 128, 160)})
    monkeypatch.setattr(detector_step, "ROUNDS", {"cpu": 1})
    results = detector_step.benchmark_detector_step("cpu")
    ratios = [name for name in results if " / " in name]
    assert ratios == [
        "R50-FPN bf16, ours / torchvision's",
        "R50-FPN float32, ours / torchvision's",
        "R50-FPN bf16, ION / plain",
    ]
    assert all(math.isfinite(v) and v > 0 for v in results.values())
