"""Which checkpoint is the best: by a metric that has a value."""

import json

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from detection.ablation.detectors import DETECTORS
from detection.cli.evaluate import main as evaluate_command
from detection.errors import Interrupted, UserError
from detection.runs.checkpoint import load_meta, load_training_state, save_checkpoint
from detection.runs.folder import open_config
from detection.training import loop
from detection.training import run as training
from detection.training.evaluate import evaluate_run
from detection.training.run import train
from tests.tiny_runs import tiny_config


@pytest.fixture
def metric_by_epoch(monkeypatch, blank_plots):
    """Sets the AP of each evaluation in turn, the last one for those after it."""

    def set_values(*values):
        evaluate, left = training.evaluate_detections, list(values)
        next_value = lambda: left.pop(0) if len(left) > 1 else left[0]  # noqa: E731
        monkeypatch.setattr(
            training, "evaluate_detections", lambda *args, **more: {**evaluate(*args), "AP": next_value()}
        )

    return set_values


def best_epoch(folder):
    return json.loads((folder / "checkpoints/best/meta.json").read_text())["epoch"]


def test_the_choice_and_early_stopping_wait_for_a_defined_metric(shapes, tmp_path, capsys, blank_plots):
    # Images of 64 pixels have no large object.
    config = tiny_config(shapes, "schedule.epochs=3", "best_metric=APl", "early_stopping=1", "samples=0")
    metrics = train(config, tmp_path / "run", Accelerator(cpu=True))
    printed = capsys.readouterr().out
    assert metrics["APl"] == -1 and metrics["epoch"] == best_epoch(tmp_path / "run") == 3
    assert "stopped" not in printed and printed.count("APl is not defined at epoch") == 1
    assert "best checkpoint: epoch 3 by APl, the newest, since it was never defined" in printed


def test_a_split_without_boxes_has_no_metrics(shapes, tmp_path, capsys, blank_plots):
    (tmp_path / "val.json").write_text(json.dumps({**read(shapes / "val.json"), "annotations": []}))
    changes = ("schedule.epochs=1", "samples=0", f"data.val.annotations={tmp_path}/val.json")
    test = (f"data.test.annotations={tmp_path}/val.json", f"data.test.images={shapes}/val")
    train(tiny_config(shapes, *changes, *test), tmp_path / "run", Accelerator(cpu=True))
    printed = capsys.readouterr().out
    assert "AP n/a  AP50 n/a  AP75 n/a\n" in printed and "\ntest      AP n/a  AP50 n/a  AP75 n/a  on 3" in printed
    assert "-1.000" not in printed


def test_an_undefined_metric_is_neither_better_nor_worse(shapes, tmp_path, capsys, metric_by_epoch):
    metric_by_epoch(-1, 0.0, -1, -1, 0.0, 0.0)
    config = tiny_config(shapes, "schedule.epochs=6", "early_stopping=2", "evaluate_every=1", "samples=0")
    train(config, tmp_path / "run", Accelerator(cpu=True))
    printed = capsys.readouterr().out
    assert best_epoch(tmp_path / "run") == 2 and "best checkpoint: epoch 2 by AP\n" in printed
    assert [f"at epoch {n}, and" in printed for n in range(1, 7)] == [True, False, True, True, False, False]


def test_early_stopping_counts_evaluations_with_a_value(shapes, tmp_path, capsys, metric_by_epoch):
    metric_by_epoch(0.2, float("nan"), 0.1, -1, 0.1)
    config = tiny_config(shapes, "schedule.epochs=9", "early_stopping=2", "samples=0")
    train(config, tmp_path / "run", Accelerator(cpu=True))
    assert "no better AP in 2 evaluations" in capsys.readouterr().out and best_epoch(tmp_path / "run") == 1
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert max(line["epoch"] for line in log) == 4


def test_a_resume_by_another_metric_compares_by_that(shapes, tmp_path, capsys, metric_by_epoch):
    """The AP of 0.9 of the first epoch is not compared with the AP50 of the second, which is better than its own."""
    metric_by_epoch(0.9)
    run, arguments = tmp_path / "run", ("samples=0", "schedule.epochs=1")
    train(tiny_config(shapes, *arguments), run, Accelerator(cpu=True))
    meta = run / "checkpoints/best/meta.json"
    content = json.loads(meta.read_text())
    meta.write_text(json.dumps({**content, "metrics": {**content["metrics"], "AP50": -0.5}}))
    config = tiny_config(shapes, "samples=0", "schedule.epochs=2", "best_metric=AP50")
    train(config, run, Accelerator(cpu=True), resume=True)
    assert "note      the best so far is epoch 1 by AP, with AP50 -0.500" in capsys.readouterr().out
    assert best_epoch(run) == 2


def test_a_best_that_was_saved_after_the_last_state_keeps_its_epoch(shapes, tmp_path, monkeypatch, metric_by_epoch):
    """A signal between both: the state named epoch 1, and the weights of epoch 2 would have been called those."""
    metric_by_epoch(0.1, 0.2)
    run, arguments = tmp_path / "run", ("samples=0", "schedule.epochs=2")

    def ended(folder, evaluated, categories, progress, **more):
        save_checkpoint(folder, evaluated, categories, progress, **more)
        if progress["epoch"] == 2:
            raise Interrupted(15)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(training, "save_checkpoint", ended)
        train(tiny_config(shapes, *arguments), run, Accelerator(cpu=True))
    assert best_epoch(run) == 2 and load_training_state(run / "checkpoints/last")["progress"]["best_epoch"] == 1
    metrics = train(tiny_config(shapes, *arguments, "best_metric=AP50"), run, Accelerator(cpu=True), resume=True)
    assert metrics["epoch"] == best_epoch(run) == 2
    assert load_training_state(run / "checkpoints/last")["progress"]["evaluations_without_best"] == 0


def test_samples_of_an_earlier_end_are_removed(shapes, tmp_path, blank_plots):
    run = tmp_path / "run"
    train(tiny_config(shapes, "samples=2", "schedule.epochs=1"), run, Accelerator(cpu=True))
    assert len(list((run / "samples").iterdir())) == 2
    train(tiny_config(shapes, "samples=1", "schedule.epochs=2"), run, Accelerator(cpu=True), resume=True)
    assert len(list((run / "samples").iterdir())) == 1


def test_a_resume_by_another_metric_that_crashed_compares_by_that_too(shapes, tmp_path, monkeypatch, metric_by_epoch):
    """The AP of 0.05 of the first epoch is not compared with the larger losses that follow."""
    metric_by_epoch(0.05)
    run = tmp_path / "run"
    train(tiny_config(shapes, "samples=0", "schedule.epochs=1"), run, Accelerator(cpu=True))
    config = tiny_config(shapes, "samples=0", "schedule.epochs=2", "best_metric=val_loss")
    with monkeypatch.context() as patched, pytest.raises(KeyError):
        patched.setattr(loop, "_train_epoch", lambda *args: {}["crash"])
        train(config, run, Accelerator(cpu=True), resume=True)
    train(config, run, Accelerator(cpu=True), resume=True)
    assert best_epoch(run) == 2


def test_a_checkpoint_from_before_the_metric_was_kept_is_compared_by_the_one_of_its_config(shapes, tmp_path, capsys):
    run = tmp_path / "run"
    train(tiny_config(shapes, "samples=0", "schedule.epochs=1"), run, Accelerator(cpu=True))
    state = load_training_state(run / "checkpoints/last")
    assert state["progress"].pop("best_metric") == "AP"
    torch.save(state, run / "checkpoints/last/state.pt")
    meta = run / "checkpoints/last/meta.json"
    meta.write_text(json.dumps({**read(meta), "sha256": {}}))
    config = tiny_config(shapes, "samples=0", "schedule.epochs=2", "best_metric=AP50")
    train(config, run, Accelerator(cpu=True), resume=True)
    assert "note      the best so far is epoch 1 by AP, with AP50" in capsys.readouterr().out


def test_a_finished_run_states_the_metric_that_chose_its_best(shapes, tmp_path, capsys, blank_plots):
    arguments = ("samples=0", "schedule.epochs=1")
    train(tiny_config(shapes, *arguments), tmp_path / "run", Accelerator(cpu=True))
    train(tiny_config(shapes, *arguments, "best_metric=AP75"), tmp_path / "run", Accelerator(cpu=True), resume=True)
    assert capsys.readouterr().out.count("best checkpoint: epoch 1 by AP\n") == 2


def test_a_run_that_stopped_early_goes_on_by_a_greater_limit_alone(shapes, tmp_path, capsys, metric_by_epoch):
    metric_by_epoch(0.5, 0.4)
    run, arguments = tmp_path / "run", ("samples=0", "schedule.epochs=9", "optimizer.lr=0.005")
    train(tiny_config(shapes, *arguments, "early_stopping=2"), run, Accelerator(cpu=True))
    config, log = ((run / name).read_bytes() for name in ("config.json", "log.jsonl"))
    train(tiny_config(shapes, *arguments, "early_stopping=1"), run, Accelerator(cpu=True), resume=True)
    assert "nothing left to train: stopped after 3 epochs; more by a greater early" in capsys.readouterr().out
    assert (config, log) == ((run / "config.json").read_bytes(), (run / "log.jsonl").read_bytes())
    train(tiny_config(shapes, *arguments, "early_stopping=3"), run, Accelerator(cpu=True), resume=True)
    assert load_meta(run / "checkpoints/last")["epoch"] == 4


def test_a_best_checkpoint_that_a_power_cut_left_aside_is_measured(shapes, tmp_path, blank_plots):
    run = tmp_path / "run"
    train(tiny_config(shapes, "samples=0", "schedule.epochs=1"), run, Accelerator(cpu=True))
    (run / "checkpoints/best").rename(run / "checkpoints/.best.old")
    metrics = train(open_config(run), run, Accelerator(cpu=True), resume=True)
    assert metrics["epoch"] == 1


@pytest.fixture
def tested_run(shapes, tmp_path, metric_by_epoch, capsys):
    """A run whose first epoch of two is the best, with the training images as its test split, and what it printed."""
    metric_by_epoch(0.2, 0.1, 0.2)
    test = (f"data.test.annotations={shapes}/train.json", f"data.test.images={shapes}/train")
    # So fast that the two epochs detect differently.
    train(tiny_config(shapes, *test, "samples=0", "optimizer.lr=0.05"), tmp_path / "run", Accelerator(cpu=True))
    return tmp_path / "run", capsys.readouterr().out


def read(path):
    return json.loads(path.read_text())


def test_the_best_checkpoint_is_reported_on_the_test_split_and_the_last_epoch_next_to_it(tested_run, tmp_path):
    run, printed = tested_run
    which = {
        name: [read(run / name / "metrics.json")[key] for key in ("epoch", "split")] for name in ("", "last", "test")
    }
    assert which == {"": [1, "val"], "last": [2, "val"], "test": [1, "test"]}
    assert printed.count("\ntest      AP 0.") == 1 and "on 7 images that chose nothing" in printed
    assert list(read(run / "environment.json")["data"]) == ["train", "val", "test"]

    evaluate_command([str(run), "--split=test", "--device=cpu"])
    assert read(run / "evaluation-test/results.json") == read(run / "test/results.json")
    # Evaluated again with the last epoch's weights in place of the best.
    weights = load_file(run / "checkpoints/last/model.safetensors")
    meta = run / "checkpoints/best/meta.json"
    save_file(weights, run / "checkpoints/best/model.safetensors")
    meta.write_text(json.dumps({**read(meta), "sha256": {}}))
    evaluate_run(run, output=tmp_path / "again", device="cpu")
    assert read(tmp_path / "again/results.json") == read(run / "last/results.json") != read(run / "results.json")


def test_an_ablation_reads_nothing_that_was_chosen_on_its_images(tested_run, finished_run):
    run, _ = tested_run
    assert DETECTORS.evaluated_on(open_config(run)).endswith("on the test split")
    assert DETECTORS.read(run)["AP50"] == read(run / "test/metrics.json")["AP50"]
    assert DETECTORS.per_image_results(run).num_images == 7
    assert DETECTORS.evaluated_on(open_config(finished_run)) == "the last epoch on the validation split"
    assert DETECTORS.read(finished_run)["AP50"] == read(finished_run / "last/metrics.json")["AP50"]


def test_a_test_split_has_the_same_categories(shapes, tmp_path):
    data = read(shapes / "val.json")
    data["categories"][0]["name"] = "blob"
    (tmp_path / "test.json").write_text(json.dumps(data))
    config = tiny_config(shapes, f"data.test.annotations={tmp_path}/test.json", f"data.test.images={shapes}/val")
    with pytest.raises(UserError, match="test.json have different categories .*'blob'"):
        train(config, tmp_path / "run", Accelerator(cpu=True))
    with pytest.raises(UserError, match="data.test.images is not set"):
        train(tiny_config(shapes, "data.test.annotations=a.json"), tmp_path / "run", Accelerator(cpu=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--split=test"], "this run has no test split; add data.test.annotations"),
        (["--split=test", "--annotations=a.json", "--images=."], "names other data: leave one out"),
    ],
)
def test_a_split_that_there_is_not(finished_run, capsys, arguments, words):
    assert evaluate_command([str(finished_run), *arguments]) == 2 and words in capsys.readouterr().err
