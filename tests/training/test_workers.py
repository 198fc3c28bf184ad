"""How many processes load images."""

import pytest

from detection.ablation.launch.launchers import LocalLauncher
from detection.training import workers
from detection.training.workers import loading_processes, own_cores


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setattr(workers, "has_shared_memory", lambda: True)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return lambda number: monkeypatch.setenv("DETECTION_CORES", str(number))


@pytest.mark.parametrize(
    "number, device, in_memory, expected",
    [
        (16, "cpu", True, 0), (16, "cpu", False, 2), (2, "cpu", False, 1), (1, "cpu", False, 0),
        (16, "cuda", True, 8), (5, "cuda", False, 4), (1, "cuda", False, 0),
    ],
)  # fmt: skip
def test_auto_by_cores_and_device(cores, number, device, in_memory, expected):
    cores(number)
    assert loading_processes("auto", device, in_memory) == expected
    assert loading_processes(3, device, in_memory) == 3


def test_processes_of_a_machine_share_its_cores(cores, monkeypatch):
    cores(16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert own_cores() == 4 and loading_processes("auto", "cuda", False) == 3


def test_no_processes_without_shared_memory(cores, monkeypatch):
    cores(16)
    monkeypatch.setattr(workers, "has_shared_memory", lambda: False)
    assert loading_processes("auto", "cuda", False) == 0


def test_a_run_of_an_ablation_has_its_share_of_the_cores(cores, monkeypatch):
    for name, value in LocalLauncher(4, 24).environment(1).items():
        monkeypatch.setenv(name, value)
    assert own_cores() == 6
