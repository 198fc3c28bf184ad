"""Ablations whose seeds learn or stay at chance, on coins: shares, verdicts, primary comparisons and suites."""

import contextlib
import csv
import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from detection.ablation.planning import open_ablation, open_plan
from detection.atomic_write import write_json
from detection.cli import ablate
from detection.evaluation.simulated_coverage import simulated_coverage
from tests.ablation import coin_run

ROOT = Path(__file__).parents[2]
FILE = """
import sys

sys.path.append({root!r})
from tests.ablation.coins import COINS, CoinConfig

from detection.ablation import Ablation

config = CoinConfig()
ablation = Ablation(base=config, variants={variants}, seeds={seeds}, run_type=COINS, {more})
"""
NEVER = "stuck=(0, 1, 2, 3)"
VARIANTS = {
    "plain": ["p=0.8"],
    "good": ["p=0.9"],
    "lucky": ["p=0.95", "stuck=(1, 2)"],
    "once": ["p=0.99", "stuck=(1, 2, 3)"],
    "never": ["p=0.7", NEVER],
}
CHANCE = "chance={'data': 1 / 3}"


def write(more=CHANCE, variants=VARIANTS, seeds=(0, 1, 2, 3)):
    Path("coins.py").write_text(FILE.format(root=str(ROOT), variants=variants, seeds=seeds, more=more))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the finished ablation."""
    folder = tmp_path_factory.mktemp("learning")
    with contextlib.chdir(folder):
        write()
        assert make() == 0
    return folder


@pytest.fixture
def done(finished, tmp_path, monkeypatch):
    """A copy of the finished ablation, as the current folder."""
    monkeypatch.chdir(shutil.copytree(finished, tmp_path / "done"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty current folder with the ablation's file in it."""
    monkeypatch.chdir(tmp_path)
    write()


ARGUMENTS = ["coins.py", "--output=out", "--cost-rounds=0", "images=200"]


def run(*arguments):
    return ablate.main([*ARGUMENTS, *arguments])


def make(*arguments):
    """Do as `run` does, with all runs in this process, which is faster."""
    request = ablate.read_request([*ARGUMENTS, *arguments])
    plan = open_plan(request, open_ablation(request), {}).plan
    write_json(Path("out/ablation.json"), plan.record())
    for one in plan.runs:
        coin_run.main(["coins.py", "--output", str(one.folder), *one.overrides, f"seed={one.seed}"])
    return run("--report-only", *arguments)


def part(title, text=None):
    """The report from a heading on to the next of its level."""
    text = Path("out/report.md").read_text() if text is None else text
    return re.split(r"\n## ", text.split(title, 1)[1])[0]


def rows(text):
    """Cells of a Markdown table's lines by their first cell."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in cells if len(row) > 3}


def table():
    with Path("out/report.csv").open() as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def test_the_share_that_learns_is_apart_from_the_mean_among_those(done):
    text = part("## Metrics on data")
    found = rows(text.split("Mean ±")[0])
    assert found["good"][0] == "4 of 4" and found["good"][1] == "1.000 [0.398, 1.000]"
    assert found["lucky"][:2] == ["2 of 4", "0.500 [0.068, 0.932]"] and len(found["lucky"][3].split()) == 4
    assert found["never"][:3] == ["0 of 4", "0.000 [0.000, 0.602]", "has not learned in 376 updates"]
    assert "By chance accuracy is 0.333" in text and Path("out/seeds-data.png").read_bytes()[:4] == b"\x89PNG"
    lucky, never = table()["lucky"], table()["never"]
    values = list(map(float, lucky["values"].split()))
    assert float(lucky["mean"]) == pytest.approx((values[0] + values[3]) / 2) and lucky["learned"] == "2"
    assert float(lucky["mean_low"]) < float(lucky["mean"]) < float(lucky["mean_high"])
    assert (never["learned"], never["share"], never["mean_low"]) == ("0", "0.0", "")


def test_a_variant_that_has_not_learned_is_never_worse(done):
    report = Path("out/report.md").read_text()
    differences = rows(report.split("### Difference to plain")[1])
    assert differences["never"][0] == "not learned" and differences["never"][2] == "has not learned in 376 updates"
    assert table()["never"]["difference"] == ""
    assert "(2 of 4)" in differences["lucky"][0] and "worse" not in report and "lower" not in report
    assert differences["good"][2] == "higher" and differences["good"][0].endswith("*")


def test_one_pair_of_several_seeds_carries_no_verdict(done):
    """Its interval is about the images alone."""
    differences = rows(Path("out/report.md").read_text().split("### Difference to plain")[1])
    assert differences["once"][0].endswith("] (1 of 4)") and differences["once"][1:] == ["–", "undecided"]


def test_a_reference_that_has_not_learned_is_named(place):
    write(variants={"never": VARIANTS["never"], "stuck": ["p=0.6", NEVER], "good": ["p=0.9"]})
    assert make() == 0
    differences = rows(Path("out/report.md").read_text().split("### Difference to never")[1])
    assert differences["stuck"][2] == "neither has learned in 376 updates"
    # Four seeds of four against none: Fisher's p is 2 / 70, the only test of the family.
    text = "the reference has not learned in 376 updates, learns more often"
    assert differences["good"] == ["not learned", "0.029", text]
    assert "or of the shares of seeds that learn, the smaller one" in Path("out/report.md").read_text()
    good = table()["good"]
    assert (good["p"], good["verdict"]) == ("", text) and float(good["p_share"]) == pytest.approx(2 / 70)


def test_where_all_seeds_guess_none_has_learned_because_it_guessed_well(place):
    """The best of eight is above chance by a little, and counted as one that learned."""
    write(variants={"never": VARIANTS["never"], "stuck": ["p=0.6", NEVER]})
    assert make() == 0
    text = part("## Metrics on data")
    assert max(map(float, table()["never"]["values"].split())) > 1 / 3
    assert "none is above chance by more than its images explain, so none has learned. The share" in text
    assert {row[0] for row in rows(text.split("Mean ±")[0]).values() if row[0].endswith("of 4")} == {"0 of 4"}
    assert rows(text.split("### Difference to never")[1])["stuck"][2] == "neither has learned in 376 updates"


@pytest.mark.parametrize("chance", ["", CHANCE])
def test_a_difference_that_nothing_varies_has_no_interval_and_is_of_all_seeds(place, chance):
    """As of a class with one object, which one variant finds with each seed and the other never."""
    write(chance, {"some": ["p=0.5"], "none": ["p=0.0"], "all": ["p=1.0"]}, seeds=(0, 1))
    Path("coins.py").write_text(Path("coins.py").read_text().replace("seeds=", "reference='none', seeds="))
    assert make() == 0
    report = Path("out/report.md").read_text()
    assert rows(report.split("### Difference to none")[1])["all"][0] == ("not learned" if chance else "no interval")
    assert "no seed of both" not in report and "“no interval” a difference that too few images decide" in report


def test_seeds_that_learned_with_one_of_two_variants_each_have_no_difference(place):
    write(variants={"odd": ["p=0.9", "stuck=(0, 1)"], "even": ["p=0.9", "stuck=(2, 3)"]})
    assert make() == 0
    assert rows(Path("out/report.md").read_text().split("### Difference to odd")[1])["even"][0] == "no seed of both"


def test_without_a_chance_level_nothing_is_stated_of_learning(done):
    write("")
    assert run("--report-only") == 0
    text = part("## Metrics on data")
    assert "No chance level of accuracy is stated for data" in text and "mean of all seeds" in text
    assert not re.search(r"\d of 4", text) and table()["lucky"]["learned"] == ""


def test_every_interval_shown_is_counted(done):
    report = Path("out/report.md").read_text()
    shown = len(re.findall(r"\[[−+]?\d[\d.]*, [−+]?\d[\d.]*\]", report.split("## How to read")[0]))
    assert shown == 5 + 3 + 3  # shares, means, differences
    assert "The tables above show 11 intervals" in report and "0.55 of them miss it by chance" in report


PRIMARY = CHANCE + ", primary=[('good', 'plain', 'accuracy', 'data'), ('lucky', 'good', 'accuracy', 'data')]"


def test_others_are_adjusted_by_holm_and_primary_ones_are_not(done):
    adjusted = float(table()["good"]["p"])
    write(PRIMARY)
    plain = json.loads(Path("out/ablation.json").read_text())
    named = [["good", "plain", "accuracy", "data"], ["lucky", "good", "accuracy", "data"]]
    Path("out/ablation.json").write_text(json.dumps({**plain, "primary": named}))
    assert run("--report-only") == 0
    primary = rows(part("## Primary comparisons"))
    assert {"accuracy of good against plain on data", "accuracy of lucky against good on data"} < set(primary)
    assert "changed" not in part("## Primary comparisons") and table()["good"]["primary"] == "1"
    # Three tests are in the family: of good and lucky, and of never's share.
    assert adjusted == pytest.approx(3 * float(table()["good"]["p"]))


def test_a_comparison_that_is_named_after_runs_exist_is_no_primary_one(done):
    write(PRIMARY)
    for _ in range(2):
        assert run() == 0
        text = part("## Primary comparisons")
        assert "changed after runs existed" in text and "good against plain on data: named after runs existed" in text
        assert table()["good"]["primary"] == "0"
        assert json.loads(Path("out/ablation.json").read_text())["primary"] == []


def test_a_comparison_that_is_dropped_is_reported_and_a_part_drops_none(place):
    write(PRIMARY, seeds=(0, 1))
    assert run("--variants=never", "--seeds=0") == 0
    assert "Primary" not in Path("out/report.md").read_text()
    assert len(json.loads(Path("out/ablation.json").read_text())["primary"]) == 2
    assert run("--report-only") == 1
    assert "changed" not in part("## Primary comparisons") and table()["good"]["primary"] == "1"
    write(seeds=(0, 1))
    assert run("--report-only") == 1
    assert "good against plain on data: named before the first run, and no longer" in part("## Primary comparisons")


def test_data_sets_with_a_chance_level_are_a_suite(place, monkeypatch):
    monkeypatch.setattr(
        "detection.ablation.report.suite.simulated_coverage", partial(simulated_coverage, repetitions=10)
    )
    data = "data={'a': ['data=a'], 'b': ['data=b'], 'c': ['data=c'], 'd': ['data=d']}, "
    variants = {"never": VARIANTS["never"], "good": ["p=0.9"]}
    write(data + "chance={'a': 1 / 3, 'b': {'accuracy': 1 / 3}, 'c': 0.3}", variants, seeds=(0, 1))
    assert make() == 0
    text = part("## All data sets as one suite")
    found = rows(text.replace("|\n", "| |\n"))
    assert float(found["good"][0].split()[0]) > 0.8 and found["good"][1] == "1.000 [0.541, 1.000]"
    assert "Left out, without a chance level: d." in text and Path("out/profile.png").exists()
    assert re.search(r"with 2 seeds on 3 data sets .*: normal \d\.\d\d and \S+; skewed .*; bimodal ", text)
    assert run("--data=a,b,d", "--report-only") == 0
    assert "2 of 3 data sets state the chance level" in part("## All data sets as one suite")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("chance={'dta': 0.3}", ["chance='dta'", "did you mean 'data'?"]),
        ("chance={'data': 1}", ["chance['data']=1", "from 0 to below 1"]),
        ("chance={'data': 'third'}", ["'third'", "from 0 to below 1"]),
        ("chance={'data': {'AP': 0.3}}", ["chance['data']='AP'", "accuracy"]),
        ("chance=0.3", ["chance=0.3", "by data set"]),
        ("primary=[('good', 'plain', 'accuracy')]", ["primary[0]", "(variant, against, metric, data set)"]),
        ("primary=[('god', 'plain', 'accuracy', 'data')]", ["primary[0]='god'", "did you mean 'good'?"]),
        ("primary=[('good', 'good', 'accuracy', 'data')]", ["primary[0]", "with itself"]),
        ("primary=[('good', ['plain'], 'accuracy', 'data')]", ["primary[0]", "must be"]),
        ("primary='good'", ["primary='good'", "must be a list"]),
        ("primary=2 * [('good', 'plain', 'accuracy', 'data')]", ["primary", "twice"]),
    ],
)
def test_what_does_not_fit_is_one_sentence(place, capsys, more, words):
    write(more)
    assert run() == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and all(word in error for word in words), error
    assert not Path("out").exists()
