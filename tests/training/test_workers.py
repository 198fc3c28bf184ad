"""How many processes load images."""

import os

import pytest

from detection.ablation.launch.launchers import LocalLauncher
from detection.training import workers
from detection.training.workers import loading_processes, own_cores, usable_cores


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


@pytest.mark.parametrize("text, quota", [("150000 100000\n", 1), ("50000 100000\n", 1), ("max 100000\n", None)])
def test_cores_of_a_control_group(tmp_path, monkeypatch, text, quota):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path) == (quota or 12)


def test_cores_of_a_control_group_of_version_1(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for quota, expected in (("-1\n", 12), ("300000\n", 3), ("damaged", 12)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
        assert usable_cores(tmp_path) == expected
    assert usable_cores(tmp_path / "none") == 12


@pytest.mark.parametrize("line, folder", [("0::/jobs/7", ""), ("4:cpu,cpuacct:/jobs/7", "cpu")])
def test_the_quota_of_a_group_around_the_own_one_counts(tmp_path, monkeypatch, line, folder):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS and Windows
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    groups, jobs = tmp_path / "cgroup", tmp_path / folder / "jobs"
    groups.write_text(f"1:name=systemd:/elsewhere\n{line}\n")
    (jobs / "7").mkdir(parents=True)
    assert usable_cores(tmp_path, groups) == 12
    (jobs / "cpu.max").write_text("400000 100000")
    assert usable_cores(tmp_path, groups) == 4
    (jobs / "7" / "cpu.max").write_text("200000 100000")
    assert usable_cores(tmp_path, groups) == 2
    assert usable_cores(tmp_path, tmp_path / "none") == 12


def test_a_run_of_an_ablation_has_its_share_of_the_cores(cores, monkeypatch):
    for name, value in LocalLauncher(4, 24).environment(1).items():
        monkeypatch.setenv(name, value)
    assert own_cores() == 6
