"""The table on a terminal, and the lines in a pipe."""

import io

import pytest
from rich.console import Console

from detection.ablation import Ablation
from detection.ablation.launch.progress_table import ProgressTable
from detection.ablation.plan import make_plan
from tests.ablation.coins import COINS


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "base.py").write_text("from tests.ablation.coins import CoinConfig\n\nconfig = CoinConfig()\n")
    ablation = Ablation(base="base.py", variants={"a": [], "b": ["p=0.9"]}, seeds=(0, 7), run_type=COINS)
    return make_plan("[red]\x1b[1m", ablation, tmp_path / "base.py", tmp_path / "out")


PROGRESS = ("finished before", "waiting", "failed: [x] \x1b[1m", "waiting")


def shown(plan, terminal):
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=terminal, width=100, color_system=None, legacy_windows=False)
    with ProgressTable(plan, console) as table:
        for run, progress in zip(plan.runs, PROGRESS, strict=True):
            table.update(run, progress)
        table.refresh({"data/b/seed-0": "epoch 3 of 9"})
        middle = buffer.getvalue()
        table.update(plan.runs[1], "finished in 1 min")
    return middle, buffer.getvalue()


def test_a_pipe_gets_a_line_for_each_event(plan):
    middle, text = shown(plan, False)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines] == ["[1/4]", "[1/4]", "[2/4]", "[2/4]", "[3/4]"]
    assert lines[2].endswith(r"failed: [x] \x1b[1m") and "epoch" not in text


def test_a_terminal_gets_one_table_with_how_far_each_run_is(plan):
    middle, text = shown(plan, True)
    assert "epoch 3 of 9" in middle and "seed 7" in middle and "[1/4]" not in text
    assert r"[red]\x1b[1m" in middle
    last = text[text.rindex("variant") :]
    assert "finished in 1 min" in last and "epoch 3 of 9" not in last and r"failed: [x] \x1b[1m" in last


def test_the_time_left_is_that_of_runs_that_ended_here(plan, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("detection.ablation.launch.progress_table.time.monotonic", lambda: now[0])
    buffer = io.StringIO()
    table = ProgressTable(plan, Console(file=buffer, width=200), slots=2)
    first, second, third, _ = plan.runs
    table.update(first, "finished before")
    table.update(second, "running")
    now[0] += 60
    table.update(third, "running")
    assert table.times() == "60 s elapsed", "nothing has ended here"
    now[0] += 240
    table.update(second, "finished in 5.0 min")
    assert table.done == 2 and table.times() == "5 min elapsed, about 3 min left"  # (60 s + 300 s) / 2 at a time
    lines = buffer.getvalue().splitlines()
    assert lines[0].endswith("finished before") and lines[-1].endswith("5.0 min; 5 min elapsed, about 3 min left")
