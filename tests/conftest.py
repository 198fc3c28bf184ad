"""One torch thread and no update checks for every test; set before the libraries are imported."""

import os
import random
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest


def pytest_collection_modifyitems(items):
    """Tests that are marked slow have an hour; `timeout` in pyproject.toml is that of the others."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Indices of test data go to a temporary folder, not to the user's cache."""
    os.environ["DETECTION_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_random_numbers():
    """What a test draws depends on no other test."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def blank_plots(monkeypatch):
    """Runs write empty plots: to draw them takes longer than a tiny training."""
    monkeypatch.setattr("detection.evaluation.report.to_png", lambda figure: b"")


@pytest.fixture(autouse=True)
def _own_precision():
    """What an accelerator was built with, which a process keeps, ends with its test."""
    yield
    if "accelerate" in sys.modules:
        sys.modules["accelerate"].state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def _own_trust():
    """Packages that a test trusted, by a command line's `--trust` for instance, are trusted in that test alone."""
    yield
    if "detection.config.parts" in sys.modules:
        sys.modules["detection.config.parts"]._trusted.clear()


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A folder with 7 training and 3 validation images of 64 pixels; read only."""
    from tests.tiny_runs import draw_shapes

    return draw_shapes(tmp_path_factory.mktemp("scenes") / "shapes")


@pytest.fixture(scope="session")
def finished_run(shapes, tmp_path_factory):
    """A run folder of two trained epochs; read only."""
    from accelerate import Accelerator

    from detection.training.run import train
    from tests.tiny_runs import tiny_config

    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(tiny_config(shapes, "validation_loss=true", "ema=0.9"), folder, Accelerator(cpu=True))
    return folder
