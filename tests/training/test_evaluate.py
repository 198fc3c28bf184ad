"""Evaluating a run again: context replaced, classes ignored, last checkpoint, larger scenes, fewer categories."""

import json
import operator
import shutil

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from detection.cli import evaluate
from detection.config.parts import trust
from detection.errors import UserError
from detection.evaluation.class_agnostic import measure
from detection.pooling import RoIAlign
from detection.training.evaluate import evaluate_run, open_evaluation
from detection.training.run import train
from tests.tiny_runs import tiny_config

pytestmark = pytest.mark.usefixtures("blank_plots")

CONTEXT = (
    "detector.context={'class': 'detection.context.GlobalAverage'}",
    "detector.context_source=c3",
    "detector.pool={'class': 'detection.pooling.RoIAlign', 'stages': ('context',), 'output_size': 3}",
    "schedule.epochs=1",
    "eval_batch_size=2",
)


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def context_run(shapes, tmp_path_factory):
    """A run of a detector whose head sees the context alone."""
    folder = tmp_path_factory.mktemp("runs") / "context"
    train(tiny_config(shapes, *CONTEXT), folder, Accelerator(cpu=True))
    return folder


def test_the_context_replaced(context_run, capsys):
    assert evaluate.main([str(context_run), "--context-from=none", "--device=cpu"]) == 0
    printed = capsys.readouterr().out
    assert "AP50, no context" in printed and "The metrics with it replaced" in printed
    metrics = read(context_run / "evaluation-context-none/metrics.json")
    assert metrics["context_from"] == "none"
    record = read(context_run / "evaluation-context-none/evaluation.json")
    assert record["context_from"] == "none" and "classes_ignored" not in record
    assert metrics["context_use"]["all"]["AP50"]["as_it_is"] == read(context_run / "metrics.json")["AP50"]
    assert metrics["context_use"]["all"]["AP"]["replaced"] == metrics["AP"]
    # The head got zeros everywhere: one score for all boxes of a class.
    replaced, as_it_is = (read(context_run / f"{name}results.json") for name in ("evaluation-context-none/", ""))
    assert len({round(r["score"], 5) for r in replaced}) <= 6 < len({round(r["score"], 5) for r in as_it_is})


def scores_by_class(results):
    """Falling scores of each image and class."""
    scores = {}
    for result in results:  # by image and falling score
        scores.setdefault((result["image_id"], result["category_id"]), []).append(result["score"])
    return scores


def test_another_s_context_does_not_depend_on_batches(context_run, tmp_path):
    found = []
    for size in (1, 2, 3):
        folder, sizes = tmp_path / str(size), [f"eval_batch_size={size}"]
        evaluate_run(context_run, output=folder, device="cpu", overrides=sizes, context_from="other")
        found.append(read(folder / "results.json"))
    first, *others = [scores_by_class(results) for results in found]
    assert len(first) > 6
    for other in others:
        assert other.keys() == first.keys()
        for key, mine in first.items():  # one of those with nearly the least score may be there or not
            assert abs(len(mine) - len(other[key])) <= 1
            for score, theirs in zip(mine, other[key], strict=False):
                assert score == pytest.approx(theirs, abs=1e-4), key
    evaluate_run(context_run, output=tmp_path / "mean", device="cpu", context_from="mean")
    assert read(tmp_path / "mean/results.json") != found[0]


class Indifferent(RoIAlign):
    """A pool that asks for the channels of the context and does not use them."""

    def __init__(self, in_channels, strides, *, output_size=3):
        super().__init__(in_channels, strides, stages=("c3",), output_size=output_size)
        self.unused = in_channels["context"]


def test_a_context_that_nothing_reads_is_not_used(shapes, tmp_path, monkeypatch):
    """Images of three sizes, which are padded with others in another order: the drop is 0, not that of the padding."""
    shutil.copytree(shapes / "val", tmp_path / "val")
    val = read(shapes / "val.json")
    for number in range(900, 906):
        width, height = (128, 64) if number % 2 else (64, 128)
        Image.effect_noise((width, height), 50).convert("RGB").save(tmp_path / f"val/{number}.png")
        val["images"].append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
    (tmp_path / "val.json").write_text(json.dumps(val))
    trust(["tests"])
    pool = "detector.pool=tests.training.test_evaluate.Indifferent"
    unread = (*CONTEXT[:2], pool, "schedule.epochs=1", "eval_batch_size=2", "detector.head.score_threshold=0.01")
    train(tiny_config(shapes, *unread), tmp_path / "run", Accelerator(cpu=True))
    files = {"annotations": str(tmp_path / "val.json"), "images": str(tmp_path / "val")}
    measured = []
    monkeypatch.setattr(
        "detection.training.evaluate.measure",
        lambda truth, found, *rest: measured.append(found) or measure(truth, found, *rest),
    )
    evaluate_run(tmp_path / "run", **files, device="cpu", context_from="other")
    as_it_is, replaced = measured
    key = operator.itemgetter("image_id", "category_id", "score")
    assert sorted(as_it_is, key=key) == sorted(replaced, key=key) and len(as_it_is) > 100


def test_an_image_gets_the_context_of_another(context_run):
    """By hand: the context that a batch of one sees is that of the image before it in a permutation, in a ring."""
    from detection.analysis.context_use import ReplacedContext
    from detection.training.evaluate import _with_others

    opened = open_evaluation(context_run, device="cpu", overrides=["eval_batch_size=1"])
    detector, seen, own, order = opened.detector, [], [], []
    inner = detector.context
    hook = inner.register_forward_hook(lambda module, args, y: own.append(y.clone()))
    detector.context = ReplacedContext(inner, "other")
    detector.context.register_forward_hook(lambda module, args, y: seen.append(y.clone()))
    with torch.no_grad():
        for images, targets in _with_others(opened):
            detector(images)
            order += [target["image_id"] for target in targets]
    hook.remove()
    assert sorted(order) == list(opened.dataset.index.image_ids) != order
    assert len(own) == len(seen) == 4  # the last of the order first, then all three
    for mine, before in zip(seen[1:], own[:-1], strict=True):
        assert torch.equal(mine, before)
    assert torch.equal(own[0], own[3])


def test_the_finding_alone_of_a_run(finished_run, tmp_path, capsys):
    assert evaluate.main([str(finished_run), "--ignore-classes", "--device=cpu", f"--output={tmp_path}/out"]) == 0
    assert "| object |" in capsys.readouterr().out
    assert read(tmp_path / "out/metrics.json")["classes_ignored"] is True
    assert read(tmp_path / "out/evaluation.json")["classes_ignored"] is True
    assert len(read(tmp_path / "out/results.json")) < len(read(finished_run / "results.json"))


def test_the_last_checkpoint_and_what_was_evaluated(finished_run, tmp_path):
    metrics = evaluate_run(finished_run, output=tmp_path / "out", device="cpu", checkpoint="last")
    assert metrics is not None and metrics["AP"] == read(finished_run / "last/metrics.json")["AP"]
    record = read(tmp_path / "out/evaluation.json")
    assert record["checkpoint"] == "last" and record["config"] == read(finished_run / "config.json")
    assert record["data"]["val"] == read(finished_run / "environment.json")["data"]["val"]
    assert not {"context_from", "classes_ignored"} & set(record)


def test_data_that_have_changed_since_the_training_are_noted(finished_run, shapes, tmp_path):
    """Other data that are asked for are not: their metrics are no mistake."""
    run, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(finished_run, run)
    data.mkdir()
    shutil.copytree(shapes / "val", data / "val")
    shutil.copy(shapes / "val.json", data)
    config = read(run / "config.json")
    config["data"]["val"] |= {"annotations": str(data / "val.json"), "images": str(data / "val")}
    (run / "config.json").write_text(json.dumps(config))
    options = {"output": tmp_path / "out", "device": "cpu"}
    note = f"data.val is not what {run} was evaluated on in training, its {{}} differ: metrics of the two are not com"

    def notes(**more):
        return " ".join(evaluate_run(run, **options, **more)["notes"])

    assert "comparable" not in notes()
    changed = read(data / "val.json")
    changed["annotations"].pop()
    for name in ("val.json", "other.json"):
        (data / name).write_text(json.dumps(changed))
    assert note.format("annotations") in notes()
    Image.new("RGB", (64, 64)).save(data / "val" / changed["images"][0]["file_name"])
    assert note.format("annotations and images") in notes()
    assert "comparable" not in notes(overrides=[f"val.annotations={data / 'other.json'}"])
    assert "comparable" not in notes(annotations=str(data / "val.json"), images=str(data / "val"))


@pytest.mark.parametrize("place", [".", "last", "test"])
def test_what_a_run_measured_itself_is_not_replaced(finished_run, tmp_path, capsys, place):
    (tmp_path / "link").symlink_to(finished_run)
    before = (finished_run / "metrics.json").read_bytes()
    output = tmp_path / "link" / place
    arguments = ["--checkpoint=last", "--device=cpu", "data.val.annotations=none.json", f"--output={output}"]
    assert evaluate.main([str(finished_run), *arguments]) == 2
    words = f"{output}: is where {finished_run} keeps its own metrics and results, which an evaluation does not replace"
    assert capsys.readouterr().err == f"error: {words}; choose another --output.\n"
    assert (finished_run / "metrics.json").read_bytes() == before and not (finished_run / "test").exists()


def test_results_of_any_detector_do_not_replace_those_of_a_run(finished_run, shapes, capsys):
    arguments = [f"--annotations={shapes}/val.json", "--ignore-classes", f"--output={finished_run}/last"]
    assert evaluate.main([f"--results={finished_run}/results.json", *arguments]) == 2
    assert "/last: is where " in capsys.readouterr().err


def test_scenes_that_are_not_there_are_drawn_for_the_split_alone(finished_run, tmp_path, capsys):
    large = tmp_path / "large"
    changes = [f"data.val.annotations={large}/val.json", f"data.val.images={large}/val"]
    scenes = "data.scenes={'task': 'shapes', 'train': 900, 'val': 2, 'size': 64}"
    sizes = ["detector.max_size=96", "detector.min_size=96"]
    for _ in range(2):
        metrics = evaluate_run(
            finished_run, output=tmp_path / "out", device="cpu", overrides=[*changes, scenes, *sizes]
        )
        assert metrics is not None and metrics["images"] == 2
    assert capsys.readouterr().out.count("drawing 2 images") == 1
    assert sorted(path.name for path in large.iterdir()) == ["val", "val.json"]


def fewer(path, keep, target):
    """Write annotations with some of the categories alone, and their boxes."""
    data = read(path)
    data["categories"] = [c for c in data["categories"] if keep(c["id"])]
    data["annotations"] = [a for a in data["annotations"] if keep(a["category_id"])]
    target.write_text(json.dumps(data))
    return target


def test_a_validation_file_may_list_fewer_categories(shapes, tmp_path, capsys):
    """Labels, loss and results go by the training file; what is not listed is not measured."""
    val = fewer(shapes / "val.json", lambda i: i in (2, 5, 6), tmp_path / "val.json")
    changes = [f"data.val.annotations={val}", "validation_loss=true", "schedule.epochs=1"]
    train(tiny_config(shapes, *changes), tmp_path / "run", Accelerator(cpu=True))
    printed = capsys.readouterr().out
    assert "measured on the 3 of 6 categories that it lists" in printed
    train(tiny_config(shapes, "schedule.epochs=1", "validation_loss=true"), tmp_path / "all", Accelerator(cpu=True))
    every, some = (read(tmp_path / run / "results.json") for run in ("all", "run"))
    assert some == [r for r in every if r["category_id"] in (2, 5, 6)] and len(some) < len(every)
    metrics, of_all = (read(tmp_path / run / "metrics.json")["per_class"] for run in ("run", "all"))
    assert len(metrics) == 3 and all(value["AP"] == of_all[name]["AP"] for name, value in metrics.items())
    # The same of a run that was trained with all of them.
    images = str(shapes / "val")
    again = evaluate_run(tmp_path / "all", annotations=str(val), images=images, output=tmp_path / "o", device="cpu")
    assert again is not None and again["per_class"] == metrics
    assert read(tmp_path / "o/results.json") == some


def test_other_ids_name_the_command_that_mends_them(finished_run, shapes, tmp_path):
    data = read(shapes / "val.json")
    data["categories"][0]["id"], data["categories"][1]["id"] = (data["categories"][k]["id"] for k in (1, 0))
    (tmp_path / "val.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="detection doctor .*val.json IMAGES --fix OUT.json --categories .*train.json"):
        evaluate_run(finished_run, annotations=str(tmp_path / "val.json"), images=str(shapes / "val"), device="cpu")


MISTAKES = {
    "no image has the key": (["--slice-by=weather"], "val.json: no image has the key 'weather'; their keys are "),
    "too many values": (["--slice-by=id"], "--slice-by id: 60 values, more than 50; name another key."),
    "no folder can be made": (["--output=/proc/none/out"], "/proc/none/out: cannot be written (No such file"),
    "below a file": (
        ["--output={run}/config.json/out"],
        "config.json/out: cannot be written (Not a directory); choose",
    ),
    "default is a file": ([], "/evaluation: cannot be written (File exists); choose another --output."),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found_before_detecting(finished_run, shapes, tmp_path, capsys, monkeypatch, name):
    run, (arguments, words) = tmp_path / "run", MISTAKES[name]
    shutil.copytree(finished_run, run)
    if not arguments:
        (run / "evaluation").write_text("")
    data = read(shapes / "val.json")
    many = [{**data["images"][0], "id": 1000 + n} for n in range(60)]
    (tmp_path / "val.json").write_text(json.dumps({**data, "images": many, "annotations": []}))
    monkeypatch.setattr("detection.training.evaluate.OpenEvaluation.detect", lambda *_: pytest.fail("it detects"))
    changes = [f"data.val.annotations={tmp_path}/val.json", "--device=cpu"]
    assert evaluate.main([str(run), *changes, *(text.format(run=run) for text in arguments)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (run / "evaluation").is_dir()


def test_evaluations_of_other_data_or_config_are_kept(finished_run, shapes, tmp_path, capsys):
    run, val = tmp_path / "run", read(shapes / "val.json")
    shutil.copytree(finished_run, run)

    def written(*arguments):
        assert evaluate.main([str(run), "--device=cpu", *arguments]) == 0
        return capsys.readouterr().out.rpartition("written to ")[2].strip().removeprefix(f"{run}/")

    for place in "ab":
        (tmp_path / place).mkdir()
        (tmp_path / place / "val.json").write_text(json.dumps({**val, "info": place}))
    of_a, of_b = ((f"--annotations={tmp_path}/{place}/val.json", f"--images={shapes}/val") for place in "ab")
    assert [written(*of_a), written(*of_b), written(*of_a)] == ["evaluation-val", "evaluation-val-2", "evaluation-val"]
    assert [written(), written("detector.head.score_threshold=0.3")] == ["evaluation", "evaluation-2"]
    assert [written("--checkpoint=best"), written("detector.head.score_threshold=0.3")] == [
        "evaluation",
        "evaluation-2",
    ]


def test_a_folder_is_not_left_by_a_failed_evaluation(finished_run, tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("of no use")

    monkeypatch.setattr("detection.training.evaluate.OpenEvaluation.detect", fail)
    with pytest.raises(UserError, match="of no use"):
        evaluate_run(finished_run, output=tmp_path / "deep/out", device="cpu")
    assert list(tmp_path.iterdir()) == []
