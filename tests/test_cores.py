"""Cores by affinity and control groups, and what is decoded and hashed by as many threads."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from detection.cores import usable_cores
from detection.data import image_checks, image_identity
from detection.data.checks import examine


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


def test_images_are_read_by_as_many_threads_as_there_are_cores(tmp_path, monkeypatch):
    started = []

    class Threads(ThreadPoolExecutor):
        def __init__(self, number):
            started.append(number)
            super().__init__(number)

    for module in (image_checks, image_identity):
        monkeypatch.setattr(module, "usable_cores", lambda: 3)
        monkeypatch.setattr(module, "ThreadPoolExecutor", Threads)
    (tmp_path / "a.png").write_bytes(b"")
    data = {"images": [{"id": 1, "file_name": "a.png", "width": 1, "height": 1}], "categories": [], "annotations": []}
    problems, _ = image_checks.examine_images(examine(data, tmp_path / "a.json")[0], tmp_path / "a.json", tmp_path)
    assert [problem.kind for problem in problems] == ["unreadable image file"]
    image_identity.images_digest(tmp_path, ["a.png"], cache_dir=tmp_path / "cache")
    assert started == [3, 6]
