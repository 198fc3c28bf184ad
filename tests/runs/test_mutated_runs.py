"""A damaged or malicious run folder works, or is one sentence and exit code 2; nothing in it is executed."""

import random
import shutil
import signal
from contextlib import contextmanager

import pytest

from detection.cli import evaluate, predict, train
from tests.runs.mutations import MUTATIONS, forge_state, plant

pytestmark = pytest.mark.usefixtures("blank_plots")


class Hanging(BaseException):
    """A command that does not end."""


@contextmanager
def limited(seconds):
    def end(number, frame):
        raise Hanging

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


COMMANDS = {
    "predict": lambda run, shapes: predict.main(
        [str(run), str(sorted((shapes / "val").iterdir())[0]), "--output", str(run.parent / "out"), "--device=cpu"]
    ),
    "evaluate": lambda run, shapes: evaluate.main([str(run), "--device=cpu"]),
    "resume": lambda run, shapes: train.main(["--output", str(run), "--resume", "--device=cpu", "schedule.epochs=3"]),
}


def outside(folder):
    return {p: p.read_bytes() for p in (folder / "outside").rglob("*") if p.is_file()}


def check(number, run, shapes, folder, capsys):
    draw = random.Random(number)
    copied = shutil.copytree(run, folder / "run")
    mutate = MUTATIONS[number % len(MUTATIONS)]
    mutate(copied, draw, folder / "made")
    command = "resume" if mutate in (plant, forge_state) else draw.choice(sorted(COMMANDS))
    before = outside(folder)
    try:
        with limited(60):
            code = COMMANDS[command](copied, shapes)
    except BaseException as error:
        raise AssertionError(f"{number}: {mutate.__name__}, {command}: {type(error).__name__}: {error}") from error
    error = capsys.readouterr().err
    assert code in (0, 2), (number, code, error)
    if code == 2:
        sentences = [line for line in error.splitlines() if line.startswith("error: ")]
        assert len(sentences) == 1 and "Traceback" not in error, (number, error)
    assert not (folder / "made").exists(), number
    assert outside(folder) == before, number
    return code


def test_mutated_runs(finished_run, shapes, tmp_path, capsys):
    codes = []
    for number in range(3 * len(MUTATIONS)):
        (tmp_path / str(number)).mkdir()
        codes.append(check(number, finished_run, shapes, tmp_path / str(number), capsys))
    assert 12 < codes.count(2) < len(codes)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(100, 400))
def test_more_mutated_runs(number, finished_run, shapes, tmp_path, capsys):
    check(number, finished_run, shapes, tmp_path, capsys)
