"""A data set with hostile names of categories and files is browsed, trained, evaluated and compared like any other."""

import csv
import json
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.analysis.samples import draw_samples
from detection.analysis.visualize import draw_boxes
from detection.cli import browse, compare, crowd, evaluate, train
from detection.config import to_plain
from detection.data.coco_index import load_index
from detection.evaluation import evaluate_detections, metrics_table, write_evaluation
from detection.evaluation.crowd_plots import plot_runs_miss_rate, plot_runs_precision_recall
from detection.evaluation.curves import confusion_counts, match_results
from detection.evaluation.operating_points import match_all, operating_points
from detection.evaluation.plots import plot_confusion
from detection.reports.files import to_png
from tests.coco_files import write
from tests.confusions import confusion_matrix
from tests.hostile_names import KINDS, hostile_names, printed
from tests.tiny_runs import tiny_config


def _data(names, file_names, num_images):
    """A box an image of each class in turn, 64-pixel images."""
    images = [{"id": i, "file_name": f, "width": 64, "height": 64} for i, f in enumerate(file_names[:num_images], 1)]
    boxes = [(k % num_images + 1, k + 1) for k in range(len(names))]
    annotations = [
        {"id": n, "image_id": i, "category_id": k, "bbox": [10 + k % 9, 8, 30, 30], "area": 900, "iscrowd": 0}
        for n, (i, k) in enumerate(boxes, 1)
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _file_names(names):
    plain = (name.replace("/", "_").replace("\0", "0")[:60] for name in names if "\ud800" not in name)
    return [f"{number} {name}.png" for number, name in enumerate(plain)]


def test_every_command_shows_hostile_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = [name for name in hostile_names(len(KINDS)) if name.strip()]
    write(tmp_path, _data(names, _file_names(names), 6))
    split = {"annotations": "a.json", "images": "images"}
    plain = to_plain(tiny_config(tmp_path, "schedule.epochs=1"))
    plain["data"] |= {"train": plain["data"]["train"] | split, "val": plain["data"]["val"] | split}
    config = f"from detection.config import Config, from_plain\n\nconfig = from_plain({plain!r}, Config)\n"
    Path("tiny.py").write_text(config)
    assert browse.main(["tiny.py"]) == 0
    assert r"\x1b[31mred\x1b[0m" in printed(capsys)
    assert train.main(["tiny.py", "--output", "=run"]) == 0
    assert r"\x1b[31mred\x1b[0m" in printed(capsys)
    assert len(list(Path("=run/samples").iterdir())) == 2
    metrics = json.loads(Path("=run/metrics.json").read_text())
    assert list(metrics["per_class"]) == names and Path("=run/plots/confusion.png").stat().st_size > 1000
    rows = list(csv.reader(Path("=run/confusion.csv").read_text(encoding="utf-8").splitlines()))
    assert sum(int(row[2]) for row in rows[1:]) >= len(names)
    shutil.copytree("=run", "\x1b[1mrun$x$")
    assert evaluate.main(["=run"]) == 0
    assert crowd.main(["=run", "\x1b[1mrun$x$", "--output", "crowd"]) == 0
    assert compare.main(["=run", "\x1b[1mrun$x$", "--output", "compared"]) == 0
    printed(capsys)
    for path in Path("compared").glob("*.[hm]*"):
        assert all(line.isprintable() for line in path.read_text(encoding="utf-8").split("\n"))
        if path.suffix == ".html":
            assert "<script>alert" not in path.read_text(encoding="utf-8")


def test_samples_of_equal_stems_are_all_drawn(tmp_path):
    names = ["cam1/0001.png", "cam2/0001.png", "cam2/0001.jpg", "x.png"]
    index = load_index(write(tmp_path, _data(["a", "b", "c", "d"], names, 4)))
    drawn = draw_samples(index, tmp_path / "images", [], 4, 0.5)
    assert sorted(drawn) == ["0001", "0001-2", "0001-3", "x"]


def test_samples_of_photographs_are_small(tmp_path):
    data = _data(["a"], ["large.png"], 1)
    data["images"][0] |= {"width": 4000, "height": 3000}
    data["annotations"][0]["bbox"] = [1000, 1000, 2000, 1000]
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4000, 3000), "gray").save(tmp_path / "images/large.png")
    index = load_index(write(tmp_path, data, images=False))
    drawn = draw_samples(index, tmp_path / "images", [], 1, 0.5)["large"]
    assert 2560 < drawn.shape[1] < 2700 and drawn.shape[0] < 1100
    left = drawn[60:-60, 8:1288]  # between the title and the legend
    columns = np.flatnonzero((np.ptp(left.astype(int), axis=2) > 20).any(0))  # of the box's color
    assert abs(columns[0] - 320) < 12 and abs(columns[-1] - 960) < 12  # the box moves with the image


@pytest.mark.parametrize("names", [list(KINDS), pytest.param(hostile_names(450), marks=pytest.mark.slow)])
def test_files_of_an_evaluation(tmp_path, names, capsys):
    ground_truth = _data(names, ["a.png", "b.png"], 2)
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"] % len(names) + 1, "bbox": a["bbox"], "score": 0.5}
        for a in ground_truth["annotations"]
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = evaluate_detections(ground_truth, results)
        write_evaluation(tmp_path, ground_truth, results, metrics)
        points = {name: operating_points(match_all(ground_truth, results), 2) for name in names[:40]}
        assert to_png(plot_runs_precision_recall(points)) and to_png(plot_runs_miss_rate(points))
        for name in names:
            draw_boxes(np.zeros((64, 64, 3), np.uint8), np.array([[5.0, 5, 40, 40]]), [name], [0.5])
    assert capsys.readouterr().err == "" and len(list((tmp_path / "plots").iterdir())) == 2
    assert list(json.loads((tmp_path / "metrics.json").read_text())["per_class"]) == names
    assert all(line.isprintable() for line in metrics_table(metrics).split("\n"))


def test_of_many_classes_the_most_confused_are_drawn():
    names = [f"class {k}" for k in range(1200)]
    ground_truth = _data(names, [f"{k}.png" for k in range(100)], 100)
    results = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for a in ground_truth["annotations"]
    ]
    for result in results[600:660]:
        result["category_id"] += 100
    matching = match_results(ground_truth, results)
    axes = plot_confusion(matching, 0.5).axes[0]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert len(labels) == 52 and labels[-2:] == ["1150 others", "background"]
    assert all(600 <= int(label.split()[1]) < 760 for label in labels[:-2])
    true, predicted, number = confusion_counts(matching, 0.5)
    assert confusion_matrix(matching, 0.5)[true, predicted].tolist() == number.tolist()
    table = metrics_table(evaluate_detections(ground_truth, results))
    assert "100 of 1200 classes" in table and len(table.splitlines()) < 130


def test_a_plot_that_fails_is_a_warning(tmp_path, capsys, monkeypatch):
    ground_truth = _data(["a"], ["a.png"], 1)

    def fail(*_):
        assert (tmp_path / "metrics.json").is_file()  # written before any plot
        raise ValueError("no\x1bfont")

    monkeypatch.setattr("detection.evaluation.plots.plot_confusion", fail)
    write_evaluation(tmp_path, ground_truth, [], evaluate_detections(ground_truth, []))
    (line,) = capsys.readouterr().err.splitlines()
    assert line == rf"warning: {tmp_path}/plots/confusion.png cannot be drawn (ValueError: no\x1bfont)"
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["precision_recall.png"]


@pytest.mark.slow
def test_ten_thousand_classes(tmp_path):
    names = [f"class {k}" for k in range(10_000)]
    ground_truth = _data(names, [f"{k}.png" for k in range(500)], 500)
    results = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9} for a in ground_truth["annotations"]
    ]
    began = time.perf_counter()
    metrics = evaluate_detections(ground_truth, results)
    write_evaluation(tmp_path, ground_truth, results, metrics)
    assert metrics["AP50"] > 0.999 and len(metrics_table(metrics).splitlines()) < 130
    assert time.perf_counter() - began < 120
