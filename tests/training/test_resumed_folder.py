"""What a run folder holds after a resume: settings, metrics and records that belong together."""

import json
import shutil

import pytest
from accelerate import Accelerator

from detection.ablation.detectors import DETECTORS
from detection.ablation.run_types import CorruptRun
from detection.comparison.comparison import open_finished
from detection.errors import UserError
from detection.runs.checkpoint import load_meta
from detection.training import loop
from detection.training import run as training
from detection.training.run import train
from tests.tiny_runs import resume, tiny_config

pytestmark = pytest.mark.usefixtures("blank_plots")


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    """A run of two epochs, the second of which is not like the first; to be copied."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    test = (f"data.test.annotations={shapes}/train.json", f"data.test.images={shapes}/train")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("detection.evaluation.report.to_png", lambda figure: b"")
        train(tiny_config(shapes, "samples=0", *test), folder, Accelerator(cpu=True))
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def stop_after(monkeypatch, epochs):
    """Have the next training crash once it has done so many epochs."""
    train_epoch = loop._train_epoch

    def crash(run, *rest):
        if run.done.epoch == epochs:
            raise KeyError("crash")
        train_epoch(run, *rest)

    monkeypatch.setattr(loop, "_train_epoch", crash)


def read(path):
    return json.loads(path.read_text())


def test_a_finished_run_that_is_trained_further_is_not_finished_meanwhile(run, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyError):
        stop_after(patched, 3)
        resume(run, "schedule.epochs=4")
    assert read(run / "config.json")["schedule"]["epochs"] == 4
    with pytest.raises(CorruptRun, match="test/metrics.json is missing"):
        DETECTORS.read(run)
    for split in ("val", "test"):
        with pytest.raises(UserError, match="there is no such results file"):
            open_finished(run, "run", split)
    assert not list(run.rglob("metrics.json"))
    resume(run)
    assert DETECTORS.read(run) and read(run / "last/metrics.json")["epoch"] == 4


def test_metrics_of_a_finished_run_are_those_of_its_config(run, shapes, tmp_path):
    data = shutil.copytree(shapes, tmp_path / "data")
    test = (f"data.test.annotations={data}/val.json", f"data.test.images={data}/val")
    (run / "test/metrics.json").unlink()
    config = read(run / "config.json")
    environment = read(run / "environment.json")
    del environment["data"]["test"]
    (run / "environment.json").write_text(json.dumps(environment))
    resume(run, "detector.inference.flip=true", "schedule.epochs=1", "optimizer.lr=0.5", *test)
    kept = read(run / "config.json")
    assert kept["detector"]["inference"]["flip"] and kept["data"]["test"]["images"] == f"{data}/val"
    assert kept["schedule"] == config["schedule"] and kept["optimizer"] == config["optimizer"]
    assert read(run / "test/metrics.json")["images"] == 3
    (entry,) = read(run / "environment.json")["history"]
    assert "detector.inference.flip=true instead of false" in entry["changed"]
    (data / "val.json").write_text((shapes / "train.json").read_text())
    with pytest.raises(UserError, match="val.json has changed since this run"):
        open_finished(run, "run", "test")


def test_metrics_of_former_settings_do_not_stay_where_an_evaluation_breaks(run, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyError):
        patched.setattr(training, "detect_split", lambda *args: {}["broken"])
        resume(run, "detector.inference.flip=true")
    assert read(run / "config.json")["detector"]["inference"]["flip"] and not list(run.rglob("metrics.json"))


def test_data_that_are_not_on_record_are_a_note(run, capsys):
    (run / "environment.json").unlink()
    resume(run)
    missing = f"note: {run / 'environment.json'}: missing; whether its data are those of before is not known."
    assert missing in capsys.readouterr().err
    assert DETECTORS.read(run)


def test_a_run_that_is_ended_before_its_time_says_so(shapes, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patched, pytest.raises(KeyError):
        stop_after(patched, 2)
        train(tiny_config(shapes, "samples=0", "schedule.epochs=9"), run, Accelerator(cpu=True))
    resume(run, "schedule.epochs=1")
    assert read(run / "config.json")["schedule"]["epochs"] == load_meta(run / "checkpoints/last")["epoch"] == 2
    assert read(run / "last/metrics.json")["epoch"] == 2


def test_an_epoch_that_becomes_the_last_one_may_be_the_best(shapes, tmp_path, monkeypatch):
    run, values = tmp_path / "run", [0.1, 0.2]
    evaluate = training.evaluate_detections

    def in_turn(*args, **more):
        return {**evaluate(*args, **more), **({} if more else {"AP": values.pop(0)})}

    monkeypatch.setattr(training, "evaluate_detections", in_turn)
    config = tiny_config(shapes, "samples=0", "schedule.epochs=9", "evaluate_every=2")
    with monkeypatch.context() as patched, pytest.raises(KeyError):
        stop_after(patched, 3)
        train(config, run, Accelerator(cpu=True))
    assert load_meta(run / "checkpoints/best")["epoch"] == 2
    assert resume(run, "schedule.epochs=3")["epoch"] == load_meta(run / "checkpoints/best")["epoch"] == 3


def test_data_that_were_moved_are_on_record_where_they_are(run, shapes, tmp_path):
    data = shutil.copytree(shapes, tmp_path / "data")
    files = {"train": data / "train.json", "val": data / "val.json", "test": data / "train.json"}
    resume(run, *(f"data.{split}.annotations={file}" for split, file in files.items()))
    recorded = read(run / "environment.json")["data"]
    assert {split: record["annotations"] for split, record in recorded.items()} == {s: str(f) for s, f in files.items()}
    assert recorded["train"]["image_folder"] == f"{shapes}/train"
    assert DETECTORS.read(run)


@pytest.mark.parametrize("damage", [shutil.rmtree, lambda best: (best / "model.safetensors").write_bytes(b"")])
def test_a_best_checkpoint_that_is_gone_is_chosen_again(run, capsys, damage):
    damage(run / "checkpoints/best")
    assert resume(run, "schedule.epochs=3")["epoch"] == load_meta(run / "checkpoints/best")["epoch"] == 3
    printed = capsys.readouterr().out
    assert ", is missing or damaged: the best is chosen among the epochs from 3 on" in printed
    shutil.rmtree(run / "checkpoints/best")
    assert resume(run)["epoch"] == 3


def test_updates_are_counted_on_without_the_log(run):
    (run / "log.jsonl").unlink()
    resume(run, "schedule.epochs=3")
    assert [line["step"] for line in map(json.loads, (run / "log.jsonl").open()) if "lr" in line] == [9, 10, 11, 12]
    assert DETECTORS.updates(run) == 12
