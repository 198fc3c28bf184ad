"""Ablations that ask a question, on coins: data first, then the time, a budget, and the answer in words."""

import csv
import dataclasses
import json
import shutil
from contextlib import chdir
from pathlib import Path

import pytest

from detection.ablation.costs import ArchitectureCost, MeasuredCosts, architectures
from detection.ablation.launch import session
from detection.ablation.launch.launchers import Launcher, RunningProcess
from detection.atomic_write import write_json
from detection.cli import ablate
from tests.ablation import coin_run
from tests.ablation.coins import CoinRuns
from tests.cli import test_ablate

VARIANTS = {"none": [], "large": ["width=20"], "average": ["p=0.6"], "context": ["p=0.9", "width=12"]}
DROP = ("sequence", "large", "average")


def write(variants=VARIANTS, drop=DROP):
    question = f"""Question("context", drop={drop}, where_crowded={{"sequence": ["p=0.7"]}})"""
    changes = {
        "import Ablation": "import Ablation, Question",
        "seeds=(0, 1),": f"seeds=(0, 1, 2), question={question},",
    }
    test_ablate.write(variants, **changes)


def run(*arguments):
    return ablate.main(["coins.py", "--output=out", "--cost-rounds=1", "--workers=1", "images=200", *arguments])


class Ended(RunningProcess):
    def poll(self):
        return 0

    def interrupt(self, number):
        pass

    def stop(self):
        pass


class InThisProcess(Launcher):
    """Runs coins where they are started, which is faster than a process for each."""

    slots, pause = 1, 0

    def start(self, command, log):
        coin_run.main(command[2:])
        return Ended()


def known_costs(request, plan, launcher, **_):
    """Costs as if a step took 1 ms for each unit of width."""
    if not (request.output / "costs.json").exists():
        print("measuring costs")
        costs = {
            digest: ArchitectureCost(run.config.width, run.config.width, *[0.001 * run.config.width] * 2, 8, 8)
            for digest, run in architectures(plan).items()
        }
        write_json(request.output / "costs.json", dataclasses.asdict(MeasuredCosts("here", 1, costs, {})))


def make_fast(patch):
    """Let runs and costs take no time."""
    patch.setattr(session, "build_launcher", lambda request, runs, held: InThisProcess())
    patch.setattr(session, "launch_cost_measurement", known_costs)


@pytest.fixture
def fast(monkeypatch):
    make_fast(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the finished ablation."""
    folder = tmp_path_factory.mktemp("question")
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        make_fast(patch)
        write()
        assert run() == 0
    return folder


@pytest.fixture
def done(finished, fast, tmp_path, monkeypatch):
    """A copy of the finished ablation, as the current folder."""
    monkeypatch.chdir(shutil.copytree(finished, tmp_path / "done"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty current folder with the ablation's file in it."""
    monkeypatch.chdir(tmp_path)
    write()


def ran():
    return {folder.parts[-2] for folder in Path("out/runs").glob("*/*/seed-*") if folder.is_dir()}


def test_data_come_first_then_the_time_and_the_answer_in_words(done, capsys):
    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "data     200 coins",
        "data     wider is none with width=12: +0.0% FLOPs against context",
        "data     1 of 1000 training objects (0.1%) overlap another of their class by an IoU of 0.5 or more: sequence "
        "is left out, below 1%",
    ]
    assert lines[3] == "time     none: 2.5 min a run, 16000 training steps of 8 ms and 200 evaluated images of 8 ms"
    assert "15 runs, 1 at a time; steps and inference are medians of 1 measured here" in lines[8]
    assert lines.index("Context helps on these data: context is ahead of all that it is compared with.") > 8
    assert ran() == {*VARIANTS, "wider"}
    report = Path("out/report.md").read_text()
    first, _, rest = report.partition("## Data and plan")
    assert "**Context helps on these data" in first and "Against none (without context): helps, accuracy +0.4" in first
    assert "Against wider (without context, as many FLOPs): helps, accuracy +0.4" in first
    assert (
        "× the time of a training step" in first and "What it costs" in first and "200 images; seeds 0, 1, 2" in first
    )
    assert "### Saved" in first and "saved-1.png" in first and "3 pairs of ('none', 'context')" in first
    assert "### Broken\n\nNone." in first and "- 200 coins" in rest and "## Metrics on data" in rest
    assert rest.count("Named in the ablation's file before the first run") == 1


def test_sizes_are_of_ap_whatever_the_question_is_of(done, monkeypatch):
    monkeypatch.setattr("detection.ablation.report.answer._SIZES", {"accuracy": "small coins"})
    assert run("--report-only") == 0
    assert "| AP of small coins " in Path("out/report.md").read_text()


def test_the_answer_is_missing_with_a_run(done, capsys):
    Path("out/runs/data/wider/seed-1/metrics.json").unlink()
    assert run("--report-only") == 1
    text = capsys.readouterr().out
    assert "There is no answer yet: runs are missing." in text and "Against wider" in text
    assert "helps" not in Path("out/report.md").read_text().partition("Against none")[0]


def test_equal_coins_are_no_help(place, fast, capsys):
    write({"none": [], "context": ["width=12", "p=0.5001"]}, ())
    assert run() == 0
    text = capsys.readouterr().out
    assert "Context makes no difference that matters" in text and "level within ± 0.000 accuracy" in text


def test_a_context_that_is_no_larger_has_no_wider_rival(place, capsys):
    write({"none": [], "context": ["p=0.9"]}, ())
    assert run() == 0
    text = capsys.readouterr().out
    assert "context has no more FLOPs than none" in text and "Context helps" in text and "wider" not in ran()


def test_objects_that_overlap_add_a_variant(place, capsys):
    assert run("data=crowded", "--dry-run") == 0
    text = capsys.readouterr().out
    assert "30 of 1000 training objects (3.0%)" in text and "sequence is one of the variants" in text
    assert "18 runs" in text and "sequence/seed-2" in text and not Path("out").exists()


# Three runs of none, average, wider, context and large take 448, 448, 647, 647 and 1032 seconds: 1.07 h with 20 %.
def test_a_budget_leaves_out_variants_in_order_and_then_epochs(done, capsys):
    shutil.rmtree("out/runs")
    assert run("--budget-hours=0.9") == 0
    text = capsys.readouterr().out
    assert "leaves out large" in text and "leaves out average" not in text and "epochs:" not in text
    assert ran() == {"none", "average", "context", "wider"}
    assert "left out by choice: variants large" in Path("out/report.md").read_text()
    assert run("--budget-hours=0.9") == 0  # what was decided is kept
    text = capsys.readouterr().out
    assert "measuring costs" not in text and text.count("finished before") == 12


def test_other_data_are_measured_again(done, monkeypatch, capsys):
    shutil.rmtree("out/runs")
    assert run("--budget-hours=0.9") == 0
    budget = json.loads(Path("out/budget.json").read_text())
    write_json(Path("out/budget.json"), budget | {"scope": budget["scope"] | {"texts": ["as decided before"]}})
    assert run("--budget-hours=0.9") == 0
    assert "time     as decided before" in capsys.readouterr().out
    monkeypatch.setattr(CoinRuns, "data_remarks", lambda self, config: ["400 coins"])
    assert run("--budget-hours=0.9") == 0
    text = capsys.readouterr().out
    assert "data     400 coins" in text and "as decided before" not in text and "time     none: " in text


def test_epochs_go_last(done, capsys):
    shutil.rmtree("out/runs")
    assert run("--budget-hours=0.4") == 0
    text = capsys.readouterr().out
    order = [text.index(words) for words in ("leaves out large", "leaves out average", "trains for ")]
    assert order == sorted(order) and ran() == {"none", "context", "wider"}
    epochs = json.loads(Path("out/runs/data/none/seed-0/config.json").read_text())["epochs"]
    assert epochs == 2 and "trains for 2 of 4 epochs: 0.3" in text
    assert json.loads(Path("out/runs/data/context/seed-2/config.json").read_text())["epochs"] == epochs
    with Path("out/report.csv").open() as file:
        assert {row["variant"] for row in csv.DictReader(file)} == {"none", "context", "wider"}
    capsys.readouterr()
    assert run("--report-only") == 0  # whatever the budget was
    assert "Context helps" in capsys.readouterr().out


def test_more_seeds_keep_what_was_decided(done, capsys):
    shutil.rmtree("out/runs")
    assert run("--budget-hours=0.4") == 0  # for two of four epochs, without average and large
    capsys.readouterr()
    seeds = "--seeds=0,1,2,3"
    assert run("--budget-hours=0.4", seeds) == 0
    text = capsys.readouterr().out
    assert text.count("finished before") == 9 and "set aside" not in text and "measuring costs" not in text
    assert "h for 3 runs of seeds 3 with as many epochs" in text
    report = Path("out/report.md").read_text()
    assert "seeds 0, 1, 2, 3" in report and report.count("seeds were added to those that were decided on first") == 1
    assert run("--budget-hours=0.4", seeds) == 0  # the new seeds are decided once, too
    assert capsys.readouterr().out.count("finished before") == 12
    assert run("--budget-hours=0.4", "--seeds=0,1,2,3,4,5,6,7,8") == 2
    assert "--budget-hours 0.4: is too little for more seeds: 0.4" in capsys.readouterr().err
    assert run("--report-only", "--seeds=0,1") == 0
    assert "Context helps" in capsys.readouterr().out
    assert run("--report-only", "--variants=average") == 1  # of which there is no run
    assert "Context helps" in capsys.readouterr().out
    assert run("--budget-hours=0.4", "--dry-run") == 0
    text = capsys.readouterr().out
    assert "9 runs" in text and text.count("epochs=2") == 9


def test_a_variant_that_is_asked_for_is_kept_and_counted(done, capsys):
    """With the three that answer it takes 0.92 h with all epochs."""
    shutil.rmtree("out/runs")
    assert run("--budget-hours=0.7", "--variants=large") == 0
    text = capsys.readouterr().out
    assert "leaves out" not in text and "trains for 2 of 4 epochs: 0.5" in text
    assert ran() == {"none", "wider", "context", "large"}


def test_a_variant_that_was_left_out_and_is_asked_for_has_to_fit_too(done, capsys):
    shutil.rmtree("out/runs")
    assert run("--budget-hours=0.4") == 0  # for two of four epochs, without average and large
    capsys.readouterr()
    assert run("--budget-hours=0.4", "--variants=average") == 0
    text = capsys.readouterr().out
    assert "h for 3 runs of average with as many epochs" in text and text.count("finished before") == 9
    assert ran() == {"none", "wider", "context", "average"}
    assert run("--budget-hours=0.4", "--variants=average,large", "--seeds=0,1,2,3,4,5") == 2
    assert "--budget-hours 0.4: is too little for more seeds and more variants: " in capsys.readouterr().err
    assert run("--budget-hours=0.4") == 0  # what was added stays
    assert capsys.readouterr().out.count("finished before") == 12


def test_a_decision_of_a_former_version_is_kept(done, capsys, monkeypatch):
    shutil.rmtree("out/runs")
    known, digest = [], session.runs_digest
    monkeypatch.setattr(session, "runs_digest", lambda *args: known.append(digest(*args)) or known[-1])
    assert run("--budget-hours=0.4") == 0
    decided = json.loads(Path("out/budget.json").read_text())
    write_json(Path("out/budget.json"), {"digest": known[0], "budget": 0.4, **decided["scope"]})
    capsys.readouterr()
    assert run("--budget-hours=0.4") == 0
    assert capsys.readouterr().out.count("finished before") == 9
    assert run("--dry-run") == 0  # without the budget it would be another plan
    assert "15 runs" in capsys.readouterr().out


def test_a_budget_that_nothing_was_measured_for_is_named_in_a_dry_run(place, capsys):
    assert run("--budget-hours=0.4", "--dry-run") == 0
    text = capsys.readouterr().out
    assert "15 runs" in text and "follows from times that are measured first: these are all runs" in text


def test_a_variant_may_not_have_the_name_of_one_that_is_added(place, capsys):
    for name, words in (("wider", "'wider' is none as large as context"), ("sequence", "where_crowded has 'sequence'")):
        write(VARIANTS | {name: ["p=0.2"]})
        assert run("--dry-run") == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("data={'one': [], 'two': ['images=100']}", "question: is of one data set, and data names one, two"),
        ("evaluate_on={'more': ['images=100']}", "evaluate_on: an ablation with a question cannot have it"),
        ("choice=Choice({'context': {'as-is': [], 'good': ['p=0.95']}}, {'data': []}, (9,))", "choice: an ablation"),
    ],
)
def test_a_question_is_of_one_difference(place, capsys, more, words):
    text = Path("coins.py").read_text().replace("import Ablation", "import Ablation, Choice")
    Path("coins.py").write_text(text.replace("seeds=(0", f"{more}, seeds=(0"))
    assert run("--dry-run") == 2
    assert words in capsys.readouterr().err


def test_too_little_time_is_one_sentence_and_nothing_runs(done, capsys):
    shutil.rmtree("out/runs")
    assert run("--budget-hours=0.1") == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "error: --budget-hours 0.1: is too little for one epoch of none, wider, context with seeds "
    )
    assert "give --budget-hours 0.2," in error and error.count("\n") == 1 and not Path("out/runs").exists()


def test_mistakes_are_one_sentence(place, fast, capsys):
    for arguments, words in (
        (["images=13"], "13 coins: bring another one."),
        (["--budget-hours=0"], "--budget-hours 0.0: must be above 0"),
        (["--budget-hours=nan"], "--budget-hours nan: must be above 0"),
        (["--match=params"], "--match: coins.py has this control, `wider`; leave it out."),
    ):
        assert run(*arguments) == 2
        assert words in capsys.readouterr().err and not Path("out/runs").exists()
    Path("coins.py").write_text(Path("coins.py").read_text().replace("question=", "# "))
    assert run("--budget-hours=1") == 2
    assert "coins.py asks no question; own_data does" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('Question("context"', 'Question("contxt"', "there is no variant 'contxt'"),
        ('Question("context"', 'Question("none"', "must be a variant other than none"),
        ("'average'), where", "'context'), where", "context, none and wider are never left out"),
    ],
)
def test_a_question_fits_its_variants(place, capsys, before, after, words):
    text = Path("coins.py").read_text()
    assert before in text
    Path("coins.py").write_text(text.replace(before, after))
    assert run("--dry-run") == 2
    assert words in capsys.readouterr().err


def test_a_start_that_is_killed_at_its_first_file_is_started_again(place, fast, monkeypatch):
    """What it wrote by then, before or after its record, is not taken for something other than an ablation."""

    def killed(*_):
        raise SystemExit(9)

    for name in ("save_controls", "write_json"):
        with monkeypatch.context() as patch:
            patch.setattr(session, name, killed)
            with pytest.raises(SystemExit):
                run()
        session.require_ours(Path("out"))
        shutil.rmtree("out")
    Path("out").mkdir()
    Path("out/.ablation.json.7").touch()  # as a power cut leaves it
    assert run() == 0


def test_more_seeds_than_the_files_may_be_given(done, capsys):
    assert run("--seeds=0,1,2,3", "--variants=average") == 0
    text = capsys.readouterr().out
    assert text.count("finished before") == 12 and text.count("seed-3") >= 4
    report = Path("out/report.md").read_text()
    assert "200 images; seeds 0, 1, 2, 3" in report and "left out by choice: seeds" not in report


def test_a_variant_that_is_not_asked_for_is_not_said_to_be_one(place, capsys):
    assert run("data=crowded", "--variants=average", "--dry-run") == 0
    text = capsys.readouterr().out
    assert "sequence is not among --variants" in text and "12 runs" in text
    assert run("data=crowded", "--variants=sequence", "--dry-run") == 0
    assert "sequence is one of the variants" in capsys.readouterr().out


def test_selected_variants_keep_those_that_answer(place, capsys):
    assert run("--variants=average", "--dry-run") == 0
    assert "12 runs" in capsys.readouterr().out
