"""What the system refuses is one sentence with a remedy and exit code 2; other errors keep their traceback."""

import errno
import subprocess
import sys
import threading
import time

import pytest
import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader, Dataset

from detection.errors import command_line
from detection.system_errors import explain


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permissions"),
        (errno.ENOENT, "moved or deleted"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EIO, "check the disk"),
    ],
)
def test_errors_of_files_are_one_sentence(number, words, tmp_path, capsys):
    @command_line
    def main():
        raise OSError(number, "reason", str(tmp_path / "run" / "log.jsonl"))

    assert main() == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/run/log.jsonl: ") and words in error and error.count("\n") == 1


def test_how_much_is_free_is_stated_where_it_is_known(tmp_path):
    assert "MB are free" in explain(OSError(errno.ENOSPC, "full", str(tmp_path / "a")))
    assert "free)" not in explain(OSError(errno.ENOSPC, "full"))


class Full:
    """A file on a full disk."""

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self):
        pass


def test_the_reason_behind_a_library_s_error_is_found():
    with pytest.raises((OSError, RuntimeError)) as error:
        torch.save({"a": torch.ones(9)}, Full())
    assert "the disk is full" in explain(error.value)
    wrong_position = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 598")
    wrong_position.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert "the disk is full" in explain(wrong_position)
    text = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert "the disk is full" in explain(SafetensorError(text))


class Dying(Dataset):
    """Kills the process that loads it."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        import os
        import signal

        # By then the main process waits; PyTorch raises in whatever it does, holding a queue's lock or not.
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_loading_process_is_named_with_the_remedy():
    with pytest.raises(RuntimeError) as error:
        list(DataLoader(Dying(), num_workers=1))
    sentence = explain(error.value)
    assert "was killed (signal: Killed)" in sentence or "ended unexpectedly" in sentence
    assert "lower data.workers" in sentence


def test_shared_memory_that_is_too_small_is_named_with_the_remedy():
    text = "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"
    for error in (RuntimeError(text), RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.")):
        assert "data.workers=0" in explain(error) and "--shm-size" in explain(error)


def test_mistakes_of_the_program_are_not_hidden():
    for error in (ValueError("x"), RuntimeError("x"), OSError("no number"), KeyError("x")):
        assert explain(error) is None
    try:
        try:
            open("/none/none")
        except OSError:
            raise ValueError("unrelated")  # noqa: B904
    except ValueError as error:
        assert explain(error) is None


def test_a_thread_s_traceback_of_a_full_disk_is_left_out(capsys):
    @command_line
    def main():
        for target in (Full().write, int):
            thread = threading.Thread(target=target, args=("x",))
            thread.start()
            thread.join()

    before = threading.excepthook
    assert main() == 0 and threading.excepthook is before
    error = capsys.readouterr().err
    assert error.count("Traceback") == 1 and "ValueError" in error


def test_what_python_cannot_raise_of_a_killed_process_is_left_out(capsys, monkeypatch):
    """A signal's handler raises anywhere, also where Python drops errors; the loader notices again."""
    monkeypatch.setattr(sys, "__unraisablehook__", lambda args: print("Traceback of", args.exc_value, file=sys.stderr))

    class Dropped:
        def __init__(self, error):
            self.error = error

        def __del__(self):
            raise self.error

    @command_line
    def main():
        Dropped(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."))
        Dropped(RuntimeError("something else"))

    before = sys.unraisablehook
    assert main() == 0 and sys.unraisablehook is before
    assert capsys.readouterr().err == "Traceback of something else\n"


def test_output_that_nobody_reads_ends_a_command_quietly():
    code = (
        "import sys; from detection.errors import command_line\n"
        "@command_line\ndef main():\n    while True: print('x' * 1000)\nsys.exit(main())"
    )
    shell = f'{sys.executable} -c "$CODE" | head -c 10; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", shell], env={"CODE": code, "PATH": "/usr/bin:/bin"}, capture_output=True)
    assert done.stdout.endswith(b"141\n") and done.stderr == b""
