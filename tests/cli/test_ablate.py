"""The command that runs ablations, on runs that take no time (`coins.py`): what it runs, repairs and reports."""

import csv
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detection.ablation.launch import session
from detection.ablation.report import report
from detection.cli import ablate, train
from detection.errors import UserError
from tests.ablation.coins import CoinRuns
from tests.tiny_runs import write_config

ROOT = Path(__file__).parents[2]
FILE = """
import sys

sys.path.append({root!r})
from tests.ablation.coins import COINS, CoinConfig

from detection.ablation import Ablation

config = CoinConfig()
ablation = Ablation(
    base=config,
    variants={variants},
    seeds=(0, 1),
    run_type=COINS,
)
"""
VARIANTS = {"fair": [], "good": ["p=0.8"], "better": ["p=0.9", "width=12"]}
ALL = [f"data/{variant}/seed-{seed}" for seed in (0, 1) for variant in VARIANTS]


def write(variants=VARIANTS, name="coins.py", **changes):
    text = FILE.format(root=str(ROOT), variants=variants)
    for old, new in changes.items():
        text = text.replace(old, new)
    Path(name).write_text(text)
    return name


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty current folder with an ablation of three variants and two seeds in it."""
    monkeypatch.chdir(tmp_path)
    write()
    return tmp_path


def run(*arguments, rounds=0):
    return ablate.main(["coins.py", "--output=out", f"--cost-rounds={rounds}", *arguments])


def made():
    """When each run's metrics were written."""
    return {
        f"data/{p.parts[-3]}/{p.parts[-2]}": p.stat().st_mtime_ns for p in Path("out/runs").glob("*/*/*/metrics.json")
    }


def lines(text, word):
    """Names of the runs of which a line says a word."""
    return [name for line in text.splitlines() if word in line for name in re.findall(r"data/\S+/seed-\d", line)[:1]]


def table():
    with Path("out/report.csv").open() as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def test_every_run_is_made_once_and_reported(capsys):
    assert run("--workers=2") == 0
    text = capsys.readouterr().out
    assert sorted(lines(text, "finished in")) == sorted(ALL) == sorted(made())
    assert "report   out/report.html" in text
    rows = table()
    assert list(rows) == list(VARIANTS) and not any(row["missing"] for row in rows.values())
    correct = [json.loads(Path(f"out/runs/data/good/seed-{s}/correct.json").read_text()) for s in (0, 1)]
    assert float(rows["good"]["mean"]) == pytest.approx(sum(map(sum, correct)) / 80)
    fair, good = (float(rows[name]["mean"]) for name in ("fair", "good"))
    assert float(rows["good"]["difference"]) == pytest.approx(good - fair)
    assert float(rows["good"]["low"]) < good - fair < float(rows["good"]["high"])
    markdown, page = (Path(f"out/report.{ending}").read_text() for ending in ("md", "html"))
    assert (
        "6 of 6 runs are finished" in markdown
        and "on 40 images" in markdown
        and "missing" not in markdown.split("How to read")[0]
    )
    assert f"coins.py --output {Path('out/runs/data/good/seed-1')} p=0.8 seed=1" in markdown
    assert page.count("data:image/png;base64,") == 2 and "http" not in page
    assert Path("out/differences-data.png").read_bytes()[:4] == b"\x89PNG"


def test_what_is_finished_is_not_run_again(capsys):
    assert run() == 0
    first = made()
    capsys.readouterr()
    assert run() == 0
    text = capsys.readouterr().out
    assert made() == first and lines(text, "finished before") == ALL and "running" not in text


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda f: (f / "metrics.json").write_text('{"accu'), "corrupt"),
        (lambda f: (f / "metrics.json").write_text("{}"), "corrupt"),
        (lambda f: (f / "metrics.json").unlink(), "stopped"),
        (lambda f: ((f / "config.json").write_text("{"), (f / "log.jsonl").touch()), "corrupt"),
        (lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace("0.8", "0.7")), "stale"),
    ],
    ids=["cut off", "empty", "stopped", "config cut off", "other settings"],
)
def test_what_is_broken_is_reported_put_aside_and_run_again_alone(capsys, damage, word):
    assert run() == 0
    first = made()
    broken = "data/good/seed-1"
    damage(Path("out/runs") / broken)
    capsys.readouterr()
    assert run() == 0
    text = capsys.readouterr().out
    again = {name for name, when in made().items() if when != first[name]}
    assert again == {broken} == set(lines(text, f"was {word}")) == set(lines(text, "finished in"))
    assert "set aside as out/set-aside/data-good-seed-1-1" in text
    assert Path("out/set-aside/data-good-seed-1-1/correct.json").exists()
    assert Path("out/set-aside/data-good-seed-1-1.log").read_text() == "tossed\n"


def test_other_settings_of_the_base_make_all_runs_again(capsys):
    assert run() == 0
    capsys.readouterr()
    assert run("images=30") == 0
    text = capsys.readouterr().out
    assert lines(text, "stale: it was made with images=40 instead of 30") == ALL
    assert len(json.loads(Path("out/runs/data/fair/seed-0/correct.json").read_text())) == 30
    assert len(json.loads(Path("out/set-aside/data-fair-seed-0-1/correct.json").read_text())) == 40


def test_a_failed_run_is_missing_and_is_not_averaged_over(capsys):
    write({"fair": [], "good": ["p=0.8"], "odd": ["behavior=crash"], "refused": ["behavior=refuse"]})
    assert run() == 1
    text = capsys.readouterr().out
    assert lines(text, "failed with exit code 1") == ["data/odd/seed-0", "data/odd/seed-1"]
    assert lines(text, "failed with exit code 2") == ["data/refused/seed-0", "data/refused/seed-1"]
    assert "failed with exit code 2" in text and "absent: it ended with “error: this is refused.”" in text
    assert "RuntimeError: the coin rolled away" in text and "error: this is refused." in text
    rows = table()
    assert rows["odd"]["mean"] == rows["odd"]["difference"] == "" and rows["odd"]["missing"] == "seed-0 seed-1"
    assert rows["good"]["difference"]
    report = Path("out/report.md").read_text()
    assert "**4 of 8 runs are missing." in report and "- data/odd/seed-0: stopped: it did not end" in report
    assert "| odd" in report and "missing: seed 0, 1" in report


def test_a_run_that_is_killed_while_it_opens_its_data_fails_alone(capsys):
    write({**VARIANTS, "good": ["behavior=kill"]})
    assert run() == 1
    text = capsys.readouterr().out
    killed = ["data/good/seed-0", "data/good/seed-1"]
    assert lines(text, "failed with exit code -9 ") == killed and len(lines(text, "finished in")) == 4
    assert "missing  data/good/seed-0: absent: it did not begin to train" in text
    write()
    assert run("--report-only") == 1
    assert run("--resume") == 0
    assert not Path("out/set-aside").exists()


def test_a_run_that_leaves_what_is_no_run_fails_alone_and_then_nothing_starts(capsys):
    write({"fair": [], "good": ["behavior=litter"], "better": ["p=0.9"]})
    assert run() == 1
    text = capsys.readouterr().out
    assert lines(text, "failed with exit code 1 ") == ["data/good/seed-0", "data/good/seed-1"]
    assert len(lines(text, "finished in")) == 4
    assert "missing  data/good/seed-0: blocked: out/runs/data/good/seed-0: holds something other than a run" in text
    Path("out/runs/data/fair/seed-0/metrics.json").unlink()
    assert run() == 2
    assert "holds something other than a run; move it away" in capsys.readouterr().err
    assert not Path("out/runs/data/fair/seed-0/metrics.json").exists() and not Path("out/set-aside").exists()


def test_a_finished_run_whose_data_cannot_be_read_is_missing_and_kept(capsys, monkeypatch):
    def read(self, folder):
        raise UserError("image a.png cannot be read (Input/output error).")

    assert run() == 0
    monkeypatch.setattr(CoinRuns, "read", read)
    assert run("--report-only") == 1
    assert "missing  data/good/seed-1: blocked: image a.png cannot be read" in capsys.readouterr().out
    assert run() == 2
    assert capsys.readouterr().err == "error: image a.png cannot be read (Input/output error).\n"
    assert not Path("out/set-aside").exists()


def test_one_missing_seed_is_enough_for_no_mean():
    assert run() == 0
    Path("out/runs/data/good/seed-1/metrics.json").unlink()
    assert run("--report-only") == 1
    rows = table()
    assert rows["good"]["mean"] == "" and rows["good"]["missing"] == "seed-1"
    assert rows["better"]["difference"] and rows["fair"]["mean"]
    Path("out/runs/data/fair/seed-0/metrics.json").write_text("")
    assert run("--report-only") == 1
    assert not any(row["difference"] for row in table().values())


def test_runs_on_other_images_are_not_compared():
    write({"fair": [], "elsewhere": ["data=other"]})
    assert run() == 0
    rows = table()
    assert rows["elsewhere"]["mean"] and rows["elsewhere"]["difference"] == ""
    assert re.search(r"\| elsewhere +\| +other images +\|", Path("out/report.md").read_text())


def test_nothing_is_tried_twice(capsys):
    write({"fair": [], "odd": ["behavior=crash"]})
    assert run() == 1
    assert lines(capsys.readouterr().out, "running").count("data/odd/seed-0") == 1
    assert run() == 1
    text = capsys.readouterr().out
    assert lines(text, "was stopped") == lines(text, "running") == ["data/odd/seed-0", "data/odd/seed-1"]


def test_metrics_that_results_do_not_give_do_not_count(capsys):
    assert run() == 0
    path = Path("out/runs/data/good/seed-0/metrics.json")
    path.write_text(json.dumps({"accuracy": 0.99}))
    assert run("--report-only") == 1
    assert "its metrics.json holds accuracy 0.990000" in capsys.readouterr().out
    assert table()["good"]["mean"] == ""


def test_a_stopped_run_goes_on_if_asked_to(capsys):
    write({"fair": [], "halting": ["behavior=halt"]})
    assert run() == 1
    capsys.readouterr()
    assert run("--resume") == 0
    text = capsys.readouterr().out
    assert lines(text, "continues from its last checkpoint") == ["data/halting/seed-0", "data/halting/seed-1"]
    assert Path("out/runs/data/halting/seed-0.log").read_text() == "resumed\n"
    assert not Path("out/set-aside").exists()


HOLD = """
import sys, time
from pathlib import Path

from detection.runs.lock import writing

with writing(Path(sys.argv[1])):
    Path(sys.argv[1], "environment.json").write_text("{}")
    print("trains", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="nothing is locked on Windows")
def test_a_run_that_another_process_trains_is_left_to_it(capsys, monkeypatch):
    assert run("--variants=fair") == 0
    folder = Path("out/runs/data/good/seed-1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout.readline() == b"trains\n"
            capsys.readouterr()
            assert run() == 2
            error = capsys.readouterr().err
            assert f"{folder}: another process (process {other.pid} on " in error and "is training there" in error
            assert (folder / "environment.json").exists() and not Path("out/set-aside").exists()
            assert run("--report-only") == 1
            assert "missing  data/good/seed-1: blocked: " in capsys.readouterr().out
        finally:
            other.kill()
    assert run() == 0


def processes_of(folder):
    """Commands of living processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] if str(folder).encode() in path.read_bytes() else []
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_an_interrupt_ends_all_runs_and_says_what_is_left(place, number, capsys):
    write({"fair": [], "slow": ["behavior=hang"], "waiting": ["p=0.2"]})
    command = [
        sys.executable,
        "-m",
        "detection.cli.ablate",
        "coins.py",
        f"--output={place / 'out'}",
        "--workers=1",
        "--cost-rounds=0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT)
    log = place / "out/runs/data/slow/seed-0.log"
    until = time.monotonic() + 120
    while not (log.exists() and "hanging" in log.read_text()) and time.monotonic() < until:
        time.sleep(0.1)
    assert run() == 2 and "is running here" in capsys.readouterr().err
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert lines(text, "  left") == [f"data/{name}" for name in ("slow/seed-0", "waiting/seed-0", "fair/seed-1",
                                                                "slow/seed-1", "waiting/seed-1")]  # fmt: skip
    assert "5 of 6 runs are left" in text
    assert processes_of(place / "out/runs") == []
    write({"fair": [], "slow": ["behavior=fine", "images=41"], "waiting": ["p=0.2"]})
    assert run("--workers=2") == 0


def test_a_dry_run_changes_nothing(place, capsys):
    before = set(place.rglob("*"))
    assert run("--dry-run") == 0
    text = capsys.readouterr().out
    assert "6 runs" in text and "--output out/runs/data/better/seed-1 p=0.9 width=12 seed=1" in text
    assert set(place.rglob("*")) == before


def test_a_printed_command_makes_the_same_run(capsys):
    assert run() == 0
    capsys.readouterr()
    run("--dry-run")
    command = next(line for line in capsys.readouterr().out.splitlines() if "better/seed-1" in line)
    shell = command.replace("python ", f"{sys.executable} ", 1).replace("out/runs", "pasted")
    subprocess.run(shell, shell=True, check=True)
    for name in ("config.json", "metrics.json"):
        ours, pasted = (Path(folder, "data/better/seed-1", name).read_text() for folder in ("out/runs", "pasted"))
        assert ours == pasted


def test_controls_of_equal_size(capsys):
    assert run("--match=params") == 0
    rows = table()
    assert list(rows) == [*VARIANTS, "fair-wide-12"] and "fair-wide-12" in capsys.readouterr().out
    report = Path("out/report.md").read_text()
    assert "Controls with equal parameters" in report and "| better  | fair-wide-12 | 144" in report
    assert json.loads(Path("out/runs/data/fair-wide-12/seed-0/config.json").read_text())["width"] == 12


def test_costs_are_measured_once(capsys):
    assert run(rounds=1) == 0
    assert "measuring costs" in capsys.readouterr().out
    costs = json.loads(Path("out/costs.json").read_text())
    assert sorted(cost["parameters"] for cost in costs["architectures"].values()) == [96, 144]
    assert re.search(r"\| better +\| 144 ", Path("out/report.md").read_text())
    assert run(rounds=1) == 0
    assert "measuring costs" not in capsys.readouterr().out


def test_runs_that_no_plan_names_are_reported_and_left(capsys):
    assert run() == 0
    write({"fair": [], "good": ["p=0.8"]})
    assert run() == 0
    text = capsys.readouterr().out
    assert "2 other runs are kept and not counted: out/runs/data/better/seed-0, out/runs" in text
    assert Path("out/runs/data/better/seed-0/metrics.json").exists() and "better" not in table()


def test_real_detectors(shapes, place, capsys, blank_plots):
    """Two detectors trained by their own command; what they found gives their numbers, or they would not count.

    One is trained by its printed command in this process, which is faster, and found; the other in a process.
    """
    write_config(place / "base.py", shapes)
    Path("real.py").write_text(
        "from detection.ablation import Ablation\n\n"
        "variants = {'plain': [], 'narrow': {'detector.head.hidden_channels': 8}}\n"
        "ablation = Ablation(base='base.py', variants=variants, seeds=(0,), metric='AP50')\n"
    )
    arguments = ["real.py", "--output=out", "--workers=2", "schedule.epochs=1", "samples=0"]
    assert ablate.main([*arguments, "--dry-run"]) == 0
    plain = next(line for line in capsys.readouterr().out.splitlines() if "plain/seed-0" in line)
    assert train.main(shlex.split(plain)[2:]) == 0
    Path("out/ablation.json").write_text("{}")
    assert ablate.main([*arguments, "--cost-rounds=0"]) == 0
    text = capsys.readouterr().out
    assert lines(text, "finished before") == ["data/plain/seed-0"], text
    assert lines(text, "finished in") == ["data/narrow/seed-0"] and not lines(text, "missing"), text
    environment = json.loads(Path("out/runs/data/narrow/seed-0/environment.json").read_text())
    assert "detector.head.hidden_channels=8" in environment["command"]
    assert ablate.main([*arguments, "--cost-rounds=1", "--measure-costs"]) == 0
    costs = json.loads(Path("out/costs.json").read_text())
    sizes = {cost["parameters"] for cost in costs["architectures"].values()}
    assert len(sizes) == 2 and costs["failures"] == {}
    capsys.readouterr()
    assert ablate.main([*arguments, "--cost-rounds=1"]) == 0
    text = capsys.readouterr().out
    assert len(lines(text, "finished before")) == 2 and "measuring costs" not in text
    report = Path("out/report.md").read_text()
    assert all(f"{size:,}" in report for size in sizes) and "There is one seed" in report


BAD = {
    "a curve of no data": (
        lambda: write(**{"seeds=(0, 1)": "curves={'d': {'data': 1, 'dta': 2}}, seeds=(0, 1)"}),
        ["coins.py"],
        ["curves['d']='dta'", "did you mean 'data'?"],
    ),
    "a curve of words": (
        lambda: write(**{"seeds=(0, 1)": "curves={'d': {'data': 'far'}}, seeds=(0, 1)"}),
        ["coins.py"],
        ["curves['d']['data']='far'", "must be a number"],
    ),
    "a curve of one point": (
        lambda: write(**{"seeds=(0, 1)": "curves={'d': {'data': 1}}, seeds=(0, 1)"}),
        ["coins.py"],
        ["curves['d']", "two data sets"],
    ),
    "no such file": (lambda: None, ["coin.py"], ["coin.py", "no such file"]),
    "no ablation": (lambda: Path("coins.py").write_text("x = 1"), [], ["coins.py", "ablation = Ablation"]),
    "syntax": (lambda: Path("coins.py").write_text("x = ("), [], ["coins.py", "line 1", "SyntaxError"]),
    "misspelt": (lambda: write(seeds="sedes"), [], ["unknown key sedes", "did you mean seeds"]),
    "unknown key": (lambda: write({"a": [], "b": ["widht=3"]}), [], ["data/b", "widht", "did you mean width"]),
    "wrong type": (lambda: write({"a": [], "b": ["width=x"]}), [], ["data/b", "width='x'", "int"]),
    "no value": (lambda: write({"a": [], "b": ["width"]}), [], ["variants['b']", "'width'", "key=value"]),
    "a seed": (lambda: write({"a": [], "b": ["seed=3"]}), [], ["variants['b']", "seed=3", "`seeds`"]),
    "text": (lambda: write({"a": [], "b": "width=3"}), [], ["variants['b']", "list"]),
    "equal": (lambda: write({"a": [], "b": ["width=8"]}), [], ["a and b are the same config"]),
    "a folder's name": (lambda: write({"a": [], "../b": ["width=9"]}), [], ["'../b'", "names folders"]),
    "case": (lambda: write({"a": [], "A": ["width=9"]}), [], ["but for its case"]),
    "no variants": (lambda: write({}), [], ["variants", "one entry"]),
    "seeds": (lambda: write(**{"(0, 1)": "(0, 0)"}), [], ["seeds=(0, 0)", "different"]),
    "reference": (lambda: write(**{"seeds=": "reference='fare', seeds="}), [], ["'fare'", "did you mean 'fair'"]),
    "metric": (lambda: write(**{"seeds=": "metric='AP', seeds="}), [], ["metric='AP'", "accuracy"]),
    "base": (lambda: write(**{"config = ": "setup = ", "base=config": "base=setup"}), [], ["base", "`config`"]),
    "no base": (lambda: write(**{"base=config": "base='no.py'"}), [], ["base='no.py'", "there is no no.py"]),
    "override": (lambda: None, ["imags=3"], ["imags", "did you mean images"]),
    "workers": (lambda: None, ["--workers=0"], ["--workers 0", "above 0"]),
    "output": (lambda: Path("out").touch(), [], ["out", "is a file"]),
    "other output": (lambda: (Path("out").mkdir(), Path("out/x").touch()), [], ["out", "something other"]),
    "no report": (lambda: None, ["--report-only"], ["out", "no ablation yet"]),
    "no width": (lambda: write(**{"run_type=COINS": "run_type=COINS, widen=('p',)"}), ["--match=params"], ["p is 0.5"]),
}


@pytest.mark.parametrize(("change", "arguments", "words"), BAD.values(), ids=list(BAD))
def test_bad_input_gets_a_sentence_and_writes_nothing(place, capsys, change, arguments, words):
    change()
    before = set(place.rglob("*"))
    file = [] if arguments and arguments[0].endswith(".py") else ["coins.py"]
    assert ablate.main([*file, *arguments, "--output=out", "--cost-rounds=0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert all(word in error for word in words), error
    assert set(place.rglob("*")) == before


def test_a_folder_that_is_no_run_is_never_touched(capsys):
    Path("out/runs/data/good/seed-1").mkdir(parents=True)
    Path("out/ablation.json").write_text("{}")
    Path("out/runs/data/good/seed-1/thesis.txt").write_text("years of work")
    assert run() == 2
    assert "holds something other than a run" in capsys.readouterr().err
    assert Path("out/runs/data/good/seed-1/thesis.txt").exists() and made() == {}


def test_several_data_sets_next_to_each_other_and_over_a_quantity(capsys):
    data = "data={'near': ['data=a'], 'far': ['data=b', 'images=60'], 'other': ['data=c']},"
    curves = "curves={'distance': {'far': 9, 'near': 3}},"
    write(**{"seeds=(0, 1),": f"seeds=(0, 1), {data} {curves}"})
    assert run() == 0
    text = Path("out/report.md").read_text()
    part = text.split("## All data sets")[1].split("##")[0]
    rows = [[run.strip() for run in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("|")]
    assert rows[0] == ["variant", "near", "far", "other"] and [row[0] for row in rows[2:]] == list(VARIANTS)
    assert rows[2][1] == rows[2][3] != rows[2][2] and "±" in rows[2][1] and "*" not in "".join(rows[2])
    assert "accuracy over distance" in part and Path("out/curve-1.png").exists() and "missing" not in part

    shutil.rmtree("out/runs/far/good/seed-1")
    assert run("--report-only") == 1
    part = Path("out/report.md").read_text().split("## All data sets")[1].split("##")[0]
    assert "missing: seed 1" in part and "A gap is missing." in part

    assert run("--data=near,other", "--report-only") == 0
    assert "curve-1" not in Path("out/report.md").read_text()


def test_a_part_of_an_ablation(capsys):
    """The reference is in it unasked; the rest is named; the whole takes up what the part has done."""
    assert run("--variants=better", "--seeds", "1") == 0
    capsys.readouterr()
    assert sorted(made()) == ["data/better/seed-1", "data/fair/seed-1"] and list(table()) == ["fair", "better"]
    report = Path("out/report.md").read_text()
    assert "2 of 2 runs are finished" in report and "left out by choice: variants good; seeds 0." in report
    assert run("--data=data") == 0
    assert len(lines(capsys.readouterr().out, "finished before")) == 2
    assert list(table()) == list(VARIANTS) and "left out" not in Path("out/report.md").read_text()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--variants=fair,god", ["variants='god'", "did you mean 'good'?"]),
        ("--data=nothing", ["data='nothing'", "known: data."]),
        ("--seeds=7", ["seeds=7", "known: 0, 1."]),
        ("--seeds=one", ["--seeds", "'one'", "--seeds 0,1"]),
    ],
)
def test_a_part_that_is_not_there(capsys, option, words):
    assert run(option) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in words), told
    assert not Path("out").exists()


def test_the_command_line_holds_over_the_data_and_a_variant_over_it(capsys):
    """An override that the file's data replaced silently made a run with other settings than its command said."""
    data = 'seeds=(0, 1),\n    data={"short": ["epochs=2"], "long": ["epochs=3", "width=3"]},'
    write({**VARIANTS, "wide": ["width=12"]}, **{"seeds=(0, 1),": data})
    assert run("--seeds=0", "width=5", "p=0.4") == 0
    text = capsys.readouterr().out
    configs = {path.parts[2:4]: json.loads(path.read_text()) for path in Path("out/runs").glob("*/*/*/config.json")}
    assert {config["epochs"] for (data, _), config in configs.items() if data == "long"} == {3}
    found = {names: (config["width"], config["p"]) for names, config in configs.items()}
    expected = {"fair": (5, 0.4), "good": (5, 0.8), "better": (12, 0.9), "wide": (12, 0.4)}
    assert found == {(data, name): value for data in ("short", "long") for name, value in expected.items()}
    notes = [line.removeprefix("note     ") for line in text.splitlines() if line.startswith("note ")]
    assert notes == [
        "width=5 does not hold for variants with a value of their own: better, wide",
        "p=0.4 does not hold for variants with a value of their own: good, better",
    ]
    assert all(note in Path("out/report.md").read_text() for note in notes)
    assert run("--seeds=0", "--dry-run", "--variants=better", "width=12") == 0
    assert "note " not in capsys.readouterr().out  # the same value holds for all


def test_settings_that_make_data_sets_the_same_are_one_sentence(capsys):
    write(**{"seeds=(0, 1),": 'seeds=(0, 1),\n    data={"short": ["epochs=2"], "long": ["epochs=3"]},'})
    assert run("--dry-run", "epochs=4") == 2
    assert "data: short and long are the same config; --data takes one" in capsys.readouterr().err


def test_a_seed_on_the_command_line_is_refused(capsys):
    assert run("--dry-run", "seed=5") == 2
    assert "seed=5: an ablation's runs have its own seeds; give --seeds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--partition=gpu"], "--partition: is of jobs of --launcher slurm; add that, or leave it out."),
        (["--hours=6"], "--hours: is of jobs of --launcher slurm; add that, or leave it out, or give --budget-hours."),
        (["--variants="], "--variants: names nothing; leave it out for all"),
        (["--seeds=,"], "--seeds: names nothing; leave it out for all"),
    ],
)
def test_an_option_without_effect_is_refused(capsys, arguments, words):
    try:
        code = run(*arguments, "--dry-run")
    except SystemExit as end:
        code = end.code
    assert code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("option", ["hours", "memory"])
def test_a_job_without_end_is_refused(capsys, option):
    assert run("--launcher=slurm", f"--{option}=inf", "--dry-run") == 2
    assert f"--{option} inf: must be a finite number above 0." in capsys.readouterr().err


def test_a_refused_start_leaves_nothing_that_the_next_one_refuses(capsys, monkeypatch):
    def refuse(*_):
        raise UserError("there is no cluster")

    with monkeypatch.context() as patch:
        patch.setattr(session, "build_launcher", refuse)
        assert run() == 2
    assert [file.name for file in Path("out").iterdir()] == [".lock"]
    assert run() == 0


def test_two_evaluations_of_one_name_are_refused(capsys):
    data, evaluate_on = "{'row': [], 'row-2x': ['images=90']}", "{'2x-big': ['images=80'], 'big': ['images=70']}"
    write(**{"seeds=(0, 1)": f"seeds=(0, 1), data={data}, evaluate_on={evaluate_on}"})
    assert run("--dry-run") == 2
    assert "evaluate_on['big']: row-2x-big is evaluate_on['2x-big'] of row already" in capsys.readouterr().err


def test_the_reports_command_has_the_variables_that_the_file_reads(monkeypatch):
    monkeypatch.setenv("DATA", "my data")
    monkeypatch.setenv("BASE", "mine.py")
    Path("coins.py").write_text(f'"""Needs DATA=FOLDER, not DATABASE."""{Path("coins.py").read_text()}')
    assert run() == 0
    assert "    DATA='my data' detection ablate coins.py --output=out" in Path("out/report.md").read_text()


def test_runs_of_other_settings_are_no_curves(monkeypatch):
    assert run() == 0
    drawn = []
    monkeypatch.setattr(report, "read_curve", lambda folder, metric: drawn.append(folder) or {1: 0.5, 2: 0.6})
    assert run("--report-only") == 0 and len(drawn) == len(ALL)
    drawn.clear()
    assert run("--report-only", "images=100") == 1 and not drawn
