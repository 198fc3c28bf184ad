"""Launchers: what a run is told, that its whole family ends with it, and Slurm through submitit's stand-ins."""

import builtins
import dataclasses
import os
import pickle
import signal
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from detection.ablation.launch.launchers import (
    Callbacks,
    Launcher,
    LocalLauncher,
    QueuedCommand,
    RunningProcess,
    run_all,
)
from detection.ablation.launch.slurm import SlurmCommand, SlurmJob, SlurmLauncher, SlurmOptions, SlurmQueue
from detection.errors import Interrupted, UserError
from detection.training import preemption


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
    until = time.monotonic() + 60
    while not all((tmp_path / name).read_text() for name in "01"):
        assert time.monotonic() < until
        time.sleep(0.05)
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
        self.interrupted = []

    def start(self, command, log):
        launcher, name = self, command[0]
        if name in self.broken:
            raise UserError("no such program.")

        class Imaginary(RunningProcess):
            looks = 0

            def poll(self):
                self.looks += 1
                if self.looks > len(name) and name in launcher.working:
                    launcher.working.remove(name)
                return None if self.looks <= len(name) else len(name)

            def interrupt(self, number):
                launcher.interrupted.append((name, number))

            def stop(self):
                launcher.stopped.append(name)

        self.working.append(name)
        self.most = max(self.most, len(self.working))
        return Imaginary()


def test_no_more_than_the_slots_work_at_a_time_and_each_is_reported():
    launcher, events = Imagined(2), []
    watch = Callbacks(lambda n: events.append(n), lambda n, code: events.append((n, code)), lambda names: None)
    run_all([QueuedCommand(n, [n], Path("log")) for n in ("aaaa", "b", "cc")], launcher, watch)
    assert launcher.most == 2 and launcher.stopped == []
    assert events == ["aaaa", "b", ("b", 1), "cc", ("aaaa", 4), ("cc", 2)]


def test_an_error_of_ours_ends_what_is_at_work():
    launcher = Imagined(2, broken=("bad",))
    with pytest.raises(UserError):
        run_all([QueuedCommand(n, [n], Path("log")) for n in ("a", "bad")], launcher, Callbacks())
    assert launcher.stopped == ["a"] and launcher.interrupted == [("a", signal.SIGTERM)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_handed_on_to_all_before_any_is_waited_for(tmp_path, number):
    save = "import signal, sys, time\nfor n in (2, 10, 15): signal.signal(n, lambda n, f: sys.exit(128 + n))\n"
    command = [sys.executable, "-c", save + "print('ready', flush=True)\ntime.sleep(60)"]
    launcher, logs = LocalLauncher(2, 2), [tmp_path / name for name in "ab"]

    def interrupt(names):
        if all(log.exists() and log.read_text() for log in logs):
            os.kill(os.getpid(), number)

    with preemption.watch(), pytest.raises(Interrupted) as interrupted:
        run_all([QueuedCommand(log.name, command, log) for log in logs], launcher, Callbacks(waited=interrupt))
    assert interrupted.value.number == number
    assert [process.poll() for process in launcher.processes.values()] == [128 + number] * 2


class FakePaths:
    def __init__(self, folder, ended):
        self.folder, self.result_pickle = folder, folder / ("." if ended else "never")


class FakeJob:
    job_id = "12"

    def __init__(self, work, folder, fails, ended, words):
        self.work, self.fails, self.words, self.paths = work, fails, words, FakePaths(folder, ended)
        self.cancelled = False

    def result(self):
        if self.fails:
            raise RuntimeError("RunningProcess not requeued because: timed-out too many times.\nmore")
        return self.work()

    def stderr(self):
        return self.words

    def cancel(self, check=True):
        self.cancelled = not check


class FakeExecutor:
    def __init__(self, folder, fails=False, ended=True, words=None):
        self.arguments = (folder, fails, ended, words)

    def submit(self, work):
        return FakeJob(work, *self.arguments)


class FakeQueue(SlurmQueue):
    def __init__(self, *held):
        self.answers = list(held)

    def holds(self, job):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def slurm(tmp_path, queue=None, **about):
    return SlurmLauncher(SlurmOptions(cpus=3), tmp_path / "slurm", None, FakeExecutor(tmp_path, **about), queue)


def test_a_slurm_job_runs_the_command_in_our_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launcher = slurm(tmp_path)
    assert launcher.slots > 1000
    assert SlurmLauncher(SlurmOptions(), tmp_path, 5, FakeExecutor(tmp_path)).slots == 5
    job = launcher.start(["sh", "-c", "pwd; echo $OMP_NUM_THREADS; exit 4"], Path("logs/log"))
    monkeypatch.chdir("/")
    assert job.poll() == job.poll() == 4
    assert (tmp_path / "logs/log").read_text() == f"{tmp_path}\n3\n"


def test_a_slurm_job_that_was_ended_is_reported_in_its_log(tmp_path):
    job = slurm(tmp_path, fails=True).start(["true"], tmp_path / "log")
    assert job.poll() == job.poll() == 1
    assert (tmp_path / "log").read_text() == (
        "\nSlurm job 12 ended without a result: RunningProcess not requeued because: timed-out too many times.\n"
    )


@pytest.mark.parametrize("words", [None, "", "first\nslurmstepd: error: *** JOB 12 CANCELLED AT noon ***\n\n"])
def test_a_slurm_job_that_left_the_queue_without_a_result_has_failed(tmp_path, monkeypatch, words):
    """Not at once, for a network's file system may be late; and not where the queue only seemed to lack it."""
    queue = FakeQueue(True, False, True, False, False)
    job = slurm(tmp_path, queue, ended=False, words=words).start(["true"], tmp_path / "log")
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for _ in range(4):
        assert job.poll() is None
        now[0] += 29
    now[0] += 2
    assert job.poll() == 1
    told = "slurmstepd: error: *** JOB 12 CANCELLED AT noon ***" if words else "it has left the queue"
    assert told in (tmp_path / "log").read_text()


def test_a_slurm_job_is_cancelled_while_it_works_and_only_then(tmp_path):
    working = slurm(tmp_path, FakeQueue(True), ended=False).start(["true"], tmp_path / "log")
    ended = slurm(tmp_path).start(["true"], tmp_path / "log")
    working.stop()
    ended.stop()
    assert working.job.cancelled and not ended.job.cancelled


def test_the_queue_is_asked_once_for_all_jobs_and_silence_is_no_answer(tmp_path, monkeypatch):
    script = tmp_path / "squeue"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ ! -e {tmp_path}/down ] && echo 11; echo 12')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    eleven, twelve, other = (types.SimpleNamespace(job_id=name) for name in ("11", "12", "1"))
    monkeypatch.setattr(SlurmQueue, "seconds", 3600)
    queue = SlurmQueue()
    assert [queue.holds(job) for job in (eleven, twelve, other)] == [True, True, False]
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
    script.write_text("#!/bin/sh\nexit 1")
    assert SlurmQueue().holds(other)


def test_a_job_that_sbatch_refuses_is_reported(tmp_path):
    class FailedJobError(RuntimeError):
        pass

    class Refusing:
        def submit(self, work):
            raise FailedJobError("sbatch: error: Batch job submission failed: Invalid partition name specified\n")

    launcher = SlurmLauncher(SlurmOptions(), tmp_path, None, Refusing())
    with pytest.raises(UserError, match="sbatch refused a job: .*Invalid partition name specified$"):
        launcher.start(["true"], tmp_path / "log")


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


def signal_when_written(path, number):
    """Send this process a signal when somebody has written the file."""
    until = time.monotonic() + 30
    while not (path.exists() and path.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(os.getpid(), number)


def test_a_job_that_is_queued_again_goes_on(tmp_path):
    """submitit asks for a checkpoint in a signal handler, while the job waits for its command."""
    submitit = pytest.importorskip("submitit")
    script = "trap 'echo saved; exit 143' TERM; echo restarts $DETECTION_RESTARTS; sleep 60 & wait"
    job = SlurmCommand(("bash", "-c", script), str(tmp_path), str(tmp_path / "log"), 1)
    again = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: again.append(job.checkpoint()))
    try:
        thread = threading.Thread(target=signal_when_written, args=(tmp_path / "log", signal.SIGUSR2))
        thread.start()
        assert job() == 143 and (tmp_path / "log").read_text() == "restarts 0\nsaved\n"
    finally:
        signal.signal(signal.SIGUSR2, before)
    (delayed,) = again
    assert isinstance(delayed, submitit.helpers.DelayedSubmission) and delayed.function.restarts == 1
    ended = dataclasses.replace(delayed.function, command=("bash", "-c", "echo restarts $DETECTION_RESTARTS"))
    assert pickle.loads(pickle.dumps(ended))() == 0
    assert (tmp_path / "log").read_text() == "restarts 0\nsaved\nrestarts 1\n"


def test_slurms_own_count_of_restarts_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    (tmp_path / "log").write_text("before\n")
    assert SlurmCommand(("sh", "-c", "echo $DETECTION_RESTARTS"), str(tmp_path), str(tmp_path / "log"), 1)() == 0
    assert (tmp_path / "log").read_text() == "before\n2\n"


@pytest.mark.slow
def test_submitit_itself_runs_a_job(tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    executor = submitit.LocalExecutor(tmp_path / "slurm")
    executor.update_parameters(timeout_min=5)

    class Local(SlurmQueue):
        def holds(self, job):
            return not job.done()

    monkeypatch.setattr(SlurmJob, "patience", 0.5)
    launcher = SlurmLauncher(SlurmOptions(), tmp_path / "slurm", executor=executor, queue=Local())
    job = launcher.start([sys.executable, "-c", "print('hello'); raise SystemExit(7)"], tmp_path / "log")
    assert wait(job, 120) == 7 and (tmp_path / "log").read_text() == "hello\n"
    endless = launcher.start(["sleep", "600"], tmp_path / "endless")
    assert endless.poll() is None
    endless.stop()
    assert wait(endless, 120) == 1


def test_submitit_or_slurm_that_is_missing_is_reported(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name == "submitit":
            raise ImportError(name)
        return real(name, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without)
        with pytest.raises(UserError, match=r"pip install 'context-detection\[slurm\]'"):
            SlurmLauncher(SlurmOptions(), tmp_path)
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(UserError, match="--launcher local"):
        SlurmLauncher(SlurmOptions(), tmp_path)
