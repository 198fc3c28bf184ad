import dataclasses
import json
import os
import shutil
import signal

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from detection.classification.config import load_classifier_config, open_classifier_config, override_classifier
from detection.classification.evaluation import classify, evaluate_classifier, open_classifier
from detection.classification.sources import open_images
from detection.classification.training import train_classifier
from detection.comparison.comparison import open_finished
from detection.config import to_plain
from detection.context import RecurrentConv
from detection.errors import Interrupted, UserError
from detection.runs.folder import CONFIG_FORMAT, open_config, read_config_json
from detection.training import loop


def accelerator():
    return Accelerator(cpu=True)


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_it_learns_to_tell_stripes_apart(run):
    metrics = read(run, "metrics.json")
    assert metrics["accuracy"] >= 0.9 and metrics["train_accuracy"] >= 0.9
    assert read(run, "correct.json")[4] == 0


def test_a_run_folder_is_complete(run, config):
    metrics, correct = read(run, "metrics.json"), read(run, "correct.json")
    assert metrics["images"] == len(correct) == 24 and set(correct) <= {0, 1}
    assert metrics["errors"] == correct.count(0)
    assert metrics["accuracy"] == pytest.approx(sum(correct) / 24)
    assert metrics["measured"] == "test" and metrics["epochs"] == 4 and metrics["seconds"] > 0
    assert metrics["parameters"] == 25 * 3 * 8 + 8 + 4 * (18 * 8**2 + 8) + 2 * 8 + 2
    assert metrics["train_images"] == 64 and 0 < metrics["loss"] < 1
    assert to_plain(open_classifier_config(run)) == to_plain(config) == read_config_json(run)
    assert read(run, "config.json")["format"] == CONFIG_FORMAT
    assert set(read(run, "environment.json")["data"]) == {"train", "test"}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0] * 8 + [1] * 8 + [2] * 8 + [3] * 8
    assert {"loss", "loss_class", "lr", "grad_norm"} <= set(lines[0])
    assert {p.name for p in (run / "checkpoints" / "last").iterdir()} == {"model.safetensors", "meta.json", "state.pt"}
    assert {p.name for p in run.iterdir()} == {
        "config.json",
        "environment.json",
        "log.jsonl",
        "tensorboard",
        "checkpoints",
        "metrics.json",
        "correct.json",
    }


def test_correct_images_are_listed_in_their_order(run, config):
    """Against one image at a time, by hand."""
    network, classes, _ = open_classifier(run)
    _, images = open_images(config.data)
    assert classes == images.classes
    with torch.no_grad():
        scores = torch.cat([network([pixels / 255]) for pixels in images.pixels])
    assert (scores.argmax(1) == images.labels).int().tolist() == read(run, "correct.json")
    losses = -scores.log_softmax(1)[torch.arange(24), images.labels]
    assert losses.mean().item() == pytest.approx(read(run, "metrics.json")["loss"], rel=1e-4)


def test_evaluation_changes_nothing_and_does_not_depend_on_the_batch(run, config):
    network, _, _ = open_classifier(run)
    _, images = open_images(config.data)
    network.train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    counts = []
    one = classify(network, images, dataclasses.replace(config, eval_batch_size=5), accelerator(), counts.append)
    other = classify(network, images, config, accelerator())
    assert counts == [5, 5, 5, 5, 4] and network.training
    torch.testing.assert_close(one.losses, other.losses)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_the_same_seed_gives_the_same_run_and_another_does_not(run, config, tmp_path):
    train_classifier(config, tmp_path / "same", accelerator())
    one, same = read(run, "metrics.json"), read(tmp_path / "same", "metrics.json")
    for metrics in (one, same):
        del metrics["seconds"]
    assert one == same
    changed = override_classifier(config, ["seed=1", "schedule.epochs=1"])
    other = train_classifier(changed, tmp_path / "other", accelerator())
    first = [json.loads((f / "log.jsonl").read_text().splitlines()[0])["loss"] for f in (run, tmp_path / "other")]
    assert first[0] != first[1] and other["parameters"] == one["parameters"]


def test_a_resumed_run_equals_an_unbroken_one(config, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop_after_one(run):
        save_last(run)
        raise Stopped

    save_last = loop.save_last
    config = override_classifier(config, ["network.backbone.dropout=0.2", "schedule.epochs=2"])
    train_classifier(config, tmp_path / "unbroken", accelerator())
    monkeypatch.setattr(loop, "save_last", stop_after_one)
    with pytest.raises(Stopped):
        train_classifier(config, tmp_path / "broken", accelerator())
    monkeypatch.undo()
    assert not (tmp_path / "broken/metrics.json").exists()
    train_classifier(open_classifier_config(tmp_path / "broken"), tmp_path / "broken", accelerator(), resume=True)
    for name in ("checkpoints/last/model.safetensors", "correct.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("broken", "unbroken")]
    losses = [[(line["epoch"], line["loss"]) for line in map(json.loads, log)] for log in logs]
    assert losses[0] == losses[1] and len(losses[0]) == 16


def test_an_interrupted_epoch_goes_on_where_it_was(config, tmp_path, monkeypatch):
    config = override_classifier(config, ["network.backbone.dropout=0.2", "schedule.epochs=1"])
    train_classifier(config, tmp_path / "unbroken", accelerator())
    update = loop.RunLog.update

    def interrupted(log, epoch, line):
        update(log, epoch, line)
        if log.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(loop.RunLog, "update", interrupted)
        with pytest.raises(Interrupted, match="after 0 epochs and 3 updates; go on with `detection train_classifier "):
            train_classifier(config, tmp_path / "broken", accelerator())
    train_classifier(config, tmp_path / "broken", accelerator(), resume=True)
    for name in ("checkpoints/last/model.safetensors", "correct.json"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_a_run_is_evaluated_again_with_other_steps(run, tmp_path):
    again = evaluate_classifier(run, tmp_path / "again", "cpu")
    metrics = read(run, "metrics.json")
    assert {k: again[k] for k in again} == {k: metrics[k] for k in again}
    assert read(tmp_path / "again", "correct.json") == read(run, "correct.json")
    changed = evaluate_classifier(run, tmp_path / "one", "cpu", ["network.backbone.inference_steps=1"])
    assert changed["loss"] != metrics["loss"] and changed["parameters"] == metrics["parameters"]
    network, _, _ = open_classifier(run, overrides=["network.backbone.inference_steps=5"])
    assert {m.inference_steps for m in network.modules() if isinstance(m, RecurrentConv)} == {5}


def test_what_a_run_measured_itself_is_not_replaced(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    before = (run / "metrics.json").read_bytes()
    for output in (run, tmp_path / "link"):
        with pytest.raises(UserError, match="keeps its own metrics and results.*; choose another --output"):
            evaluate_classifier(run, output, "cpu", ["data.root=none"])
    assert (run / "metrics.json").read_bytes() == before


def test_what_a_power_cut_in_a_save_left_is_opened(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    (copied / "checkpoints/last").rename(copied / "checkpoints/.last.old")
    (found, *_), (expected, *_) = open_classifier(copied), open_classifier(run)
    assert all(torch.equal(t, expected.state_dict()[name]) for name, t in found.state_dict().items())


def test_other_classes_cannot_be_evaluated(run, stripes, tmp_path):
    for part in ("train", "test"):
        for old, new in (("lying", "flat"), ("standing", "upright")):
            target = tmp_path / "other" / part / new
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(stripes / part / old)
    with pytest.raises(UserError, match="trained on the classes lying, standing, not flat, upright"):
        evaluate_classifier(run, tmp_path / "out", "cpu", [f"data.root={tmp_path / 'other'}"])
    assert not (tmp_path / "out").exists()


def test_evaluations_between_epochs_are_logged_and_change_nothing(run, config, tmp_path, capsys):
    train_classifier(dataclasses.replace(config, evaluate_every=2), tmp_path, accelerator())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if "accuracy" in line]
    assert [line["epoch"] for line in evaluations] == [1, 3]
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split("  train loss ")[0] for line in printed] == [f"epoch   {n} of 4" for n in (1, 2, 3, 4)]
    assert ["accuracy" in line for line in printed] == [False, True, False, True], "every epoch has a line"
    assert [line.endswith(" s left of the run") for line in printed] == [True, True, True, False]
    assert evaluations[-1]["loss"] == read(tmp_path, "metrics.json")["loss"] == read(run, "metrics.json")["loss"]


def test_the_evaluated_part_can_be_kept_from_the_training_images(config, tmp_path):
    short = override_classifier(config, ["data.measure=validation", "schedule.epochs=1", "data.test_fraction=0.25"])
    metrics = train_classifier(short, tmp_path, accelerator())
    assert metrics["measured"] == "validation" and metrics["images"] == 16 and metrics["train_images"] == 48


def test_a_part_without_images_is_refused_before_training(config, tmp_path):
    for name in ("lying", "standing"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / "few" / name / f"{number}.png")
    few = override_classifier(config, [f"data.root={tmp_path / 'few'}", "data.measure=validation"])
    with pytest.raises(UserError, match="data.measure=validation: no class has an image to spare for that"):
        train_classifier(few, tmp_path / "run", accelerator())
    assert not (tmp_path / "run").exists()


def test_a_network_that_cannot_be_built_gets_one_sentence(config, run, tmp_path):
    for change in ("network.backbone.channels=()", "network.backbone.channels=[]"):
        with pytest.raises(UserError, match="network: cannot be built from these settings: "):
            train_classifier(override_classifier(config, [change]), tmp_path / "run", accelerator())
        with pytest.raises(UserError, match="network: cannot be built"):
            evaluate_classifier(run, tmp_path / "again", overrides=[change])


def test_sizes_that_the_backbone_cannot_take(config, tmp_path):
    with pytest.raises(UserError, match=r"data.crop: images of 10x10 pixels for a backbone of stride 4"):
        train_classifier(override_classifier(config, ["data.crop=10"]), tmp_path / "run", accelerator())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ("network.backbone.num_step=2", "did you mean network.backbone.num_steps"),
        ("network.backbone.norm=lrm", "did you mean lrn"),
        ("network.backbone.first_stride=True", "network.backbone.first_stride=True: must be one of 1, 2, 4"),
        ("data.kind=MINST", "did you mean MNIST"),
        ("data.augmentation.shift=1.5", "must be of type int"),
        ("data.augmentation.shift=-1", "data.augmentation.shift=-1: must be at least 0"),
        ("data.augmentation.rotation=-1.0", "data.augmentation.rotation=-1.0: must be at least 0"),
        ("data.augmentation.scale=1.0", "data.augmentation.scale=1.0: must be at least 0 and below 1"),
        ("data.test_fraction=1.0", "must be above 0 and below 1"),
        ("data.size=0", "data.size=0: must be at least 1"),
        ("schedule.epochs=0", "must be at least 1"),
        ("schedule.milestones=(0.5,2.0)", "must be above 0 and at most 1"),
        ("evaluate_every=0", "must be at least 1"),
        ("seed=-1", "must be at least 0"),
        ("network=torch.nn.Linear", "not a class of the package"),
        ("epochs", "write it as key=value"),
    ],
)
def test_settings_that_cannot_be(config, item, sentence):
    with pytest.raises(UserError) as caught:
        override_classifier(config, [item])
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_file_that_is_none(tmp_path):
    path = tmp_path / "detector.py"
    path.write_text("config = 3")
    with pytest.raises(UserError, match="must end in `config = ClassifierConfig"):
        load_classifier_config(path)
    path.write_text("x = 1\nconfig = nothing")
    with pytest.raises(UserError, match=r"line 2: NameError"):
        load_classifier_config(path)
    with pytest.raises(UserError, match=r"did you mean .*detector.py"):
        load_classifier_config(tmp_path / "detectr.py")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"format": 2, "detector": {}}', "not a classifier's run"),
        ("[]", "has no format, and this version reads format 2"),
        ('{"format": 1, "network": {}}', "has format 1, and this version reads format 2; train again"),
        ("{", "not readable as JSON"),
        ('{"format": 2, "network": {"class": "os.system"}, "data": {"kind": "digits"}}', "not a class of the package"),
        ('{"format": 2, "network": {"class": "detection.classification.network.Classifier"}}', "'data' is missing"),
        (None, "there is no config.json"),
    ],
)
def test_a_folder_that_is_no_classifiers_run(tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=sentence):
        open_classifier_config(tmp_path)


def test_commands_of_detectors_name_a_classifiers_run(tmp_path):
    (tmp_path / "config.json").write_text('{"format": 2, "network": {}, "data": {}}')
    for read in (open_config, lambda run: open_finished(run, "a")):
        with pytest.raises(UserError, match="is a classifier's run; give .* that `detection train` wrote"):
            read(tmp_path)


def test_a_part_that_is_no_classifier(config):
    with pytest.raises(UserError, match="network=.*RecurrentConv: must be a Classifier"):
        override_classifier(config, ["network=detection.context.RecurrentConv"])
