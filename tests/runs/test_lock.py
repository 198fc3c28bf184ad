"""One writer a run folder, whose lock ends with its process; folders taken at the same time are different ones."""

import errno
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from torch import nn

from detection.errors import UserError
from detection.runs import lock
from detection.runs.checkpoint import save_checkpoint
from detection.runs.lock import require_present, writing

HOLDER = """
    import sys, time
    from pathlib import Path
    from detection.runs.lock import writing

    with writing(Path(sys.argv[1])):
        print("locked", flush=True)
        time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path / "run"`."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        yield process
        process.kill()


def test_a_second_writer_is_refused_and_changes_nothing(holder, tmp_path):
    with pytest.raises(UserError, match=rf"run: another process \(process {holder.pid} on .*\) is training here; wait"):
        with writing(tmp_path / "run"):
            pass
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_the_lock_of_a_killed_process_is_free(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with writing(tmp_path / "run"):
        assert f"process {os.getpid()} " in (tmp_path / "run" / ".lock").read_text()


def test_a_process_that_loads_data_does_not_keep_the_lock(tmp_path):
    with writing(tmp_path / "run"):
        child = os.fork()
        if not child:
            signal.pause()
    try:
        with writing(tmp_path / "run"):
            code = "import sys; from pathlib import Path; from detection.runs.lock import writing\n"
            code += "with writing(Path(sys.argv[1])): pass"
            done = subprocess.run([sys.executable, "-c", code, tmp_path / "run"], capture_output=True, text=True)
            assert done.returncode == 1 and "another process" in done.stderr
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_within_a_process_the_lock_can_be_taken_again(tmp_path):
    with writing(tmp_path / "run"):
        with writing(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / ".lock").exists()
        (tmp_path / "run" / "config.json").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_folder_in_which_nothing_was_written_vanishes_with_its_new_parents(tmp_path):
    (tmp_path / "kept").mkdir()
    for folder in (tmp_path / "new" / "folder" / "run", tmp_path / "kept"):
        with pytest.raises(ValueError), writing(folder):
            assert folder.is_dir()
            raise ValueError
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and not list((tmp_path / "kept").iterdir())


def test_other_processes_of_a_training_write_nothing(tmp_path):
    with writing(tmp_path / "run", main=False):
        assert not (tmp_path / "run").exists()


def test_where_locks_are_not_known_a_note_is_printed_once(tmp_path, monkeypatch, capsys):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    for _ in range(2):
        with writing(tmp_path / "run"):
            pass
    error = capsys.readouterr().err
    assert error.count("cannot be locked here (No locks available)") == 1


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "made")
    with pytest.raises(OSError), writing(tmp_path / "run"):
        pass
    assert not (tmp_path / "made").exists()


def test_a_folder_that_was_moved_or_replaced_is_noticed_and_left_alone(tmp_path):
    run = tmp_path / "run"
    require_present(run)
    with writing(run):
        require_present(run)
        save_checkpoint(run / "checkpoints" / "last", nn.Linear(1, 1), (), {})
        run.rename(tmp_path / "moved")
        with pytest.raises(UserError, match="run: the run folder was moved or deleted"):
            save_checkpoint(run / "checkpoints" / "last", nn.Linear(1, 1), (), {})
        assert not run.exists()
        run.mkdir()
        (run / ".lock").write_text("another run's")
        with pytest.raises(UserError, match="moved or deleted"):
            save_checkpoint(run / "checkpoints" / "last", nn.Linear(1, 1), (), {})
    assert [path.name for path in run.iterdir()] == [".lock"]
    assert (tmp_path / "moved" / "checkpoints" / "last" / "model.safetensors").exists()
