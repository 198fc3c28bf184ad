"""What is read from a detector's run folder, and what is refused about it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from detection.ablation import Ablation
from detection.ablation.detectors import DETECTORS
from detection.ablation.launch.status import RunStatus, inspect_evaluation, inspect_run
from detection.ablation.plan import Run, make_plan
from detection.ablation.run_types import CorruptRun, StaleRun
from detection.config import to_plain
from detection.errors import UserError
from detection.runs.folder import open_config
from tests.tiny_runs import tiny_config, write_config


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of a finished run, to be damaged."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_the_numbers_of_a_run_and_what_they_rest_on_agree(finished_run):
    metrics = json.loads((finished_run / "last/metrics.json").read_text())
    read, per_image = DETECTORS.read(finished_run), DETECTORS.per_image_results(finished_run)
    assert read["AP50"] == metrics["AP50"] and set(DETECTORS.metrics) < set(read)
    name = next(iter(metrics["per_class"]))
    assert read[f"AP/{name}"] == metrics["per_class"][name]["AP"] or np.isnan(read[f"AP/{name}"])
    found = per_image.resampled(np.ones((1, per_image.num_images), dtype=int))
    assert set(found) == set(read) and per_image.num_images == metrics["images"]
    for key, value in read.items():
        assert np.isnan(value) == np.isnan(found[key][0]) and (np.isnan(value) or abs(value - found[key][0]) < 1e-9)


def test_a_config_and_its_json_have_one_digest(finished_run):
    plain = json.loads((finished_run / "config.json").read_text())
    assert DETECTORS.digest(plain) == DETECTORS.digest(DETECTORS.plain(open_config(finished_run)))


WEIGHTS = "checkpoints/last/model.safetensors"


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGES = {
    "no metrics": (lambda f: (f / "last/metrics.json").unlink(), "last/metrics.json is missing"),
    "half metrics": (lambda f: cut(f / "last/metrics.json"), "last/metrics.json cannot be read"),
    "a list": (lambda f: (f / "last/metrics.json").write_text("[]"), "no dict"),
    "no AP": (lambda f: edit(f / "last/metrics.json", lambda m: m.pop("AP")), "lacks AP"),
    "a word": (lambda f: edit(f / "last/metrics.json", lambda m: m.update(AP="high")), "'high'"),
    "no classes": (lambda f: edit(f / "last/metrics.json", lambda m: m.update(per_class=None)), "of each class"),
    "empty class": (lambda f: edit(f / "last/metrics.json", lambda m: m.update(per_class={"a": {}})), "of each class"),
    "no results": (lambda f: (f / "last/results.json").unlink(), "last/results.json is missing"),
    "fewer results": (lambda f: edit(f / "last/results.json", lambda r: r.clear()), "holds 0 detections"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "is missing"),
    "half the weights": (lambda f: cut(f / WEIGHTS), "cut off"),
    "no head": (lambda f: (f / WEIGHTS).write_bytes(b"xx"), "cannot be read"),
    "another head": (lambda f: (f / WEIGHTS).write_bytes((2).to_bytes(8, "little") + b"[]"), "cannot be read"),
    "no environment": (lambda f: (f / "environment.json").unlink(), "environment.json is missing"),
    "no data": (lambda f: edit(f / "environment.json", lambda e: e.pop("data")), "does not name its data"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_run_is_reported(run, damage, words):
    DETECTORS.read(run)
    damage(run)
    with pytest.raises(CorruptRun, match=words):
        DETECTORS.read(run)


@pytest.mark.parametrize("text", ["[]", "null", "5"])
def test_settings_that_are_no_object_are_named_as_such(run, text):
    planned = Run("mine", "gru", 0, (), run, open_config(run), "digest")
    again = Run("mine-2x", "gru", 0, (), run / "evaluation-2x", planned.config, "digest", planned)
    again.folder.mkdir()
    (again.folder / "evaluation.json").write_text(json.dumps({"config": json.loads(text)}))
    status = inspect_evaluation(again, DETECTORS, RunStatus("finished"))
    assert (status.state, status.reason) == ("absent", "evaluation.json holds no settings")
    (run / "config.json").write_text(text)
    status = inspect_run(planned, DETECTORS)
    assert (status.state, status.reason) == ("corrupt", "config.json holds no settings")


@pytest.mark.parametrize(("change", "words"), [("sha256", "has changed since"), ("annotations", "is gone")])
def test_other_data_is_reported(run, change, words):
    edit(run / "environment.json", lambda e: e["data"]["train"].update({change: "other"}))
    with pytest.raises(StaleRun, match=words):
        DETECTORS.read(run)


def test_other_images_are_reported_and_images_that_are_gone_are_not(run, shapes, tmp_path):
    images = shutil.copytree(shapes / "val", tmp_path / "images")
    edit(run / "environment.json", lambda e: e["data"]["val"].update(image_folder=str(images)))
    DETECTORS.read(run)
    key = DETECTORS.per_image_results(run).images_key
    other = shutil.copytree(images, tmp_path / "other")
    shutil.copy(other / "000001.png", other / "000002.png")
    edit(run / "environment.json", lambda e: e["data"]["val"].update(image_folder=str(other)))
    with pytest.raises(StaleRun, match="images in .*other have changed since"):
        DETECTORS.read(run)
    edit(run / "environment.json", lambda e: e["data"]["val"].update(image_folder="gone", images_sha256="0"))
    DETECTORS.read(run)
    assert DETECTORS.per_image_results(run).images_key != key


def test_results_on_another_ground_truth_cannot_be_read(run):
    edit(run / "last/results.json", lambda results: results[0].update(image_id=999))
    with pytest.raises(UserError, match="image_id 999"):
        DETECTORS.per_image_results(run)


def test_how_far_a_run_is(run, tmp_path):
    assert DETECTORS.progress(run) == "epoch 2 of 2" and DETECTORS.can_resume(run)
    assert DETECTORS.progress(tmp_path / "none") == "" and not DETECTORS.can_resume(tmp_path / "none")
    (run / "log.jsonl").write_text('{"epoch": 0}\n{"ep')
    assert DETECTORS.progress(run) == ""


def test_what_decides_costs(tmp_path):
    config = tiny_config(tmp_path)
    mine = DETECTORS.architecture(config)
    assert mine == DETECTORS.architecture(tiny_config(tmp_path, "seed=3", "schedule.epochs=9", "detector.weights=w"))
    for change in ("detector.head.hidden_channels=8", "batch_size=1", "optimizer.kind=adamw"):
        assert mine != DETECTORS.architecture(tiny_config(tmp_path, change))
    assert set(mine) <= {*to_plain(config)}


def test_models_that_data_sets_share_are_built_once(tmp_path, monkeypatch):
    write_config(tmp_path / "base.py", tmp_path)
    ablation = Ablation(
        base="base.py",
        variants={"plain": [], "narrow": ["detector.head.hidden_channels=8"], "slow": ["optimizer.lr=0.001"]},
        data={"a": ["schedule.epochs=3"], "b": ["batch_size=1"]},
        seeds=(0, 1),
        run_type=DETECTORS,
    )
    built, size = [], DETECTORS.size

    def counted(config, what):
        built.append(config.detector.head.keywords["hidden_channels"])
        return size(config, what)

    monkeypatch.setattr(DETECTORS, "size", counted)
    plan = make_plan("shared", ablation, tmp_path / "base.py", tmp_path / "out")
    assert len(plan.runs) == 12 and len(built) == 2 and built[1] == 8


def test_scenes_are_drawn_before_runs_that_share_them(tmp_path, capsys):
    scenes = "data.scenes={'task': 'shapes', 'train': 3, 'val': 2, 'size': 64}"
    config = tiny_config(tmp_path / "new", scenes)
    DETECTORS.prepare(config)
    assert "drawing 3 + 2 images" in capsys.readouterr().out
    assert len(list((tmp_path / "new" / "train").glob("*.png"))) == 3
    DETECTORS.prepare(config)
    assert capsys.readouterr().out == ""


def test_data_that_no_run_could_use_is_refused_before_the_first(shapes, tmp_path):
    DETECTORS.prepare(tiny_config(shapes))
    with pytest.raises(UserError, match=r"nowhere/val.json"):
        DETECTORS.prepare(tiny_config(shapes, "data.val.annotations=nowhere/val.json"))
    with pytest.raises(UserError, match="nowhere"):
        DETECTORS.prepare(tiny_config(shapes, "data.train.images=nowhere"))


def test_the_data_state_chance(tmp_path):
    assert DETECTORS.chance(tiny_config(tmp_path)) == {}
    assert DETECTORS.chance(tiny_config(tmp_path, "data.scenes={'task': 'beacon'}")) == {"AP50": 1 / 3}
    assert DETECTORS.chance(tiny_config(tmp_path, "data.scenes={'task': 'crowd'}")) == {}


def test_updates_are_read_from_the_log(run, tmp_path):
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert DETECTORS.updates(run) == max(steps) > 0
    assert DETECTORS.updates(tmp_path / "none") is None
