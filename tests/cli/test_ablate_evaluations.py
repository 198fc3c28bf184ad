"""Ablations whose finished runs are evaluated again, on other data: what is run, repaired, reported and refused."""

import csv
import json
from pathlib import Path

import pytest

from detection.ablation.detectors import DETECTORS
from detection.ablation.run_types import CorruptRun, StaleRun
from detection.cli import ablate, evaluate
from detection.errors import UserError
from detection.runs.folder import open_config
from tests.ablation.coins import CoinRuns
from tests.cli.test_ablate import place, run, write
from tests.tiny_runs import draw_shapes, tiny_config, write_config

__all__ = ["place"]  # the fixture: an empty current folder


def coins(evaluate_on, data="{'near': ['data=a'], 'far': ['data=b']}", more=""):
    write(
        {"fair": [], "good": ["p=0.8"]},
        **{"seeds=(0, 1),": f"seeds=(0, 1), data={data}, evaluate_on={evaluate_on}, {more}"},
    )


def rows():
    with Path("out/report.csv").open() as file:
        return {(row["data"], row["variant"]): row for row in csv.DictReader(file)}


def test_finished_runs_are_evaluated_again_and_reported_as_a_data_set(capsys):
    coins({"2x": {"near": ["images=60", "data=c"]}}, more="chance={'near': 0.1}, ")
    assert run("--workers=2") == 0
    text = capsys.readouterr().out
    assert text.count("evaluate near-2x/") == 4 and "far-2x" not in text
    found = rows()
    assert list(found) == [(d, v) for d in ("near", "near-2x", "far") for v in ("fair", "good")]
    correct = [json.loads(Path(f"out/runs/near/good/seed-{s}/evaluation-2x/correct.json").read_text()) for s in (0, 1)]
    row = found["near-2x", "good"]
    assert len(correct[0]) == 60 and float(row["mean"]) == pytest.approx(sum(map(sum, correct)) / 120)
    assert float(row["low"]) < float(row["difference"]) < float(row["high"]) and row["learned"] == "2"
    report = Path("out/report.md").read_text()
    assert "12 of 12 trainings and evaluations are finished" in report
    assert "near-2x is every run of near, evaluated again with images=60 data=c." in report
    assert "## Metrics on near-2x" in report and "on 60 images" in report
    assert "coin_run.py --evaluate out/runs/near/good/seed-1 --output" in report
    assert report.split("## Runs")[1].startswith("\n\nAll were made with") or "There is none" not in report


def test_only_what_is_missing_or_stale_is_evaluated(capsys):
    coins({"2x": {"near": ["images=60"]}})
    assert run() == 0
    capsys.readouterr()
    assert run() == 0
    assert "evaluate " not in capsys.readouterr().out
    Path("out/runs/near/good/seed-1/evaluation-2x/evaluation.json").unlink()
    assert run("--report-only") == 1
    text = capsys.readouterr().out
    assert "missing  near-2x/good/seed-1: absent: evaluation.json is missing" in text
    assert rows()["near-2x", "good"]["missing"] == "seed-1" and rows()["near-2x", "good"]["mean"] == ""
    assert run() == 0
    assert capsys.readouterr().out.count("evaluate ") == 1
    coins({"2x": ["images=50"]})
    assert run("--report-only") == 1
    assert "near-2x/good/seed-1: stale: it was evaluated with images=60 instead of 50" in capsys.readouterr().out
    assert run("--data=near") == 0
    text = capsys.readouterr().out
    assert text.count("evaluate near-2x/") == 4 and "far-2x" not in text


def test_an_evaluation_that_fails_is_named_and_ends_nothing_else(capsys):
    coins({"odd": {"far": ["images=13"]}, "2x": ["images=60"]})
    assert run() == 1
    text = capsys.readouterr().out
    assert text.count(r"failed: it ended with “RuntimeError: thirteen \x1b[1mcoins”") == 4
    assert all(line.isprintable() for line in text.splitlines())
    assert rows()["far-2x", "good"]["mean"] and not rows()["far-odd", "good"]["mean"]
    assert run("--dry-run") == 0
    text = capsys.readouterr().out
    assert "8 runs, 12 evaluations" in text and "--output out/runs/far/good/seed-0/evaluation-odd images=13" in text


@pytest.mark.parametrize(
    ("evaluate_on", "words"),
    [
        ({"2x": {"near": ["images=60"], "fra": ["images=60"]}}, ["evaluate_on['2x']='fra'", "did you mean 'far'?"]),
        ({"2x": ["imags=60"]}, ["evaluate_on['2x'], near/fair", "imags"]),
        ({"2x": ["images=40"]}, ["evaluate_on['2x'], near/fair: changes nothing"]),
        ({"2x": []}, ["evaluate_on['2x']: has no changes"]),
        ({"2x": "images=60"}, ["evaluate_on['2x']", "list of 'key=value'"]),
        ({"../x": ["images=60"]}, ["evaluate_on: '../x' names folders"]),
        ({"2x": ["seed=60"]}, ["evaluate_on['2x']", "seed"]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(evaluate_on, words, capsys):
    coins(evaluate_on)
    assert run() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(word in error for word in words), error
    assert not Path("out").exists()


def test_a_name_that_a_data_set_has_and_runs_that_cannot_be_evaluated(capsys, monkeypatch):
    coins({"2x": ["images=60"]}, data="{'near': [], 'near-2x': ['data=b']}")
    assert run() == 2
    assert "near-2x is a data set already" in capsys.readouterr().err
    coins({"2x": ["images=60"]})
    with monkeypatch.context() as patch:
        patch.setattr(CoinRuns, "evaluate_command", ())
        assert run() == 2
    assert "runs of this type cannot be evaluated again" in capsys.readouterr().err


def test_changes_of_a_detector_s_evaluation(tmp_path):
    config = tiny_config(tmp_path)
    changes = ["detector.max_size=128", "detector.min_size=128", "data.val.annotations=a.json", "data.val.images=a"]
    assert DETECTORS.evaluation_config(config, changes).detector.min_size == 128
    for change, words in (
        ("detector.head.hidden_channels=8", "detector.head.hidden_channels belongs to the training"),
        ("optimizer.lr=1", "optimizer.lr belongs to the training"),
        ("data.train.images=b", "reported on data.val, which the changes leave"),
    ):
        with pytest.raises(UserError, match=words):
            DETECTORS.evaluation_config(config, [change])
    tested = tiny_config(tmp_path, "data.test.annotations=t.json", "data.test.images=t")
    with pytest.raises(UserError, match="reported on data.test"):
        DETECTORS.evaluation_config(tested, changes)
    arguments = DETECTORS.evaluate_arguments(Path("run"), Path("run/evaluation-2x"), tested)
    assert arguments[-4:] == ["--split", "test", "--checkpoint", "best"]


OTHERWISE = [
    ({"checkpoint": None}, "--split val --checkpoint best"),
    ({"checkpoint": "best"}, "--split val --checkpoint best"),
    ({"split": "test", "data": {"test": {"annotations": "t.json"}}}, "--split test --checkpoint last"),
    ({"context_from": "none"}, "--split val --checkpoint last --context-from none"),
    ({"classes_ignored": True}, "--split val --checkpoint last --ignore-classes"),
]


def test_what_an_evaluation_s_folder_holds_is_checked(finished_run, tmp_path, blank_plots):
    large = draw_shapes(tmp_path / "large", val=4)
    changes = [f"data.val.annotations={large}/val.json", f"data.val.images={large}/val"]
    folder, config = tmp_path / "evaluation-2x", open_config(finished_run)
    evaluate.main([*DETECTORS.evaluate_arguments(finished_run, folder, config), *changes, "--device=cpu"])
    metrics = json.loads((folder / "metrics.json").read_text())
    record = json.loads((folder / "evaluation.json").read_text())
    assert DETECTORS.digest(record["config"]) == DETECTORS.digest(
        DETECTORS.plain(DETECTORS.evaluation_config(config, changes))
    )
    read, per_image = DETECTORS.read_evaluation(folder), DETECTORS.per_image_evaluation(folder)
    assert record["checkpoint"] == "last" and read["AP50"] == metrics["AP50"] and per_image.num_images == 4
    assert per_image.images_key != DETECTORS.per_image_results(finished_run).images_key
    for change, words in OTHERWISE:
        (folder / "evaluation.json").write_text(json.dumps(record | change))
        with pytest.raises(StaleRun, match=f"^it was evaluated with {words} instead of --split val --checkpoint last$"):
            DETECTORS.read_evaluation(folder)
    other = {"val": record["data"]["val"] | {"annotations": "other.json"}}
    (folder / "evaluation.json").write_text(json.dumps(record | {"data": other}))
    with pytest.raises(StaleRun, match=r"^it was evaluated on other.json instead of .*large/val.json$"):
        DETECTORS.read_evaluation(folder)
    (folder / "evaluation.json").write_text(json.dumps(record))
    (large / "val.json").write_text((large / "val.json").read_text() + " ")
    with pytest.raises(StaleRun, match="val.json has changed since"):
        DETECTORS.read_evaluation(folder)
    (folder / "results.json").write_text("[]")
    with pytest.raises(CorruptRun, match="evaluation-2x/results.json holds 0 detections"):
        DETECTORS.read_evaluation(folder)
    (folder / "evaluation.json").write_text("{}")
    with pytest.raises(CorruptRun, match="does not name its data"):
        DETECTORS.read_evaluation(folder)


@pytest.mark.slow
def test_real_detectors_on_larger_scenes(place, capsys):
    """Trained at 64 pixels, evaluated at 64 and on a canvas of 96, which is drawn for validation alone."""
    write_config(place / "base.py", place / "unused")
    Path("larger.py").write_text(
        "from detection.ablation import Ablation, scenes\n\n"
        "sizes = ['detector.max_size=96', 'detector.min_size=96']\n"
        "larger = [*scenes('row', size=64, canvas=96, train=400, val=3), *sizes]\n"
        "ablation = Ablation(base='base.py', variants={'plain': []}, seeds=(0,), metric='AP50',\n"
        "                    data={'row': scenes('row', size=64, train=4, val=2)}, evaluate_on={'2x': larger})\n"
    )
    arguments = ["larger.py", "--output=out", "--cost-rounds=0", "schedule.epochs=1"]
    assert ablate.main(arguments) == 0
    text = capsys.readouterr().out
    assert "drawing 3 images of ContextScenes 'row'" in text and "evaluate row-2x/plain/seed-0" in text
    assert {path.name for path in Path("datasets").glob("row-size64-canvas96*/*")} == {"val", "val.json"}
    run = Path("out/runs/row/plain/seed-0")
    assert json.loads((run / "evaluation-2x/metrics.json").read_text())["images"] == 3
    assert json.loads((run / "evaluation-2x/evaluation.json").read_text())["checkpoint"] == "last"
    assert "## Metrics on row-2x" in Path("out/report.md").read_text()
    assert ablate.main(arguments) == 0
    assert "evaluate row" not in capsys.readouterr().out
