"""Kills and signals at random moments, with loading processes: each run ends as an uninterrupted one.

The numbers of tries are PREEMPTION_KILLS (60) and PREEMPTION_SIGNALS (10 of each kind).
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny_runs import draw_shapes, write_config
from tests.training.forked_runs import log_lines, require_equal, start, wait_for

pytestmark = pytest.mark.slow
KILLS, SIGNALS = (int(os.environ.get(f"PREEMPTION_{name}", n)) for name, n in (("KILLS", 60), ("SIGNALS", 10)))
OVERRIDES = ("data.workers=2", "ema=0.9", "checkpoint_minutes=0.002", "schedule.epochs=3")
UPDATES = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a config over a few images, and its uninterrupted run."""
    place = tmp_path_factory.mktemp("campaign")
    write_config(place / "config.py", draw_shapes(place / "shapes", train=7, val=30))
    process = start(place, "config.py", "--output=whole", *OVERRIDES)
    process.join(120)
    assert process.exitcode == 0, (place / "out.txt").read_text()
    return place


def go_on(place, name):
    return start(place, "config.py", f"--output={name}", "--resume-or-start", *OVERRIDES)


def finish(place, name):
    process = go_on(place, name)
    process.join(120)
    assert process.exitcode == 0, (place / "out.txt").read_text()
    require_equal(place / "whole", place / name)


def test_kills_at_random(place):
    rng, kills, run = random.Random(0), 0, 0
    while kills < KILLS:
        run += 1
        for _ in range(rng.randint(1, 5)):
            process = go_on(place, f"killed-{run}")
            process.join(rng.uniform(0, 4))
            if process.exitcode is not None:
                assert process.exitcode == 0, (place / "out.txt").read_text()
                break
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has not made its group yet
                process.kill()
            process.join()
            kills += 1
        finish(place, f"killed-{run}")


@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("evaluating", [False, True], ids=["mid-epoch", "evaluating"])
def test_signals_at_random(place, evaluating, to_group):
    rng, done, tries = random.Random(1), 0, 0
    while done < SIGNALS and tries < 5 * SIGNALS:
        tries += 1
        name = f"{'evaluating' if evaluating else 'mid'}-{'group' if to_group else 'process'}-{tries}"
        epoch = rng.randint(0, 2)
        lines = epoch * (UPDATES + 1) + (UPDATES if evaluating else rng.randint(1, UPDATES - 2))
        before = len((place / "out.txt").read_text())
        process = go_on(place, name)
        wait_for(lambda: len(log_lines(place / name)) >= lines)  # noqa: B023
        time.sleep(rng.uniform(0, 0.05))
        number = rng.choice((signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2))
        (os.killpg if to_group else os.kill)(process.pid, number)
        process.join(60)
        text = (place / "out.txt").read_text()[before:]
        assert process.exitcode == 128 + number and "Traceback" not in text and text.count("interrupted by") == 1, text
        saved = text.rpartition(" is saved ")[2]
        done += ("updates" not in saved) == evaluating
        finish(place, name)
    assert done >= SIGNALS


def torchrun(place, *arguments):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    command = [sys.executable, *launcher, "--max-restarts=1", "-m", "detection.cli.train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (place / "two.txt").open("a") as output:
        return subprocess.Popen([*command, *arguments], cwd=place, env=environment, stdout=output, stderr=output)


def rank(launcher, number):
    """The process of a rank."""
    for child in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        if f"LOCAL_RANK={number}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise ProcessLookupError


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGKILL])
def test_one_of_two_processes_is_signaled_and_torchrun_goes_on(place, number):
    """Both save after the same update, or are killed; torchrun starts both again, which go on by themselves."""
    settings = ("config.py", "batch_size=1", "schedule.epochs=40", "checkpoint_minutes=0.002", "evaluate_every=40")
    if not (place / "two").exists():
        assert torchrun(place, *settings, "--output=two").wait(300) == 0
    name = f"two-{number}"
    launcher = torchrun(place, *settings, f"--output={name}")
    wait_for(lambda: len(log_lines(place / name)) >= 30)
    os.kill(rank(launcher, 1), number)
    assert launcher.wait(300) == 0, (place / "two.txt").read_text()
    assert f"resume    {name} after" in (place / "two.txt").read_text()
    require_equal(place / "two", place / name)
