"""Trackers: what they are given, and that a resumed run goes on in its entry."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from detection.errors import UserError
from detection.runs.trackers import Trackers, require_trackers

CONFIG = {"seed": 0, "detector": {"context": {"class": "x.Y"}, "sizes": [1, 2], "note": None}}


class Fake:
    """A tracker of accelerate's form that keeps its calls, or fails in one."""

    made: list = []

    def __init__(self, project, fails=(), **settings):
        self.project, self.settings, self.calls, self.fails = project, settings, [], fails
        self.active_run = type("Run", (), {"info": type("Info", (), {"run_id": settings.get("run_id") or "entry"})})
        Fake.made.append(self)

    def __getattr__(self, name):
        def call(*args, **more):
            if name in self.fails:
                raise ConnectionError("no route to host")
            self.calls.append((name, args, more))

        return call


@pytest.fixture
def fakes(monkeypatch):
    import accelerate.tracking

    Fake.made = []
    monkeypatch.setattr(accelerate.tracking, "WandBTracker", Fake)
    monkeypatch.setattr(accelerate.tracking, "MLflowTracker", Fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return Fake.made


def test_config_values_and_images_are_handed_on(fakes, tmp_path):
    (tmp_path / "mine").mkdir()
    trackers = Trackers(("wandb",), tmp_path / "mine", CONFIG)
    trackers.log({"train/loss": 1.5}, 3)
    image = np.zeros((2, 2, 3), np.uint8)
    trackers.image("sample", image, 4)
    trackers.close()
    (made,) = fakes
    assert (made.project, made.settings["name"], made.settings["resume"]) == ("context-detection", "mine", "allow")
    flat = {"seed": 0, "detector.context.class": "x.Y", "detector.sizes": "[1, 2]", "detector.note": "null"}
    assert made.calls == [
        ("start", (), {}),
        ("store_init_configuration", (flat,), {}),
        ("log", ({"train/loss": 1.5},), {"step": 3}),
        ("log_images", ({"sample": [image]},), {"step": 4}),
        ("finish", (), {}),
    ]


def test_a_resumed_run_has_one_entry(fakes, tmp_path):
    for _ in range(2):
        Trackers(("wandb", "mlflow"), tmp_path, CONFIG).close()
    first, second = fakes[:2], fakes[2:]
    assert first[0].settings["id"] == second[0].settings["id"] and len(first[0].settings["id"]) == 12
    assert first[1].settings["run_id"] is None and second[1].settings["run_id"] == "entry"
    assert "store_init_configuration" not in [name for name, *_ in second[1].calls]
    other = tmp_path / "other"
    other.mkdir()
    Trackers(("wandb",), other, CONFIG)
    assert fakes[-1].settings["id"] != first[0].settings["id"]


def test_a_copy_of_a_run_gets_another_entry_and_a_moved_run_keeps_its_own(fakes, tmp_path):
    (tmp_path / "run").mkdir()
    Trackers(("wandb",), tmp_path / "run", CONFIG).close()
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    (tmp_path / "link").symlink_to("run")
    for name in ("copy", "run", "link", "copy"):
        Trackers(("wandb",), tmp_path / name, CONFIG).close()
    (tmp_path / "run").rename(tmp_path / "moved")
    Trackers(("wandb",), tmp_path / "moved", CONFIG).close()
    first, copy, again, link, copied, moved = (made.settings["id"] for made in fakes)
    assert first == again == link == moved != copy == copied


@pytest.mark.parametrize("text", ["{", "[]", '{"folder": 1}'])
def test_a_record_that_cannot_be_read_gives_new_entries(fakes, tmp_path, capsys, text):
    (tmp_path / "trackers.json").write_text(text)
    Trackers(("wandb",), tmp_path, {}).close()
    assert "trackers.json cannot be read: the run gets new entries" in capsys.readouterr().err
    assert json.loads((tmp_path / "trackers.json").read_text())["wandb"]


def test_one_that_fails_is_left_out(fakes, tmp_path, capsys):
    trackers = Trackers(("wandb", "mlflow"), tmp_path, CONFIG)
    fakes[0].fails = ("log",)
    for step in range(3):
        trackers.log({"a": 1.0}, step)
    trackers.close()
    error = capsys.readouterr().err
    assert error == "warning: the tracker wandb is left out from here on (ConnectionError: no route to host)\n"
    assert [name for name, *_ in fakes[1].calls].count("log") == 3


def test_without_trackers_nothing_is_written(tmp_path):
    Trackers((), tmp_path, CONFIG).close()
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="trackers=mlflow: its package is not installed: pip install mlflow"):
        require_trackers(("mlflow",))


@pytest.fixture
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


@pytest.mark.slow
def test_wandb_offline(accelerator, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for step in (1, 2):
        trackers = Trackers(("wandb",), tmp_path, CONFIG)
        trackers.log({"val/AP": 0.5}, step)
        trackers.image("sample", np.zeros((4, 4, 3), np.uint8), step)
        trackers.close()
    entry = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    written = list(Path(tmp_path, "wandb").glob("offline-run-*"))
    assert written and all(folder.name.endswith(entry) for folder in written)


@pytest.mark.slow
def test_mlflow_with_a_file_store(accelerator, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for step in (1, 2):
        trackers = Trackers(("mlflow",), tmp_path, CONFIG)
        trackers.log({"val/AP": step / 4}, step)
        trackers.image("sample", np.zeros((4, 4, 3), np.uint8), step)
        trackers.close()
    client = mlflow.MlflowClient()
    (experiment,) = [e for e in client.search_experiments() if e.name == "context-detection"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["detector.context.class"] == "x.Y"
    history = client.get_metric_history(run.info.run_id, "val/AP")
    assert [(m.step, m.value) for m in history] == [(1, 0.25), (2, 0.5)]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"sample-1.png", "sample-2.png"}


def test_a_run_hands_its_metrics_and_samples_on(shapes, fakes, tmp_path, monkeypatch):
    from accelerate import Accelerator

    from detection.training.run import train
    from tests.tiny_runs import tiny_config

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "wandb" else find(name))
    train(tiny_config(shapes, "epochs=1", "trackers=('wandb',)"), tmp_path / "run", Accelerator(cpu=True))
    (made,) = fakes
    logged = [args[0] for name, args, _ in made.calls if name == "log"]
    assert sum("train/loss" in line or "train/lr" in line for line in logged) == 4
    (evaluated,) = [line for line in logged if "val/AP" in line]
    assert evaluated["epoch"] == 0 and any(name.startswith("val_AP_of_class/") for name in evaluated)
    (images,) = [args[0] for name, args, _ in made.calls if name == "log_images"]
    assert images["samples"][0].ndim == 3 and made.calls[-1][0] == "finish"
    settings = next(args[0] for name, args, _ in made.calls if name == "store_init_configuration")
    assert settings["schedule.epochs"] == 1
