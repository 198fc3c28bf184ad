"""A run folder is complete, repeats itself, and goes on where it stopped."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from detection.ablation.own_data.detector_data import open_splits
from detection.errors import UserError
from detection.evaluation.coco import METRICS
from detection.runs.folder import CONFIG_FORMAT, new_run_folder, open_config, open_run, read_config_json
from detection.training.engine import seed_epoch
from detection.training.evaluate import evaluate_run
from detection.training.loaders import build_accelerator
from detection.training.loop import run_epochs
from detection.training.run import prepare, train
from tests.tiny_runs import tiny_config

pytestmark = pytest.mark.usefixtures("blank_plots")


def log_lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder):
    timed = ("images_per_s",)
    return [{k: v for k, v in line.items() if k not in timed} for line in log_lines(folder)]


def test_the_run_folder_is_complete(finished_run):
    expected = [
        "config.json",
        "environment.json",
        "log.jsonl",
        "metrics.json",
        "results.json",
        "checkpoints/last/model.safetensors",
        "checkpoints/best/model.safetensors",
        "plots/precision_recall.png",
        "plots/losses.png",
        "plots/confusion.png",
    ]
    assert [name for name in expected if not (finished_run / name).is_file()] == []
    assert list((finished_run / "tensorboard").iterdir())
    assert len(list((finished_run / "samples").glob("*.png"))) == 2
    metrics = json.loads((finished_run / "metrics.json").read_text())
    assert set(METRICS) <= set(metrics) and len(metrics["per_class"]) == 6
    environment = json.loads((finished_run / "environment.json").read_text())
    assert {"command", "versions", "git", "data", "machine", "config_hash", "date"} <= set(environment)
    assert {"python", "torch", "torchvision", "context-detection"} <= set(environment["versions"])
    # What reads, decodes, changes and measures.
    used = {"msgspec", "pillow", "libjpeg-turbo", "numpy", "scipy", "albumentations", "pycocotools", "safetensors"}
    assert used <= set(environment["versions"]) and any(name.startswith("opencv") for name in environment["versions"])
    assert {len(environment["data"][s][key]) for s in ("train", "val") for key in ("sha256", "images_sha256")} == {64}
    assert not list(finished_run.rglob(".*"))
    config = json.loads((finished_run / "config.json").read_text())
    assert next(iter(config.items())) == ("format", CONFIG_FORMAT)
    assert read_config_json(finished_run) == {k: v for k, v in config.items() if k != "format"}


def test_the_log_has_a_line_an_update_and_an_evaluation_an_epoch(finished_run):
    lines = log_lines(finished_run)
    updates = [line for line in lines if "lr" in line]
    assert [line["step"] for line in updates] == list(range(1, 9))
    assert [line["epoch"] for line in updates] == [0] * 4 + [1] * 4
    evaluations = [line for line in lines if "AP" in line]
    assert [line["epoch"] for line in evaluations] == [0, 1]
    assert all("val_loss" in line for line in evaluations)


def test_tensorboard_has_scalars_and_images(finished_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (board,) = (finished_run / "tensorboard").iterdir()
    assert board.name == "finished", "TensorBoard shows this name, which is the run's"
    events = EventAccumulator(str(board))
    events.Reload()
    tags = events.Tags()
    assert any(tag.startswith("val_AP_of_class/") for tag in tags["scalars"])
    wanted = {"train/loss", "train/loss_box_reg", "train/lr", "train/grad_norm", "train/images_per_s", "val/AP"}
    assert wanted <= set(tags["scalars"])
    assert tags["images"] == ["samples"]


def test_same_seed_gives_the_same_losses_and_another_seed_others(shapes, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tiny_config(shapes, "schedule.epochs=1", f"seed={seed}"), tmp_path / name, Accelerator(cpu=True))
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "c")


def test_every_group_and_its_rate_is_printed(shapes, tmp_path, capsys):
    prepare(tiny_config(shapes, "optimizer.lr_multipliers.backbone=4"), tmp_path / "run", Accelerator(cpu=True), False)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("rate ", "group "))]
    rate, *groups = lines
    assert rate.startswith("rate      sgd 0.01 = 0.01")
    assert [group.split(",")[0] for group in groups] == [
        "group     weights of all else: rate 0.01",
        "group     biases",
        "group     weights of backbone: rate 0.04",
        "group     biases",
    ]


def test_a_prefix_of_no_parameter_leaves_no_folder(shapes, tmp_path):
    with pytest.raises(UserError, match="optimizer.lr_multipliers.backbon: .* did you mean 'backbone'?"):
        prepare(
            tiny_config(shapes, "optimizer.lr_multipliers.backbon=4"), tmp_path / "run", Accelerator(cpu=True), False
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("ema=0.9", "optimizer.kind=adamw", "freeze.stem=1", "gradient_accumulation_steps=3"),
        ("precision=bf16", "freeze.stem=1", "optimizer.lr_multipliers.backbone=4"),
        pytest.param(("detector.head=detection.heads.SequenceHead",), marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_equals_an_unbroken_one(shapes, tmp_path, monkeypatch, extra):
    config = tiny_config(shapes, "schedule.epochs=3", *extra)
    train(config, tmp_path / "unbroken", build_accelerator(config.precision, "cpu"))

    import detection.training.run as training

    class Stopped(Exception):
        pass

    real = training.evaluate_epoch

    def stop_in_the_second_epoch(run, log):
        if run.done.epoch == 2:
            raise Stopped
        real(run, log)

    monkeypatch.setattr(training, "evaluate_epoch", stop_in_the_second_epoch)
    with pytest.raises(Stopped):
        train(config, tmp_path / "broken", build_accelerator(config.precision, "cpu"))
    monkeypatch.setattr(training, "evaluate_epoch", real)
    assert max(line["epoch"] for line in log_lines(tmp_path / "broken")) == 1
    train(
        open_config(tmp_path / "broken"), tmp_path / "broken", build_accelerator(config.precision, "cpu"), resume=True
    )

    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    a, b = (load_file(tmp_path / n / "checkpoints/last/model.safetensors") for n in ("broken", "unbroken"))
    assert all(torch.equal(a[name], b[name]) for name in b)
    rates = [line for line in log_lines(tmp_path / "broken") if "lr" in line]
    assert all(line.get("lr_backbone", 4 * line["lr"]) == pytest.approx(4 * line["lr"]) for line in rates)
    assert all(("lr_backbone" in line) == bool(config.optimizer.lr_multipliers) for line in rates)


def test_the_best_is_measured_once_and_after_a_resume_again(shapes, tmp_path, monkeypatch):
    import detection.training.run as training

    config = tiny_config(shapes, "schedule.epochs=3", "ema=0.9")
    asked, real, evaluate = [], training.detect_split, training.evaluate_detections
    monkeypatch.setattr(training, "detect_split", lambda *args: (asked.append(args[-1]), real(*args))[1])
    # Every evaluation is worse than the one before, so that the first epoch is the best.
    monkeypatch.setattr(
        training, "evaluate_detections", lambda *args, **more: {**evaluate(*args), "AP": 1 / (1 + len(asked))}
    )
    train(config, tmp_path / "unbroken", Accelerator(cpu=True))
    assert asked == ["evaluating"] * 3
    metrics = json.loads((tmp_path / "unbroken/metrics.json").read_text())
    assert metrics["epoch"] == 1
    evaluate_run(tmp_path / "unbroken", output=tmp_path / "again", device="cpu")
    written = (tmp_path / "unbroken/results.json").read_text()
    assert written == (tmp_path / "again/results.json").read_text()

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(training, "finish", lambda run: 1 / 0)
        train(config, tmp_path / "broken", Accelerator(cpu=True))
    asked.clear()
    train(open_config(tmp_path / "broken"), tmp_path / "broken", Accelerator(cpu=True), resume=True)
    assert asked == ["evaluating the last", "evaluating the best"]
    assert (tmp_path / "broken/results.json").read_text() == written


def test_every_seed_epoch_and_process_has_its_random_state():
    def drawn(*place):
        seed_epoch(*place)
        return torch.rand(1).item()

    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert len({drawn(*place) for place in places}) == 4
    assert drawn(0, 1, 0) == drawn(0, 1, 0)


def test_the_note_of_the_config_is_the_last_line(shapes, tmp_path, capsys):
    train(tiny_config(shapes, "note=without context AP50 0.3"), tmp_path / "run", Accelerator(cpu=True))
    assert capsys.readouterr().out.splitlines()[-1] == "note      without context AP50 0.3"


def test_early_stopping_stops(shapes, tmp_path, capsys):
    config = tiny_config(shapes, "schedule.epochs=9", "early_stopping=1", "optimizer.lr=1e-12")
    train(config, tmp_path / "run", Accelerator(cpu=True))
    assert "no better AP in 1 evaluations" in capsys.readouterr().out
    assert len([line for line in log_lines(tmp_path / "run") if "AP" in line]) < 9


def test_the_best_checkpoint_can_go_by_the_smallest_loss(shapes, tmp_path):
    train(tiny_config(shapes, "best_metric=val_loss"), tmp_path / "run", Accelerator(cpu=True))
    values = [line["val_loss"] for line in log_lines(tmp_path / "run") if "val_loss" in line]
    meta = json.loads((tmp_path / "run/checkpoints/best/meta.json").read_text())
    assert meta["metrics"]["val_loss"] == min(values)


def test_evaluating_a_run_again_gives_the_same_numbers(finished_run, tmp_path):
    metrics = evaluate_run(finished_run, output=tmp_path / "again", device="cpu")
    recorded = json.loads((finished_run / "metrics.json").read_text())
    assert {k: metrics[k] for k in METRICS} == {k: recorded[k] for k in METRICS}
    assert (tmp_path / "again/results.json").read_text() == (finished_run / "results.json").read_text()


def test_a_run_is_rebuilt_without_its_pretrained_weights(finished_run, monkeypatch):
    monkeypatch.setattr("detection.pretrained.read_state", lambda name: pytest.fail("weights were fetched"))
    detector, categories, config = open_run(str(finished_run))
    assert not detector.training and len(categories) == 6


def test_data_with_other_categories_is_refused(finished_run, shapes, tmp_path):
    data = json.loads((shapes / "val.json").read_text())
    data["categories"][0]["name"] = "blob"
    (tmp_path / "other.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"its categories differ .* 'blob' \(id 1\)"):
        evaluate_run(finished_run, annotations=str(tmp_path / "other.json"), images=str(shapes / "val"), device="cpu")


def test_an_image_that_is_too_thin_is_named_before_training(finished_run, shapes, tmp_path):
    """A detector refuses it at the first evaluation, hours later, without its file; training would make it a line."""
    shutil.copytree(shapes / "val", tmp_path / "images")
    data = json.loads((shapes / "val.json").read_text())
    for name, width, height in (("strip.png", 1000, 10), ("line.png", 5, 2000)):
        Image.new("RGB", (width, height)).save(tmp_path / "images" / name)
        data["images"].append({"id": 900 + height, "file_name": name, "width": width, "height": height})
    file = tmp_path / "thin.json"
    file.write_text(json.dumps(data))
    words = r"thin.json: image 910 \(and 1 more\), strip.png, of 1000x10 pixels is too thin to detect anything in: crop"
    for split in ("train", "val", "test"):
        changes = (f"data.{split}.annotations={file}", f"data.{split}.images={tmp_path / 'images'}")
        with pytest.raises(UserError, match=words):
            prepare(tiny_config(shapes, *changes), tmp_path / "run", Accelerator(cpu=True), False)
        with pytest.raises(UserError, match=words):
            open_splits(tiny_config(shapes, *changes))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=words):
        evaluate_run(finished_run, annotations=str(file), images=str(tmp_path / "images"), device="cpu")


def test_run_folders_are_numbered_or_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = new_run_folder(None, "quickstart")
    first.mkdir(parents=True)
    assert str(new_run_folder(None, "quickstart")) == "runs/quickstart-2"
    (first / "x").touch()
    with pytest.raises(UserError, match="exists already and holds no run that could be continued"):
        new_run_folder(first, "quickstart")


def test_a_folder_that_is_no_run_is_refused(tmp_path, finished_run):
    with pytest.raises(UserError, match="not a run folder"):
        open_run(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        open_run(copy)
    (copy / "config.json").write_text((finished_run / "config.json").read_text().replace("detection.heads", "os"))
    with pytest.raises(UserError, match="not a class of the package"):
        open_run(copy)
    config = json.loads((finished_run / "config.json").read_text())
    for found, words in ((1, "format 1"), (None, "no format")):
        config["format"] = found
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=f"copy/config.json: has {words}, and this version reads format 2; train"):
            open_run(copy)


def test_the_average_of_all_updates_is_evaluated_and_kept(shapes, tmp_path):
    run = prepare(tiny_config(shapes, "schedule.epochs=1", "ema=0.9"), tmp_path, Accelerator(cpu=True), False)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run_epochs(run, lambda run, log: True)
    assert run.average.updates == 4 and run.evaluated is run.average.module
    kept, trained = (load_file(tmp_path / f"checkpoints/last/{name}.safetensors") for name in ("model", "training"))
    for name, p in run.model.named_parameters():
        assert torch.equal(kept[name], run.evaluated.get_parameter(name)) and torch.equal(trained[name], p)
        assert not torch.equal(kept[name], before[name]) and not torch.equal(kept[name], p), name


def test_the_learning_rate_counts_images_of_all_batches_and_processes_of_an_update(shapes, tmp_path, monkeypatch):
    """7 images one by one on 2 processes, 3 batches an update: 4 batches, 2 updates of 6 images, stated for 2."""
    monkeypatch.setattr("detection.training.run.describe_splits", lambda *args: {})  # there is no first process
    accelerator = SimpleNamespace(
        num_processes=2,
        process_index=1,
        device=torch.device("cpu"),
        is_main_process=False,
        wait_for_everyone=int,
        scaler=None,
    )
    settings = ("batch_size=1", "gradient_accumulation_steps=3", "schedule.epochs=2", "schedule.milestones=(0.5,)")
    run = prepare(tiny_config(shapes, *settings), tmp_path, accelerator, False)
    rates = []
    for _ in range(4):
        rates.append(run.scheduler.get_last_lr())
        run.optimizer.step()
        run.scheduler.step()
    assert sum(rates, []) == pytest.approx([0.03] * 4 + [0.003] * 4)


def test_the_learning_rate_counts_no_more_batches_than_an_epoch_has(shapes, tmp_path):
    """7 images in 4 batches of 2: an update has 8 of them, stated for 2, however many batches it may have."""
    settings = ("gradient_accumulation_steps=50", "schedule.warmup=0", "schedule.epochs=1")
    config = tiny_config(shapes, *settings)
    run = prepare(config, tmp_path, Accelerator(cpu=True), False)
    assert run.scheduler.base_lrs[0] == pytest.approx(0.04) and run.updates_per_epoch == 1


def test_a_detector_that_is_opened_resizes_in_further_training(finished_run):
    sizes, image = [], torch.rand(3, 96, 128)
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 60.0, 60.0]]), "labels": torch.tensor([1])}]
    for settings in ({}, {"resize_in_training": False}):
        detector, *_ = open_run(finished_run, **settings)
        detector.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(max(inputs[0].shape)))
        detector.train()([image], targets)
    assert sizes == [64, 128]
