"""Run folders: the next free name goes to one run alone."""

import subprocess
import sys

from accelerate import Accelerator

from detection.runs.folder import new_run_folder, taken_folder

TAKING = """
import sys
from accelerate import Accelerator
from detection.runs.folder import new_run_folder, taken_folder
folder = new_run_folder(None, "tiny")
print(flush=True)
sys.stdin.readline()
with taken_folder(folder, "tiny", Accelerator(cpu=True)) as taken:
    (taken / "config.json").touch()
    print(taken)
"""


def test_runs_started_together_get_a_folder_each(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    processes = [subprocess.Popen([sys.executable, "-c", TAKING], **pipes) for _ in range(2)]
    for process in processes:
        process.stdout.readline()  # both have chosen the same folder
    taken = [process.communicate("\n")[0].strip() for process in processes]
    assert sorted(taken) == ["runs/tiny", "runs/tiny-2"]


def test_a_folder_that_stays_empty_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with taken_folder(new_run_folder(None, "tiny"), "tiny", Accelerator(cpu=True)) as folder:
        assert folder.is_dir() and str(folder) == "runs/tiny"
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_was_asked_for_is_taken_as_it_is(tmp_path):
    with taken_folder(tmp_path / "run", None, Accelerator(cpu=True)) as folder:
        assert folder == tmp_path / "run" and not folder.exists()
