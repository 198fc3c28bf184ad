"""Signals: what is saved when, how it goes on, and that the end is that of an uninterrupted run."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

import detection.training.run as training
from detection.cli import train as train_command
from detection.errors import Interrupted, UserError
from detection.runs.checkpoint import load_training_state
from detection.runs.logs import RunLog
from detection.training import last_checkpoint, loop, preemption
from detection.training.clock import RunClock
from detection.training.loaders import DataLoader
from detection.training.run import train
from tests.tiny_runs import resume, tiny_config, write_config
from tests.training.forked_runs import log_lines, require_equal, start, wait_for

PREEMPTIONS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(scope="module")
def whole(shapes, tmp_path_factory):
    """An uninterrupted run of the tiny config; read only."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("detection.evaluation.report.to_png", lambda figure: b"")
        train(tiny_config(shapes), folder, Accelerator(cpu=True))
    return folder


@pytest.fixture
def signals(monkeypatch):
    """A function that sends this process a signal after some updates of the log, counted over all that follows."""
    sent = {}

    def send(number, *updates, times=1):
        sent.update(dict.fromkeys(updates, (number, times)))

    count, update = [0], RunLog.update

    def counted(self, epoch, line):
        update(self, epoch, line)
        count[0] += 1
        number, times = sent.get(count[0], (0, 0))
        for _ in range(times):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RunLog, "update", counted)
    return send


SETTINGS = {
    "loading processes, average and frozen stem": ("data.workers=2", "ema=0.9", "freeze.stem=1"),
    "accumulation": ("data.workers=0", "batch_size=1", "gradient_accumulation_steps=2"),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_an_epoch_interrupted_twice_ends_as_an_uninterrupted_one(shapes, tmp_path, signals, blank_plots, settings):
    config = tiny_config(shapes, *settings)
    train(config, tmp_path / "whole", Accelerator(cpu=True))
    signals(signal.SIGTERM, 8 + 1, 8 + 3, 8 + 6)
    run = tmp_path / "parts"
    for go_on, state in ((False, (0, 1)), (True, (0, 3)), (True, (1, 2))):
        with pytest.raises(
            Interrupted, match=r"by SIGTERM: .* is saved after .* `detection train --output .* --resume`"
        ):
            train(config, run, Accelerator(cpu=True), resume=go_on)
        progress = load_training_state(run / "checkpoints/last")["progress"]
        assert (progress["epoch"], progress["updates"]) == state
    resume(run)
    require_equal(tmp_path / "whole", run)


def test_after_the_last_update_of_an_epoch_too(whole, shapes, tmp_path, signals, blank_plots):
    signals(signal.SIGUSR2, 4)
    with pytest.raises(Interrupted):
        train(tiny_config(shapes), tmp_path / "parts", Accelerator(cpu=True))
    resume(tmp_path / "parts")
    require_equal(whole, tmp_path / "parts")


def test_updates_left_of_an_epoch_that_is_resumed(shapes, tmp_path, signals, monkeypatch, blank_plots):
    left, begin = [], RunClock.begin_epoch
    monkeypatch.setattr(RunClock, "begin_epoch", lambda self, count: [left.append(count), begin(self, count)])
    signals(signal.SIGTERM, 3)
    with pytest.raises(Interrupted):
        train(tiny_config(shapes), tmp_path / "run", Accelerator(cpu=True))
    resume(tmp_path / "run")
    assert left == [8, 5, 4]


def test_in_evaluation_what_was_trained_is_saved(whole, shapes, tmp_path, monkeypatch, blank_plots):
    with monkeypatch.context() as patched:
        evaluate = training.detect_split

        def interrupted(*args):
            os.kill(os.getpid(), signal.SIGUSR1)
            return evaluate(*args)

        patched.setattr(training, "detect_split", interrupted)
        with pytest.raises(Interrupted, match="by SIGUSR1: .* is saved after 1 epochs; go on"):
            train(tiny_config(shapes), tmp_path / "parts", Accelerator(cpu=True))
    resume(tmp_path / "parts")
    require_equal(whole, tmp_path / "parts")


def test_twice_while_a_checkpoint_is_written(whole, shapes, tmp_path, monkeypatch, blank_plots):
    with monkeypatch.context() as patched:
        save = last_checkpoint.save_checkpoint

        def interrupted(*args, **state):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            save(*args, **state)

        patched.setattr(last_checkpoint, "save_checkpoint", interrupted)
        with pytest.raises(Interrupted, match="is saved after 1 epochs"):
            train(tiny_config(shapes), tmp_path / "parts", Accelerator(cpu=True))
    resume(tmp_path / "parts")
    require_equal(whole, tmp_path / "parts")


def test_images_of_an_interrupted_epoch_are_not_decoded_again(shapes, tmp_path, signals, monkeypatch, blank_plots):
    signals(signal.SIGTERM, 3)
    with pytest.raises(Interrupted):
        train(tiny_config(shapes, "schedule.epochs=1"), tmp_path / "run", Accelerator(cpu=True))
    decoded, prepare = [], training.prepare

    def watched(*args):
        run = prepare(*args)
        dataset = run.data.train
        monkeypatch.setattr(type(dataset), "__getitem__", spy(decoded, type(dataset).__getitem__, dataset))
        return run

    monkeypatch.setattr(training, "prepare", watched)
    resume(tmp_path / "run")
    assert len(decoded) == 2  # the fourth of four batches


def spy(calls, function, watched):
    def call(self, key):
        calls.extend([key] if self is watched else [])
        return function(self, key)

    return call


def test_another_split_of_an_update_goes_on_with_the_images_that_are_left(shapes, tmp_path, signals, blank_plots):
    signals(signal.SIGTERM, 2)
    with pytest.raises(Interrupted):
        train(tiny_config(shapes, "schedule.epochs=1"), tmp_path / "run", Accelerator(cpu=True))
    resume(tmp_path / "run", "batch_size=1", "gradient_accumulation_steps=2")
    assert [line["step"] for line in log_lines(tmp_path / "run") if "lr" in line] == list(range(1, 5))


def test_a_checkpoint_every_so_many_minutes(shapes, tmp_path, signals, monkeypatch, blank_plots):
    saved, save = [], loop.save_last
    monkeypatch.setattr(loop, "save_last", lambda run, *random: (saved.append(str(run.done)), save(run, *random)))
    train(tiny_config(shapes, "checkpoint_minutes=1e-9", "schedule.epochs=1"), tmp_path / "run", Accelerator(cpu=True))
    within = [f"after 0 epochs and {n} updates" for n in (1, 2, 3, 4)]
    assert saved == [*within, "after 1 epochs", "after 1 epochs"]
    saved.clear()
    train(tiny_config(shapes, "checkpoint_minutes=99", "schedule.epochs=1"), tmp_path / "2", Accelerator(cpu=True))
    assert len(saved) == 2


def test_killed_after_a_checkpoint_within_an_epoch(whole, shapes, tmp_path, monkeypatch, blank_plots):

    class Killed(BaseException):
        pass

    with monkeypatch.context() as patched:
        update = RunLog.update

        def killed(self, epoch, line):
            update(self, epoch, line)
            if self.step == 7:  # of which the checkpoint after the sixth knows nothing
                raise Killed

        patched.setattr(RunLog, "update", killed)
        with pytest.raises(Killed):
            train(tiny_config(shapes, "checkpoint_minutes=1e-9"), tmp_path / "parts", Accelerator(cpu=True))
    resume(tmp_path / "parts")
    require_equal(whole, tmp_path / "parts")


def test_a_second_signal_is_noted_a_second_ctrl_c_ends_at_once(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for numbers, ends in (((15, 15), False), ((15, 2), True), ((2, 2), True), ((2, 15), False), ((15, 10, 12), True)):
        with preemption.watch():
            with preemption.postponed():
                try:
                    for number in numbers:
                        now[0] += 5
                        os.kill(os.getpid(), number)
                    assert not ends
                except Interrupted as interrupt:
                    assert ends and interrupt.number == numbers[0]
                    preemption._received.number = 0
                preemption._received.number = 0
    with preemption.watch(), pytest.raises(Interrupted), preemption.postponed():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # at the same moment: handed on by a launcher
        assert preemption.requested() == signal.SIGINT


def test_handlers_of_others_stay_and_ours_end_with_the_block():
    received, before, of_interrupt = [], signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
    try:
        with preemption.watch():
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert received == [signal.SIGUSR1] and signal.getsignal(signal.SIGINT) is of_interrupt
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_of_one_block_does_not_end_what_comes_after_it():
    """In a notebook that was interrupted once, the next training would end before it began."""
    with pytest.raises(Interrupted), preemption.watch(), preemption.postponed():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert preemption.requested() == 0
    with preemption.postponed(), preemption.at_once(), preemption.blocked():
        pass


@pytest.fixture
def workplace(shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "config.py", shapes)
    return tmp_path


@pytest.mark.parametrize("number", PREEMPTIONS)
def test_before_the_data_is_opened_one_line_and_nothing_written(workplace, monkeypatch, capsys, number):
    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), number)

    monkeypatch.setattr("detection.detector.require_buildable", interrupted)
    assert train_command.main(["config.py", "--device=cpu", "--output=run"]) == 128 + number
    restore_handlers()
    sentence = "this command has trained nothing yet; give it again"
    assert capsys.readouterr().err == f"interrupted by {number.name}: {sentence}\n"
    assert [path.name for path in workplace.iterdir()] == ["config.py"]


def test_behind_its_end_a_run_is_called_finished(workplace, monkeypatch, capsys, blank_plots):
    """The command said that nothing had been trained, and to give it again, which it then refused."""

    def interrupted(device):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(training, "peak_memory", interrupted)
    arguments = ["config.py", "--device=cpu", "--output=run", "schedule.epochs=1"]
    assert train_command.main(arguments) == 128 + signal.SIGINT
    restore_handlers()
    assert capsys.readouterr().err == "interrupted by SIGINT: run is finished\n"
    assert (workplace / "run/metrics.json").is_file()


def restore_handlers():
    """A command that was interrupted holds off further signals until its process ends, which a test's does not."""
    for number in PREEMPTIONS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def test_resume_or_start(workplace, signals, capsys, blank_plots):
    command = ["config.py", "--device=cpu", "--resume-or-start", "schedule.epochs=1"]
    (workplace / "runs/config").mkdir(parents=True)
    (workplace / "runs/config/config.json").write_text("{}")  # of a run that was killed before its first checkpoint
    signals(signal.SIGTERM, 2)
    assert train_command.main(command) == 128 + signal.SIGTERM
    restore_handlers()
    assert train_command.main(command) == 0
    out, err = capsys.readouterr()
    assert "go on with `detection train --output runs/config --resume`" in err and err.count("\n") == 1
    assert "resume    runs/config after 0 epochs and 2 updates" in out
    assert [path.name for path in (workplace / "runs").iterdir()] == ["config"]
    assert train_command.main([*command, "schedule.epochs=2"]) == 0
    assert "after 1 epochs" in capsys.readouterr().out


def test_resume_or_start_begins_again_where_nothing_was_saved(workplace, capsys, blank_plots):
    command = ["config.py", "--device=cpu", "--resume-or-start", "--output=run", "schedule.epochs=1"]
    assert train_command.main([*command, "optimizer.lr=1e30"]) == 2
    assert "lower optimizer.lr" in capsys.readouterr().err and (workplace / "run/non_finite_batch_0.pt").is_file()
    (workplace / "run/trackers.json").write_text("{}")
    assert train_command.main(command) == 0


def test_resume_or_start_without_a_config_begins_again_with_that_of_the_folder(workplace, capsys, blank_plots):
    """It began the quick start there, over the config of another."""
    command = ["--device=cpu", "--resume-or-start", "--output=run", "schedule.epochs=1"]
    assert train_command.main(["config.py", *command, "optimizer.lr=1e30"]) == 2
    capsys.readouterr()
    assert train_command.main([*command, "optimizer.lr=0.01"]) == 0
    config = json.loads((workplace / "run/config.json").read_text())
    assert config["detector"]["min_size"] == 64 and config["optimizer"]["lr"] == 0.01


def test_resume_or_start_leaves_the_runs_of_other_configs_alone(workplace, capsys, blank_plots):
    """runs/config-2 is the first run of config-2.py, or the second of config.py."""
    (workplace / "config-2.py").write_text((workplace / "config.py").read_text())
    for name in ("config", "config-2"):
        command = [sys.executable, "-m", "detection.cli.train", f"{name}.py", "--device=cpu", "schedule.epochs=1"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert train_command.main(["config.py", "--device=cpu", "--resume-or-start", "schedule.epochs=2"]) == 0
    assert "resume    runs/config after 1 epochs" in capsys.readouterr().out
    assert train_command.main(["config-2.py", "--device=cpu", "--resume-or-start", "schedule.epochs=2"]) == 0
    assert "resume    runs/config-2 after 1 epochs" in capsys.readouterr().out


def test_within_an_epoch_the_weights_of_a_former_one_are_gone(shapes, tmp_path, signals):
    signals(signal.SIGTERM, 6)
    with pytest.raises(Interrupted):
        train(tiny_config(shapes), tmp_path / "run", Accelerator(cpu=True))
    sentence = "is 2 updates into epoch 2, and the weights of the end of epoch 1 .* give schedule.epochs=2 or more"
    with pytest.raises(UserError, match=sentence):
        resume(tmp_path / "run", "schedule.epochs=1")


def test_an_epoch_that_becomes_the_last_one_is_evaluated(shapes, tmp_path, monkeypatch, blank_plots):
    train_epoch = loop._train_epoch
    with monkeypatch.context() as patched:
        patched.setattr(loop, "_train_epoch", lambda run, *rest: [train_epoch, None][run.done.epoch // 2](run, *rest))
        with pytest.raises(TypeError):  # in the third epoch
            train(tiny_config(shapes, "schedule.epochs=9", "evaluate_every=9"), tmp_path / "run", Accelerator(cpu=True))
    assert not (tmp_path / "run/checkpoints/best").exists()
    assert resume(tmp_path / "run", "schedule.epochs=1")["epoch"] == 2


def test_resume_or_start_takes_no_folder_of_others(workplace, capsys):
    (workplace / "run").mkdir()
    (workplace / "run/notes.txt").touch()
    assert train_command.main(["config.py", "--device=cpu", "--resume-or-start", "--output=run"]) == 2
    assert "run: exists already" in capsys.readouterr().err


def test_a_restarted_process_goes_on_by_itself(workplace, monkeypatch, capsys, blank_plots):
    command = ["config.py", "--device=cpu", "schedule.epochs=1"]
    assert train_command.main(command) == train_command.main(command) == 0
    for done, variable in enumerate(("TORCHELASTIC_RESTART_COUNT", "DETECTION_RESTARTS"), start=1):
        with monkeypatch.context() as patched:
            patched.setenv(variable, "1")
            assert train_command.main([*command, f"schedule.epochs={done + 1}"]) == 0
        assert f"resume    runs/config-2 after {done} epochs" in capsys.readouterr().out
    assert sorted(path.name for path in (workplace / "runs").iterdir()) == ["config", "config-2"]


class SlowImages(torch.utils.data.Dataset):
    """Images that take longer to load than a test waits."""

    def __len__(self):
        return 4

    def __getitem__(self, key):
        time.sleep(60)


def wait_until_blocked(pid, number):
    """Wait until a process keeps a signal off, which it does soon after it has started."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        time.sleep(0.3)
        return
    wait_for(lambda: int(re.search(r"SigBlk:\s*(\w+)", status.read_text())[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("number", PREEMPTIONS)
def test_loading_processes_end_with_their_parent_and_by_no_signal_of_others(number):
    iterator = iter(DataLoader(SlowImages(), num_workers=1, worker_init_fn=preemption.outlive_signals))
    (worker,) = iterator._workers
    wait_until_blocked(worker.pid, number)
    subprocess.run(["kill", f"-{int(number)}", str(worker.pid)], check=True)
    worker.join(0.3)
    try:
        assert worker.is_alive()
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == 0
    finally:
        os.kill(worker.pid, signal.SIGKILL) if worker.is_alive() else None


def test_a_signal_that_another_thread_receives_waits_for_the_end_of_a_block():
    """The main thread keeps it off, the others do not, and Python handles it in the main thread."""
    threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
    reached = []
    with preemption.watch():
        with pytest.raises(Interrupted), preemption.blocked():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.1)
            reached.append(True)
        with preemption.blocked():  # it is known by now
            reached.append(True)
    assert reached == [True, True]


ABANDONED = """
import multiprocessing, socket, time
from multiprocessing.reduction import DupFd
from detection.training.preemption import outlive_signals

def load():
    outlive_signals()
    (address, _) = DupFd(0)._id
    with socket.socket(socket.AF_UNIX) as parent:
        parent.connect(address)  # and ends before it has what is shared
    time.sleep(0.3)

process = multiprocessing.get_context("fork").Process(target=load)
process.start()
process.join(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="shares descriptors by Unix sockets")
def test_a_loading_process_prints_no_traceback_when_its_parent_goes():
    done = subprocess.run([sys.executable, "-c", ABANDONED], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("error", "printed"), [(ConnectionResetError(104, "reset"), False), (ValueError("own"), True)])
def test_other_errors_of_a_loading_process_are_printed(error, printed, capsys):
    preemption._leave_out_lost_connections(type(error), error, None)
    assert ("ValueError: own" in capsys.readouterr().err) == printed


def test_the_whole_process_group_with_loading_processes(workplace):
    """As Slurm does it: every process of the group gets the signal."""
    process = start(workplace, "config.py", "--output=run", "data.workers=2", "schedule.epochs=300")
    path = workplace / "run/log.jsonl"
    wait_for(lambda: path.exists() and len(path.read_text().splitlines()) > 2)
    os.killpg(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    text = (workplace / "out.txt").read_text()
    assert text.count("interrupted by SIGTERM: run is saved after") == 1 and "Traceback" not in text, text
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # no loading process is left
