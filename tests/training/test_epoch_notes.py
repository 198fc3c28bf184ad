"""What a training prints about loading, memory and waiting."""

import re
import time

import pytest
from accelerate import Accelerator

from detection.data.dataset import DetectionDataset
from detection.training.clock import RunClock
from detection.training.run import train
from tests.tiny_runs import tiny_config

pytestmark = pytest.mark.usefixtures("blank_plots")


@pytest.fixture
def slow_files(monkeypatch):
    """Images that take as long as the rest of an update, in a process that may have nine cores."""
    get = DetectionDataset.__getitem__
    monkeypatch.setattr(DetectionDataset, "__getitem__", lambda self, key: time.sleep(0.03) or get(self, key))
    monkeypatch.setenv("DETECTION_CORES", "9")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


@pytest.mark.parametrize("megabytes, epochs", [(1, 1), (0, 2)])
def test_waiting_for_data_is_printed(slow_files, shapes, tmp_path, capsys, megabytes, epochs):
    """But for the first epoch, where it fills the memory for the others."""
    train(tiny_config(shapes, f"data.cache_megabytes={megabytes}"), tmp_path / "run", Accelerator(cpu=True))
    out = capsys.readouterr().out
    assert len(re.findall(r"^note      waiting for data \d\d% of the time: data.workers=2$", out, re.M)) == epochs


def test_loading_and_memory_are_printed(shapes, tmp_path, capsys):
    train(tiny_config(shapes, "data.workers=auto", "schedule.epochs=1"), tmp_path / "run", Accelerator(cpu=True))
    out = capsys.readouterr().out
    # 10 images of 64 x 64 x 3, and a mark each.
    assert "loading   in the training process, images stay in memory, 0 MB at most\n" in out
    assert re.search(r"^memory    \d{2,} MB at most in the first epoch$", out, re.M)
    assert re.search(r"^finished  .* min, \d{2,} MB of memory at most$", out, re.M)


def test_the_time_left_is_that_of_the_updates_left(monkeypatch):
    """Two of five updates took 20 s, evaluations between them included: three more take 30 s."""
    now = [100.0]
    monkeypatch.setattr("detection.training.clock.time.monotonic", lambda: now[0])
    clock = RunClock()
    clock.begin_epoch(5)
    assert clock.note() == ""
    for loss in (3.0, 1.0):
        now[0] += 8
        clock.update(loss)
    now[0] += 4
    assert clock.texts({"AP": 0.25}, 2) == ["train loss 2.000", "AP 0.25", "30 s left of the run"]
    clock.begin_epoch(1)
    now[0] += 10
    clock.update(0.5)
    assert clock.texts({}, 3) == ["train loss 0.500"]
