"""Ablations whose variants are first chosen from options: what is run, chosen, reported and refused."""

import csv
import json
from pathlib import Path

import pytest

from detection.ablation import Choice
from detection.ablation.choice import require_choice
from detection.errors import UserError
from tests.cli.test_ablate import place, run, write

__all__ = ["place"]  # the fixture: an empty current folder

OPTIONS = "{'fair': {'low': ['p=0.1'], 'as-is': []}, 'good': {'best': ['p=0.95'], 'worse': ['p=0.4']}}"


def coins(options=OPTIONS, seeds="(7,)", more=""):
    choice = f"Choice({options}, {{'near': ['data=a'], 'far': ['data=b']}}, {seeds})"
    write(
        {"fair": [], "good": ["p=0.8"], "fixed": ["p=0.3"]},
        **{"import Ablation": "import Ablation, Choice", "seeds=(0, 1),": f"seeds=(0, 1), choice={choice}, {more}"},
    )


def rows():
    with Path("out/report.csv").open() as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def of_run(variant, seed):
    return json.loads(Path(f"out/runs/data/{variant}/seed-{seed}/config.json").read_text())


def test_each_variant_is_the_option_with_the_highest_mean(capsys):
    coins()
    assert run("--workers=2") == 0
    tried = {p.parent.name: p for p in Path("out/choice/runs/near").glob("*/seed-7")}
    assert set(tried) == {"fair+low", "fair+as-is", "good+best", "good+worse"}
    assert [of_run(v, 1)["p"] for v in ("fair", "good", "fixed")] == [0.5, 0.95, 0.3]
    assert [rows()[v]["chosen"] for v in ("fair", "good", "fixed")] == ["as-is", "best", ""]
    report = Path("out/report.md").read_text().split("## Choice of settings")[1]
    assert "Each had 2 options" in report and "Nothing was chosen for fixed." in report
    found = [
        json.loads(Path(f"out/choice/runs/{d}/good+best/seed-7/metrics.json").read_text())["accuracy"]
        for d in ("near", "far")
    ]
    line = next(line for line in report.splitlines() if line.startswith("| good"))
    assert f"{sum(found) / 2:.3f}" in line and " best " in line
    assert json.loads(Path("out/ablation.json").read_text())["chosen"]["good"]["option"] == "best"
    assert Path("out/choice/report.html").exists()
    capsys.readouterr()
    assert run("--variants=good") == 0  # nothing is tried or trained again
    assert "finished in" not in capsys.readouterr().out


def test_a_choice_that_is_not_complete_starts_no_run_of_the_ablation(capsys):
    coins(OPTIONS.replace("'p=0.4'", "'behavior=crash'"))
    assert run() == 1
    assert "missing  near/good+worse/seed-7" in capsys.readouterr().out and not Path("out/runs").exists()
    assert run("--report-only") == 2
    assert "choice: near/good+worse has no accuracy" in capsys.readouterr().err


def test_a_dry_run_prints_what_is_tried(capsys):
    coins()
    assert run("--dry-run") == 0
    text = capsys.readouterr().out
    assert text.startswith("8 runs\n") and "p=0.95" in text and "follow from what is chosen" in text
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "seeds", "more", "message"),
    [
        (OPTIONS, "(1, 7)", "", "choice: seed 1 is one of the ablation's"),
        (OPTIONS.replace("'low': ['p=0.1'], ", ""), "(7,)", "", "equally many options, or the .* fair 1, good 2"),
        (OPTIONS.replace("'fair': {", "'unfair': {"), "(7,)", "", "choice: there is no variant 'unfair'"),
        ("{}", "(7,)", "", "choice: options must have one variant"),
        (OPTIONS.replace("'p=0.1'", "'q=0.1'"), "(7,)", "", r"near/fair\+low: .*q"),
        (OPTIONS, "(7,)", "metric='speed',", "metric='speed'"),
        (OPTIONS, "()", "", r"seeds=\(\)"),
        (OPTIONS, "(7,)", "data={'data': ['q=1']},", "data/fair: .*q"),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_anything_runs(options, seeds, more, message, capsys):
    coins(options, seeds, more)
    assert run() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not Path("out").exists()
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error)


def test_trials_of_one_name_are_refused():
    options = {"a": {"x": [], "b+c": []}, "a+b": {"c": [], "y": []}}
    with pytest.raises(UserError, match=r"option 'c' of 'a\+b' and 'b\+c' of 'a' are both named a\+b\+c"):
        require_choice(Choice(options, {"data": []}, (7,)), {"a": (), "a+b": ()}, (0,))


def test_options_in_python_may_hold_parts():
    choice = Choice({"a": {"x": {"p": 0.1}}}, {"d": []}, (7,))
    assert choice.tried({"a": ("width=2",)}) == {"a+x": ("width=2", "p=0.1")}
    assert choice.only({"b": ()}) is None
    with pytest.raises(UserError, match="choice: a, x"):
        Choice({"a": {"x": "p=0.1"}}, {"d": []}, (7,)).tried({"a": ()})
