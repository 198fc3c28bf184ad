"""Resuming: what may change, what may not, and that an interrupted run ends as an uninterrupted one."""

import json
import shutil

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

import detection.training.run as training
from detection.errors import UserError
from detection.training.run import train
from tests.tiny_runs import resume, tiny_config


def weights(run):
    return load_file(run / "checkpoints" / "last" / "model.safetensors")


def log(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]


@pytest.fixture(scope="module")
def stopped(shapes, tmp_path_factory):
    """A run of one epoch; to be copied."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    train(tiny_config(shapes, "schedule.epochs=1"), folder, Accelerator(cpu=True))
    return folder


@pytest.fixture
def run(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


def move(shapes, folder):
    """A copy of the data, and the overrides that name it."""
    shutil.copytree(shapes, folder)
    files = (("annotations", ".json"), ("images", ""))
    return folder, [f"data.{split}.{key}={folder}/{split}{end}" for split in ("train", "val") for key, end in files]


def test_rate_and_length_are_recomputed_from_here_on(run, blank_plots):
    resume(run, "schedule.epochs=3", "optimizer.lr=0.005", "schedule.kind=constant", "schedule.warmup=0")
    rates = [line["lr"] for line in log(run) if "lr" in line]
    assert len(rates) == 12 and rates[4:] == [0.005] * 8 and rates[:4] != [0.005] * 4
    assert json.loads((run / "config.json").read_text())["optimizer"]["lr"] == 0.005
    (entry,) = json.loads((run / "environment.json").read_text())["history"]
    assert entry["epoch"] == 1 and "optimizer.lr=0.005 instead of 0.01" in entry["changed"] and entry["command"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optimizer.kind=adamw", 'was trained with optimizer.kind="sgd" instead of "adamw"; a resumed run may change'),
        ("seed=1", "was trained with seed=0 instead of 1"),
        ("detector.head.hidden_channels=8", "was trained with detector.head.hidden_channels=16 instead of 8"),
        ("precision=bf16", "was trained with precision"),
        ("optimizer.weight_decay=0.1", "was trained with optimizer.weight_decay"),
        (
            "optimizer.lr_multipliers.backbone=4",
            "was trained with optimizer.lr_multipliers.backbone=null instead of 4.0; a resumed run may change",
        ),
        ("data.augmentation.horizontal_flip=0", "was trained with data.augmentation.horizontal_flip=0.5"),
        ("batch_size=4", "was trained with 2 images an update, not 4"),
    ],
)
def test_what_may_not_change_is_refused_and_nothing_is_written(run, override, sentence):
    before = {p: p.read_bytes() for p in run.rglob("*.json*")}
    with pytest.raises(UserError) as error:
        resume(run, override, "schedule.epochs=2")
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert before == {p: p.read_bytes() for p in run.rglob("*.json*")}


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(run, blank_plots):
    config = json.loads((run / "config.json").read_text())
    del config["optimizer"]["lr_multipliers"]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="optimizer.lr_multipliers.backbone=null instead of 4.0"):
        resume(run, "optimizer.lr_multipliers.backbone=4")
    resume(run)
    assert json.loads((run / "environment.json").read_text())["history"][0]["changed"] == []


def test_other_data_is_refused_and_moved_data_is_not(run, shapes, tmp_path, blank_plots):
    moved = shutil.copytree(shapes, tmp_path / "moved")
    paths = [
        f"data.{s}.{k}={moved}/{s}{e}" for s in ("train", "val") for k, e in (("annotations", ".json"), ("images", ""))
    ]
    content = json.loads((moved / "train.json").read_text())
    content["annotations"][0]["bbox"][0] += 1
    (moved / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="data.train is not what it was trained with, its annotations differ: resume"):
        resume(run, "schedule.epochs=2", *paths)
    shutil.copy(shapes / "train.json", moved / "train.json")
    image, other = (moved / "val" / f"00000{number}.png" for number in (1, 2))
    pixels = image.read_bytes()
    shutil.copy(other, image)
    with pytest.raises(UserError, match="data.val is not what it was trained with, its images differ: resume"):
        resume(run, "schedule.epochs=2", *paths)
    image.write_bytes(pixels)
    resume(run, "schedule.epochs=2", *paths)


def test_exchanged_categories_are_refused(run, shapes, tmp_path):
    moved = shutil.copytree(shapes, tmp_path / "moved")
    paths = [
        f"data.{s}.{k}={moved}/{s}{e}" for s in ("train", "val") for k, e in (("annotations", ".json"), ("images", ""))
    ]
    for split in ("train", "val"):
        content = json.loads((moved / f"{split}.json").read_text())
        first, second = content["categories"][:2]
        first["name"], second["name"] = second["name"], first["name"]
        (moved / f"{split}.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="was trained on the categories .*, not "):
        resume(run, "schedule.epochs=2", *paths)


def test_another_split_of_the_same_images_an_update_goes_on(run, blank_plots):
    resume(run, "schedule.epochs=2", "batch_size=1", "gradient_accumulation_steps=2")
    assert [line["step"] for line in log(run) if "lr" in line] == list(range(1, 9))


def test_with_loading_processes_and_repeated_images_it_ends_as_an_uninterrupted_run(shapes, tmp_path, blank_plots):
    settings = ("data.workers=2", "schedule.epochs=2", "schedule.kind=constant", "schedule.warmup=0")
    settings += ("data.repeat_threshold=1.0", "data.augmentation.jitter=1")
    train(tiny_config(shapes, *settings), tmp_path / "whole", Accelerator(cpu=True))
    train(tiny_config(shapes, *settings, "schedule.epochs=1"), tmp_path / "parts", Accelerator(cpu=True))
    resume(tmp_path / "parts", "schedule.epochs=2")
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert log(tmp_path / "whole") == log(tmp_path / "parts")
    assert sum("lr" in line for line in log(tmp_path / "whole")) > 2 * 4


def test_the_schedule_counts_the_updates_of_repeated_images(shapes, tmp_path, capsys):
    config = tiny_config(shapes, "data.repeat_threshold=1.0", "schedule.kind=cosine", "schedule.warmup=0")
    run = training.prepare(config, tmp_path / "run", Accelerator(cpu=True), resume=False)
    updates = [sum(1 for _ in run.order)]
    run.order.set_epoch(1)
    updates.append(sum(1 for _ in run.order))
    assert updates[0] == updates[1] > 4
    factor = run.scheduler.lr_lambdas[0]
    assert factor(updates[0]) == pytest.approx(0.5) and factor(sum(updates)) == pytest.approx(0)
    assert f"images expected an epoch, {updates[0]} batches in each" in capsys.readouterr().out


def test_an_epoch_whose_evaluation_breaks_is_kept(shapes, tmp_path, monkeypatch, blank_plots):
    config = tiny_config(shapes, "schedule.epochs=2")
    train(config, tmp_path / "whole", Accelerator(cpu=True))
    with monkeypatch.context() as patched:

        def fail(*args):
            raise UserError("a broken image")

        patched.setattr(training, "detect_split", fail)
        with pytest.raises(UserError, match="a broken image"):
            train(config, tmp_path / "parts", Accelerator(cpu=True))
    train(config, tmp_path / "parts", Accelerator(cpu=True), resume=True)
    assert log(tmp_path / "whole") == log(tmp_path / "parts")
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_half_a_line_is_trimmed_and_tensorboard_has_every_step_once(run, blank_plots):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with (run / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "epoch": 1, "lo')
    resume(run, "schedule.epochs=2")
    assert [line["step"] for line in log(run) if "lr" in line] == list(range(1, 9))
    board = EventAccumulator(str(next((run / "tensorboard").iterdir()))).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == list(range(1, 9))


@pytest.mark.parametrize("changes", [[], ["optimizer.lr=0.5"]])
def test_a_finished_run_has_nothing_left_to_train_and_keeps_its_settings(run, changes, capsys, blank_plots):
    before = [(run / name).read_bytes() for name in ("config.json", "log.jsonl")]
    resume(run, *changes)
    assert before == [(run / name).read_bytes() for name in ("config.json", "log.jsonl")]
    (entry,) = json.loads((run / "environment.json").read_text())["history"]
    assert entry["changed"] == [] and entry["epoch"] == 1
    assert "nothing left to train: 1 of 1 epochs are done; more by schedule.epochs=N" in capsys.readouterr().out
