"""Full disks, small shared memory, killed processes and power cuts of real file systems: needs root to mount them."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from accelerate import Accelerator

from detection.runs.checkpoint import load_meta, newest_complete
from detection.runs.folder import open_config
from detection.training.run import train
from tests.tiny_runs import write_config

TRAIN = "import sys; from detection.cli.train import main; sys.exit(main(sys.argv[1:]))"
UNCHECKED = "import detection.training.loop as loop; loop.require_room = lambda *a, **k: None; " + TRAIN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root"),
]


def call(*command):
    return subprocess.run(command, capture_output=True, text=True)


@contextmanager
def mounted(folder, *options):
    folder.mkdir(exist_ok=True)
    done = call("mount", *options, str(folder))
    if done.returncode:
        pytest.skip(done.stderr)
    try:
        yield folder
    finally:
        assert call("umount", "--lazy", str(folder)).returncode == 0


def started(code, folder, *arguments, before=()):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*before, sys.executable, "-c", code, *arguments, "--device=cpu"], cwd=folder, **pipes)


def wait_for_checkpoint(process, run):
    """Wait until a training has saved its state, and return where; one that ended before shows its output."""
    last = run / "checkpoints" / "last"
    while not last.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    return last


def refused(process, words):
    """Wait for a command's end, check that it was one sentence, and return it."""
    output = process.communicate(timeout=90)[0]
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert process.returncode == 2 and len(errors) == 1 and "Traceback" not in output, output
    assert "Exception" not in output and any(word in errors[0] for word in words), output
    return errors[0]


@pytest.fixture
def config(shapes, tmp_path):
    return str(write_config(tmp_path / "config.py", shapes))


@pytest.mark.parametrize("size", range(40, 440, 20))
def test_a_full_disk(config, tmp_path, size):
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs") as small:
        arguments = (config, "--output", str(small / "run"), "schedule.epochs=4")
        sentence = refused(started(UNCHECKED, tmp_path, *arguments), ("the disk is full", "No space left"))
        shutil.copytree(small / "run", tmp_path / "copy") if (small / "run").exists() else None
    last = newest_complete(tmp_path / "copy" / "checkpoints" / "last")
    assert last.exists() == ("is saved after" in sentence) or "No space left" in sentence
    if last.exists():
        train(
            open_config(tmp_path / "copy", ["schedule.epochs=5"]), tmp_path / "copy", Accelerator(cpu=True), resume=True
        )


def test_room_is_checked_before_anything_is_written(config, tmp_path):
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=300k", "tmpfs") as small:
        refused(started(TRAIN, tmp_path, config, "--output", str(small / "run")), ("are free on its disk",))
        assert not list(small.iterdir())


def test_a_read_only_disk(config, tmp_path):
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "ro", "tmpfs") as small:
        refused(started(TRAIN, tmp_path, config, "--output", str(small / "run")), ("read-only",))


@pytest.mark.parametrize("size", [8, 1100])  # without room for a lock, and for a batch
def test_small_shared_memory(config, tmp_path, size):
    command = f'mount -t tmpfs -o size={size}k tmpfs /dev/shm && exec "$@"'
    arguments = (config, "--output", "run", "data.workers=2", "detector.min_size=700", "detector.max_size=700")
    before = ("unshare", "-m", "sh", "-c", command, "sh")
    refused(started(TRAIN, tmp_path, *arguments, before=before), ("--shm-size",))


def test_a_killed_loading_process(config, tmp_path):
    process = started(TRAIN, tmp_path, config, "--output", "run", "data.workers=2", "schedule.epochs=2000")
    wait_for_checkpoint(process, tmp_path / "run")
    children = call("ps", "-o", "pid=", "--ppid", str(process.pid)).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    sentence = refused(process, ("a process that loads data",))
    assert "is saved after" in sentence and newest_complete(tmp_path / "run" / "checkpoints" / "last").exists()


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_vanished_folder(config, tmp_path, how):
    process = started(TRAIN, tmp_path, config, "--output", "run", "schedule.epochs=2000")
    wait_for_checkpoint(process, tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    if how == "deleted":
        shutil.rmtree(tmp_path / "moved")
    refused(process, ("moved or deleted",))
    assert not (tmp_path / "run").exists()


def test_power_cuts(config, tmp_path):
    backing, copies = tmp_path / "disk", [tmp_path / f"disk{n}" for n in range(20)]
    backing.touch()
    os.truncate(backing, 32_000_000)
    if not shutil.which("mkfs.ext4") or call("mkfs.ext4", "-q", str(backing)).returncode:
        pytest.skip("no ext4 here")
    announced = []
    with mounted(tmp_path / "mounted", "-o", "loop", str(backing)) as disk:
        process = started(TRAIN, tmp_path, config, "--output", str(disk / "run"), "schedule.epochs=100000", "samples=0")
        last = wait_for_checkpoint(process, disk / "run")
        for copy in copies:
            time.sleep(random.uniform(0.05, 0.5))
            process.send_signal(signal.SIGSTOP)
            announced.append(load_meta(newest_complete(last))["epoch"])
            shutil.copyfile(backing, copy)
            process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()
    for number, (copy, epoch) in enumerate(zip(copies, announced, strict=True)):
        with mounted(tmp_path / f"mounted{number}", "-o", "loop", str(copy)) as disk:
            run = disk / "run"
            found = load_meta(newest_complete(run / "checkpoints" / "last"))["epoch"]
            assert found >= epoch - 1  # the epoch may have been put in place, and not announced yet
            train(open_config(run, [f"schedule.epochs={found + 1}"]), run, Accelerator(cpu=True), resume=True)
            assert load_meta(run / "checkpoints" / "last")["epoch"] == found + 1
