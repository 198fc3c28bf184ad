"""The classifier's command line: a run and its second measurement; bad input gets one sentence and leaves nothing."""

import json
import shutil
from pathlib import Path

import pytest

from detection.cli import train_classifier
from tests.classification.stripes import CONFIG, write_stripes


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """Stripes and a config for them in an otherwise empty current folder."""
    write_stripes(tmp_path / "stripes", [("train", 8), ("test", 4)], size=8)
    (tmp_path / "config.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "stripes"


def refused(capsys, *arguments):
    """Run the command, check that it was refused in one line without a trace on disk, and return the sentence."""
    before = set(Path.cwd().rglob("*"))
    assert train_classifier.main([*arguments, "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error
    assert set(Path.cwd().rglob("*")) - before == set()
    return error


def test_train_then_resume_then_measure_again(workplace, capsys):
    assert train_classifier.main(["config.py", "schedule.epochs=1", "--device=cpu", "--output=run"]) == 0
    assert "of 8 wrong" in capsys.readouterr().out
    assert train_classifier.main(["--resume", "--output=run", "--device=cpu", "schedule.epochs=2"]) == 0
    assert "after 1 epochs" in capsys.readouterr().out
    arguments = ["--evaluate=run", "network.backbone.inference_steps=4", "--device=cpu"]
    assert train_classifier.main(arguments) == 0
    metrics = json.loads(capsys.readouterr().out)
    again = Path("run/evaluation/metrics.json")
    assert metrics == json.loads(again.read_text()) and metrics["images"] == 8
    assert train_classifier.main([*arguments, "--output=elsewhere"]) == 0
    assert json.loads(Path("elsewhere/metrics.json").read_text()) == metrics


def test_a_run_without_an_output_is_named_by_its_config(workplace):
    assert train_classifier.main(["config.py", "schedule.epochs=1", "--device=cpu"]) == 0
    assert Path("runs/config/metrics.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["give one of"]),
        (["config.py", "--evaluate=run"], ["give one of"]),
        (["--resume"], ["--output RUN"]),
        (["--resume", "--output=none"], ["none", "not a run folder"]),
        (["--evaluate=none"], ["none", "not a run folder"]),
        (["nothing.py"], ["nothing.py: no such file, and no shipped config"]),
        (["config.py", "schedule.epoch=1"], ["did you mean schedule.epochs?"]),
        (["config.py", "data.root=none"], ["data.root=none", "no such folder"]),
        (["config.py", "data.kind=CIFAR10"], ["data.root=stripes", "cifar-10-batches-py"]),
        (["config.py", "data.crop=6"], ["multiple of 4"]),
        (["config.py", "network.backbone.norm=batch", "network.backbone.inference_steps=9"], ["inference_steps=9"]),
        (["config.py", "precision=fp16"], ["needs a GPU"]),
        (["config.py", "--output=stripes"], ["stripes", "exists already"]),
    ],
)
def test_bad_arguments(workplace, capsys, arguments, words):
    error = refused(capsys, *arguments)
    assert all(word in error for word in words), error


def test_a_loss_that_is_not_finite(workplace, capsys):
    assert train_classifier.main(["config.py", "optimizer.lr=1e30", "--device=cpu", "--output=run"]) == 2
    error = capsys.readouterr().err
    assert "training stopped: " in error and error.count("\n") == 1
    assert not Path("run/metrics.json").exists()


def test_a_run_that_lost_its_checkpoint(workplace, capsys):
    assert train_classifier.main(["config.py", "schedule.epochs=1", "--device=cpu", "--output=run"]) == 0
    shutil.rmtree("run/checkpoints")
    assert "no checkpoint" in refused(capsys, "--evaluate=run")
    assert "nothing to resume from" in refused(capsys, "--resume", "--output=run")
