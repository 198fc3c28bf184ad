"""LVIS's federated annotations against a loop, and results files that pycocotools takes against pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest
from accelerate import Accelerator
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.ablation.detectors import DETECTORS
from detection.cli.evaluate import evaluate_results
from detection.comparison.comparison import open_finished, run_metrics
from detection.comparison.report import summary_blocks
from detection.data.federated import federated_remark
from detection.errors import UserError
from detection.evaluation import read_ground_truth, read_results
from detection.evaluation.coco import coco_metrics
from detection.reports.document import to_markdown
from detection.training.evaluate import evaluate_run
from detection.training.run import train
from tests.tiny_runs import tiny_config


def make(seed, listed=True):
    """Eight images with boxes of three classes, of which each image lists others as absent or incomplete."""
    rng = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for image in range(1, 9):
        present = rng.choice([1, 2, 5], rng.integers(1, 3), replace=False).tolist()
        keys = {
            "neg_category_ids": [c for c in (1, 2, 5) if c not in present and rng.random() < 0.5],
            "not_exhaustive_category_ids": [c for c in present if rng.random() < 0.5],
        }
        images.append({"id": image, "width": 64, "height": 64, "file_name": f"{image}.png", **(keys if listed else {})})
        for number in range(4):
            x, y = rng.uniform(0, 35, 2).tolist()
            box = [x, y, *rng.uniform(10, 28, 2).tolist()]
            if number < 2:
                place = {"image_id": image, "category_id": present[number % len(present)]}
                area = {"area": box[2] * box[3], "iscrowd": 0}
                annotations.append({"id": len(annotations) + 1, **place, "bbox": box, **area})
            for category in (1, 2, 5):
                moved = [value + float(rng.normal(0, 1)) for value in box]
                place = {"image_id": image, "category_id": category}
                results.append({**place, "bbox": moved, "score": float(rng.random())})
    categories = [{"id": c, "name": f"class {c}"} for c in (1, 2, 5)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def box_iou(a, b):
    width, height = (min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def naive_ap(data, results, category, threshold):
    """lvis-api's rules: what is not judged is left out, what matches nothing of an incomplete class is ignored."""
    found, total = [], 0
    for image in data["images"]:
        own = [a for a in data["annotations"] if (a["image_id"], a["category_id"]) == (image["id"], category)]
        total += len(own)
        if not own and category not in image["neg_category_ids"]:
            continue
        taken = set()
        mine = [r for r in results if (r["image_id"], r["category_id"]) == (image["id"], category)]
        for result in sorted(mine, key=lambda r: -r["score"]):
            free = [(box_iou(result["bbox"], a["bbox"]), a["id"]) for a in own if a["id"] not in taken]
            best = max(free, default=(0, 0))
            if best[0] >= threshold:
                taken.add(best[1])
                found.append((result["score"], True))
            elif category not in image["not_exhaustive_category_ids"]:
                found.append((result["score"], False))
    right = np.cumsum([hit for _, hit in sorted(found, reverse=True)])
    if not len(right):
        return 0.0
    precision, recall = right / np.arange(1, len(right) + 1), right / total
    at = np.linspace(0, 1, 101)
    return float(np.mean([max(precision[recall >= r], default=0.0) for r in at]))


def write(folder, data, results):
    for name, value in (("a.json", data), ("r.json", results)):
        (folder / name).write_text(json.dumps(value))
    return folder / "r.json", folder / "a.json"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])
def test_metrics_are_those_of_a_loop_by_lviss_rules(tmp_path, seed, backend):
    if backend == "hotcoco":
        pytest.importorskip("hotcoco")
    data, results = make(seed)
    results_file, annotations = write(tmp_path, data, results)
    ground_truth = read_ground_truth(annotations)
    metrics = coco_metrics(ground_truth, read_results(results_file, ground_truth), backend)
    for category in (1, 2, 5):
        aps = [naive_ap(data, results, category, t) for t in np.arange(0.5, 0.96, 0.05).round(2)]
        own = metrics["per_class"][f"class {category}"]
        assert own["AP50"] == pytest.approx(aps[0], abs=1e-9) and own["AP"] == pytest.approx(np.mean(aps), abs=1e-9)
    plain, _ = make(seed, listed=False)
    (tmp_path / "plain.json").write_text(json.dumps(plain))
    without = read_ground_truth(tmp_path / "plain.json")
    assert coco_metrics(without, read_results(results_file, without), backend)["AP"] < metrics["AP"]


def test_the_command_reports_what_it_left_out_and_refuses_what_it_cannot_tell(tmp_path):
    data, results = make(0)
    files = write(tmp_path, data, results)
    metrics = evaluate_results(*files, None)
    assert any("neither annotated in their image nor listed in neg_category_ids" in note for note in metrics["notes"])
    assert metrics["ground_truth"] == len(data["annotations"])
    with pytest.raises(UserError, match="^--ignore-classes: the annotations list classes"):
        evaluate_results(*files, None, classes_ignored=True)
    data["images"][2]["neg_category_ids"] = [7]
    write(tmp_path, data, results)
    with pytest.raises(UserError, match="a.json: image 3: neg_category_ids has 7, which is no category of the file"):
        read_ground_truth(files[1])


def test_an_evaluation_of_a_run_reports_that_it_does_not(shapes, finished_run, tmp_path, blank_plots):
    data = json.loads((shapes / "val.json").read_text())
    for image in data["images"]:
        image["neg_category_ids"] = []
    (tmp_path / "lvis.json").write_text(json.dumps(data))
    files = {"annotations": str(tmp_path / "lvis.json"), "images": str(shapes / "val")}
    metrics = evaluate_run(finished_run, **files, output=tmp_path / "out", device="cpu")
    assert any("lists classes that are not annotated in every image" in note for note in metrics["notes"])
    assert federated_remark(shapes / "val.json") is None


def test_runs_are_compared_by_the_metrics_that_they_recorded(shapes, tmp_path, blank_plots):
    """All that reads the results of a run leaves the keys out, as its training did."""
    data = json.loads((shapes / "val.json").read_text())
    for image in data["images"]:
        image["neg_category_ids"], image["not_exhaustive_category_ids"] = [], []
    (tmp_path / "lvis.json").write_text(json.dumps(data))
    config = tiny_config(shapes, f"data.val.annotations={tmp_path}/lvis.json", "schedule.epochs=1")
    train(config, tmp_path / "run", Accelerator(cpu=True))
    metrics = json.loads((tmp_path / "run/last/metrics.json").read_text())
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert coco_metrics(read_ground_truth(tmp_path / "lvis.json"), results)["AP"] != pytest.approx(metrics["AP"])
    opened = open_finished(tmp_path / "run", "run")
    assert run_metrics(opened)["AP"] == pytest.approx(metrics["AP"])
    assert "here their detections count as wrong" in to_markdown(summary_blocks([opened]))
    per_image = DETECTORS.per_image_results(tmp_path / "run")
    every = np.ones((1, per_image.num_images), dtype=int)
    assert per_image.resampled(every)["AP"][0] == pytest.approx(metrics["AP"])


def pycocotools_ap(results_file, annotations):
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO(annotations)
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(results_file)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def with_mask(result):
    x, y, w, h = result["bbox"]
    (rle,) = mask.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], 64, 64)
    rest = {key: value for key, value in result.items() if key != "bbox"}
    return {**rest, "segmentation": {"size": [64, 64], "counts": rle["counts"].decode()}}


def text_ids(item):
    return {**item, **{k: f"{k} {item[k]}" for k in ("image_id", "category_id") if k in item}}


@pytest.mark.parametrize(
    "change",
    [
        lambda d, r: (d, [*r, {**r[0], "category_id": 99}]),
        lambda d, r: (d, list(map(with_mask, r))),
        lambda d, r: (d, [{**result, "id": 0, "iscrowd": 1, "segmentation": [], "foo": None} for result in r]),
        lambda d, r: (d, [{**result, "score": number} for number, result in enumerate(r)]),
        lambda d, r: (
            {
                "annotations": list(map(text_ids, d["annotations"])),
                "images": [{**image, "id": f"image_id {image['id']}"} for image in d["images"]],
                "categories": [{**category, "id": f"category_id {category['id']}"} for category in d["categories"]],
            },
            list(map(text_ids, r)),
        ),
    ],
    ids=["a category that the annotations lack", "masks", "more keys", "integer scores", "ids that are texts"],
)
def test_what_pycocotools_takes_is_measured_as_by_it(tmp_path, change):
    results_file, annotations = write(tmp_path, *change(*make(1, listed=False)))
    ground_truth = read_ground_truth(annotations)
    found = coco_metrics(ground_truth, read_results(results_file, ground_truth), "pycocotools")["AP"]
    assert found == pytest.approx(pycocotools_ap(results_file, annotations), abs=1e-12) and found > 0.01


@pytest.mark.parametrize("counts", ["abc", "", [1, 2], [4000, 95, 2], [-1, 4097], "é", 5])
def test_a_damaged_mask_is_one_sentence(tmp_path, counts):
    data, results = make(1, listed=False)
    results[0] = {**with_mask(results[0]), "segmentation": {"size": [64, 64], "counts": counts}}
    results_file, annotations = write(tmp_path, data, results)
    with pytest.raises(UserError, match="entry 0 .*: bbox is missing, and segmentation is no sound RLE"):
        read_results(results_file, read_ground_truth(annotations))


def test_ids_counted_from_0_are_refused(tmp_path):
    data, results = make(1, listed=False)
    results_file, annotations = write(tmp_path, data, [{**r, "category_id": r["category_id"] - 1} for r in results])
    with pytest.raises(UserError, match="category ids counted from 0"):
        read_results(results_file, read_ground_truth(annotations))
