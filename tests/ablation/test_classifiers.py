"""Metrics and per-image results of a classifier's run folder, and what is refused about it."""

import json
import math
import shutil

import numpy as np
import pytest

from detection.ablation.classifiers import CLASSIFIERS
from detection.ablation.run_types import CorruptRun, StaleRun
from detection.classification.config import override_classifier
from detection.errors import UserError


def test_a_finished_run_is_read(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert CLASSIFIERS.read(run) == {"accuracy": metrics["accuracy"]}
    assert CLASSIFIERS.can_resume(run) and CLASSIFIERS.progress(run) == "epoch 4 of 4"
    assert set(CLASSIFIERS.read(run)) == set(CLASSIFIERS.metrics) == set(CLASSIFIERS.columns)
    assert CLASSIFIERS.printed_command(["a=1"]) == ["detection", "train_classifier", "a=1"]


def test_results_are_resampled_by_image(run):
    results = CLASSIFIERS.per_image_results(run)
    correct = json.loads((run / "correct.json").read_text())
    assert results.num_images == 24
    counts = np.random.default_rng(0).multinomial(24, [1 / 24] * 24, 5)
    expected = [sum(n * c for n, c in zip(row, correct, strict=True)) / 24 for row in counts]
    np.testing.assert_allclose(results.resampled(counts)["accuracy"], expected)
    assert results.images_key == json.loads((run / "environment.json").read_text())["data"]["test"]["sha256"]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("metrics.json", None, "metrics.json is missing"),
        ("correct.json", None, "correct.json is missing"),
        ("correct.json", "[1, 0", "correct.json cannot be read"),
        ("correct.json", "{}", "correct.json holds no list"),
        ("correct.json", "[]", "contradict each other"),
        ("metrics.json", '{"errors": 1}', "contradict each other"),
        ("correct.json", "[1, 1, 0]", "contradict each other"),
        ("metrics.json", '{"images": 24, "errors": 25}', "contradict each other"),
    ],
)
def test_a_run_that_is_not_whole(run, tmp_path, name, text, sentence):
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard"))
    (folder / name).unlink() if text is None else (folder / name).write_text(text)
    with pytest.raises(CorruptRun, match=sentence):
        CLASSIFIERS.read(folder)


def test_a_run_that_does_not_name_its_data(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard"))
    (folder / "environment.json").write_text("{}")
    with pytest.raises(CorruptRun, match="does not name its data"):
        CLASSIFIERS.per_image_results(folder)
    with pytest.raises(CorruptRun, match="does not name its data"):
        CLASSIFIERS.read(folder)
    assert CLASSIFIERS.progress(tmp_path) == "" and not CLASSIFIERS.can_resume(tmp_path)


def test_images_that_have_changed_since_are_reported_and_those_that_are_gone_are_not(run, config, tmp_path):
    root = shutil.copytree(config.data.root, tmp_path / "stripes")
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("tensorboard"))
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(plain | {"data": plain["data"] | {"root": str(root)}}))
    CLASSIFIERS.read(folder)
    for part in ("test", "train"):
        image = root / part / "lying/000.png"
        before = image.read_bytes()
        shutil.copy(root / part / "lying/001.png", image)
        with pytest.raises(StaleRun, match=f"^the {part} images in .*stripes are no longer those that it was"):
            CLASSIFIERS.read(folder)
        image.write_bytes(before)
        CLASSIFIERS.read(folder)
    image.write_bytes(b"no image")
    with pytest.raises(UserError, match="lying/000.png"):
        CLASSIFIERS.read(folder)
    shutil.rmtree(root)
    CLASSIFIERS.read(folder)


def test_sizes_and_a_workload(config):
    parameters = 25 * 3 * 8 + 8 + 4 * (18 * 8**2 + 8) + 10 * 8 + 10
    assert CLASSIFIERS.size(config, "parameters") == parameters
    # Multiply-adds of the stem, of two layers at each of two sizes with W_f once and W_r twice, and of the linear one.
    config = override_classifier(config, ["data.size=16", "network.backbone.norm='none'"])
    layers = 2 * 9 * 8 * 8 * 3 * (8**2 + 4**2)
    assert CLASSIFIERS.size(config, "flops") == 2 * (25 * 3 * 8 * 16**2 + layers + 8 * 10)
    workload = CLASSIFIERS.workload(config)
    assert workload.parameters == parameters - 8 * 8 - 8 and workload.flops == 2 * (25 * 3 * 8 * 16**2 + layers + 8 * 2)
    workload.train_step()
    workload.infer()
    assert all(math.isfinite(n) for n in (workload.parameters, workload.flops))


def test_architecture_tells_networks_apart_and_not_seeds(config):
    same, other = (
        override_classifier(config, ["seed=3", "schedule.epochs=9"]),
        override_classifier(config, ["network.backbone.num_steps=1"]),
    )
    plain = CLASSIFIERS.architecture(config)
    assert CLASSIFIERS.architecture(same) == plain != CLASSIFIERS.architecture(other)


def test_a_run_without_images_is_not_whole(tmp_path):
    (tmp_path / "metrics.json").write_text('{"images": 0, "errors": 0}')
    (tmp_path / "correct.json").write_text("[]")
    with pytest.raises(CorruptRun, match="contradict each other"):
        CLASSIFIERS.read(tmp_path)
