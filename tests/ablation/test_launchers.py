"""Launchers: what a run is told, that its whole family ends with it, and Slurm through submitit's stand-ins."""

import builtins
import os
import sys
import time
from pathlib import Path

import pytest

from detection.ablation.launchers import Job, Launcher, LocalLauncher
from detection.ablation.running import Task, Watch, run_all
from detection.ablation.slurm import SlurmLauncher, SlurmOptions
from detection.errors import UserError


def wait(job, seconds=60.0):
    until = time.monotonic() + seconds
    while job.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    return job.poll()


def test_a_run_has_its_share_of_cores_and_its_words_are_kept(tmp_path):
    launcher = LocalLauncher(workers=3, cores=8)
    command = ["sh", "-c", "echo $OMP_NUM_THREADS $OMP_WAIT_POLICY; echo wrong >&2; exit 3"]
    job = launcher.start(command, tmp_path / "deep" / "log")
    assert wait(job) == 3
    assert (tmp_path / "deep" / "log").read_text() == "2 PASSIVE\nwrong\n"
    assert LocalLauncher(workers=9, cores=4).threads == 1


def test_gpus_go_round(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    launcher = LocalLauncher(workers=4, cores=4, gpus=2)
    assert [launcher.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["0", "1", "0", "1"]
    jobs = [launcher.start(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES; sleep 60"], tmp_path / str(n)) for n in range(2)]
    jobs[0].stop()
    again = launcher.start(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"], tmp_path / "2")
    wait(again)
    jobs[1].stop()
    assert [(tmp_path / name).read_text() for name in "012"] == ["0\n", "1\n", "0\n"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    assert [launcher.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["6", "7"]


def test_all_that_a_run_started_ends_with_it(tmp_path):
    job = LocalLauncher(1, 1).start(["sh", "-c", "sleep 300 & echo $!; wait"], tmp_path / "log")
    until = time.monotonic() + 30
    while not (tmp_path / "log").read_text() and time.monotonic() < until:
        time.sleep(0.05)
    child = int((tmp_path / "log").read_text())
    job.stop()
    assert job.poll() is not None
    until = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and "sleep" in Path(f"/proc/{child}/comm").read_text():
        assert time.monotonic() < until, "the child lives"
        time.sleep(0.05)


class Imagined(Launcher):
    """Jobs that take a number of looks to end, and remember what became of them."""

    pause = 0.0

    def __init__(self, slots, broken=()):
        self.slots, self.broken, self.working, self.most, self.stopped = slots, broken, [], 0, []

    def start(self, command, log):
        launcher, name = self, command[0]
        if name in self.broken:
            raise UserError("no such program.")

        class Imaginary(Job):
            looks = 0

            def poll(self):
                self.looks += 1
                if self.looks > len(name) and name in launcher.working:
                    launcher.working.remove(name)
                return None if self.looks <= len(name) else len(name)

            def stop(self):
                launcher.stopped.append(name)

        self.working.append(name)
        self.most = max(self.most, len(self.working))
        return Imaginary()


def test_no_more_than_the_slots_work_at_a_time_and_each_is_told():
    launcher, events = Imagined(2), []
    watch = Watch(lambda n: events.append(n), lambda n, code: events.append((n, code)), lambda names: None)
    run_all([Task(n, [n], Path("log")) for n in ("aaaa", "b", "cc")], launcher, watch)
    assert launcher.most == 2 and launcher.stopped == []
    assert events == ["aaaa", "b", ("b", 1), "cc", ("aaaa", 4), ("cc", 2)]


def test_an_error_of_ours_ends_what_is_at_work():
    launcher = Imagined(2, broken=("bad",))
    with pytest.raises(UserError):
        run_all([Task(n, [n], Path("log")) for n in ("a", "bad")], launcher, Watch(print, print, lambda names: None))
    assert launcher.stopped == ["a"]


class FakeJob:
    job_id, state = "12", "TIMEOUT"

    def __init__(self, work, fails):
        self.work, self.fails, self.cancelled = work, fails, False

    def done(self):
        return True

    def result(self):
        if self.fails:
            raise RuntimeError("Job not requeued because: timed-out too many times.\nmore")
        return self.work()

    def cancel(self):
        self.cancelled = True


class FakeExecutor:
    def __init__(self, fails=False):
        self.fails = fails

    def submit(self, work):
        return FakeJob(work, self.fails)


def test_a_slurm_job_runs_the_command_in_our_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launcher = SlurmLauncher(SlurmOptions(cpus=3), tmp_path / "slurm", executor=FakeExecutor())
    assert launcher.slots > 1000 and SlurmLauncher(SlurmOptions(), tmp_path, 5, FakeExecutor()).slots == 5
    job = launcher.start(["sh", "-c", "pwd; echo $OMP_NUM_THREADS; exit 4"], Path("logs/log"))
    monkeypatch.chdir("/")
    assert job.poll() == 4
    assert (tmp_path / "logs/log").read_text() == f"{tmp_path}\n3\n"


def test_a_slurm_job_that_was_ended_is_told_in_its_log(tmp_path):
    launcher = SlurmLauncher(SlurmOptions(), tmp_path / "slurm", executor=FakeExecutor(fails=True))
    job = launcher.start(["true"], tmp_path / "log")
    assert job.poll() == 1
    assert "Slurm job 12 ended as TIMEOUT: Job not requeued" in (tmp_path / "log").read_text()


def test_options_in_submitits_words():
    parameters = SlurmOptions("fast", 2, 8, 1.5, 32, "lab").parameters()
    assert parameters == {
        "slurm_partition": "fast", "slurm_account": "lab", "gpus_per_node": 2, "cpus_per_task": 8,
        "timeout_min": 90, "mem_gb": 32,
    }  # fmt: skip
    assert "slurm_partition" not in SlurmOptions().parameters()
    submitit = pytest.importorskip("submitit")
    executor = submitit.AutoExecutor("unused", cluster="debug")
    executor.update_parameters(name="ablation", **parameters)


def test_submitit_itself_runs_a_job(tmp_path):
    submitit = pytest.importorskip("submitit")
    executor = submitit.LocalExecutor(tmp_path / "slurm")
    executor.update_parameters(timeout_min=5)
    launcher = SlurmLauncher(SlurmOptions(), tmp_path / "slurm", executor=executor)
    job = launcher.start([sys.executable, "-c", "print('hello'); raise SystemExit(7)"], tmp_path / "log")
    assert wait(job, 120) == 7 and (tmp_path / "log").read_text() == "hello\n"
    endless = launcher.start(["sleep", "600"], tmp_path / "endless")
    assert endless.poll() is None
    endless.stop()
    assert wait(endless, 120) == 1


def test_submitit_or_slurm_that_is_missing_is_told(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name == "submitit":
            raise ImportError(name)
        return real(name, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without)
        with pytest.raises(UserError, match=r"pip install 'detection\[slurm\]'"):
            SlurmLauncher(SlurmOptions(), tmp_path)
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(UserError, match="--launcher local"):
        SlurmLauncher(SlurmOptions(), tmp_path)
