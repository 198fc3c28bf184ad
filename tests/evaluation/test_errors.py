"""Kinds of error, calibration, subsets and label errors of a data set whose every error is placed by hand."""

import csv
import importlib.util
import json

import pytest

from detection.cli import evaluate as command
from detection.errors import UserError
from detection.evaluation import evaluate_detections, metrics_table, write_evaluation
from detection.evaluation.errors import KINDS, analyze_errors, errors_table, label_errors_csv

pytest.importorskip("hotcoco")


def data(images, boxes, classes=("cat", "dog")):
    """A COCO data set with ids far from 1: `boxes` are (image, class, box xywh, …)."""
    annotations = [
        {"id": 70 + n, "image_id": 10 * image, "category_id": 5 * kind, "bbox": list(box), "area": box[2] * box[3]}
        for n, (image, kind, box) in enumerate(boxes)
    ]
    return {
        "images": [{"id": 10 * i, "file_name": f"{i}.jpg", **more} for i, more in images.items()],
        "annotations": annotations,
        "categories": [{"id": 5 * k, "name": name} for k, name in enumerate(classes, start=1)],
    }


def results(*rows):
    return [{"image_id": 10 * i, "category_id": 5 * k, "bbox": list(b), "score": s} for i, k, b, s in rows]


BOX, FAR = (0, 0, 100, 100), (500, 500, 50, 50)
IMAGES = {1: {"weather": "rain"}, 2: {"weather": "sun"}, 3: {}, 4: {"weather": "sun"}}
TRUTH = data(IMAGES, [(1, 1, BOX), (2, 1, BOX), (3, 1, BOX), (4, 2, BOX), (4, 2, (10, 0, 100, 100))])
KINDS_FOUND = {
    "wrong class": (1, 2, BOX, 0.9),
    "poor box": (1, 1, (0, 0, 100, 40), 0.9),  # an IoU of 0.4
    "wrong class and poor box": (1, 2, (0, 0, 100, 40), 0.9),
    "background": (1, 1, FAR, 0.9),
}


@pytest.mark.parametrize("kind", KINDS_FOUND)
def test_one_error_of_a_kind(kind):
    """All else is right, so mending that kind, or all false positives, gives an AP50 of 1."""
    right = [(1, 1, BOX, 0.8), (2, 1, BOX, 0.8), (3, 1, BOX, 0.8), (4, 2, BOX, 0.8), (4, 2, (10, 0, 100, 100), 0.8)]
    errors = analyze_errors(TRUTH, results(KINDS_FOUND[kind], *right))
    assert errors["counts"] == {**dict.fromkeys(KINDS.values(), 0), kind: 1}
    gain = errors["delta_AP50"][kind]
    assert gain == pytest.approx(errors["delta_AP50"]["all false positives"]) and gain > 0.1
    others = [value for name, value in errors["delta_AP50"].items() if name not in (kind, "all false positives")]
    assert others == pytest.approx([0] * len(others), abs=1e-9)


def test_a_duplicate_and_a_miss():
    errors = analyze_errors(TRUTH, results((1, 1, BOX, 0.9), (1, 1, (1, 0, 100, 100), 0.8), (2, 1, BOX, 0.7)))
    assert errors["counts"] == {**dict.fromkeys(KINDS.values(), 0), "duplicate": 1, "missed": 3}
    # cat: 2 of 3 found, dog: 0 of 2
    assert errors["delta_AP50"]["all missed"] > 0.1 > errors["delta_AP50"]["duplicate"] > 0


SIX = {i: {} for i in range(1, 7)}


def test_missed_objects_of_a_class_that_is_never_predicted():
    """All cats are found and no dog is: without missed objects there is no dog, and an AP50 of 1 from 0.5 (TIDE)."""
    truth = data(SIX, [(i, 1 if i <= 3 else 2, BOX) for i in SIX])
    gains = analyze_errors(truth, results(*((i, 1, BOX, 0.9) for i in (1, 2, 3))))["delta_AP50"]
    assert gains["missed"] == gains["all missed"] == pytest.approx(0.5)
    assert sum(map(abs, gains.values())) == pytest.approx(1)


def test_missed_objects_that_a_wrong_class_reaches():
    """Cats are found, a dog is taken for a cat with the lowest score, two are missed, and birds are missed altogether.

    AP50 is (1 + 0 + 0) / 3. Without missed objects the dog that the wrong class reaches is left, and no bird:
    (1 + 0) / 2. Without all false negatives no dog is left either: 1.
    """
    truth = data(SIX, [(1, 1, BOX), (2, 2, BOX), (3, 2, BOX), (4, 2, BOX), (5, 3, BOX)], ("cat", "dog", "bird"))
    gains = analyze_errors(truth, results((1, 1, BOX, 0.9), (2, 1, BOX, 0.1)))["delta_AP50"]
    assert gains["missed"] == pytest.approx(1 / 2 - 1 / 3)
    assert gains["all missed"] == pytest.approx(1 - 1 / 3)


def test_nothing_detected():
    errors = analyze_errors(TRUTH, [])
    assert errors["delta_AP50"]["missed"] == errors["delta_AP50"]["all missed"] == 1
    assert errors["calibration"] is None
    assert "no calibration error, as nothing was detected" in errors_table(errors)


def test_calibration():
    """Eight detections of score 0.95 of which six match: 0.2 apart; two of 0.15 of which none does: 0.15."""
    images = {i: {} for i in range(1, 11)}
    truth = data(images, [(i, 1, BOX) for i in images])
    found = results(*((i, 1, BOX if i <= 6 else FAR, 0.95 if i <= 8 else 0.15) for i in images))
    calibration = analyze_errors(truth, found)["calibration"]
    assert calibration["error"] == pytest.approx(0.8 * 0.2 + 0.2 * 0.15) and calibration["largest"] == pytest.approx(
        0.2
    )
    assert [b["count"] for b in calibration["bins"]] == [0, 2, 0, 0, 0, 0, 0, 0, 0, 8]


@pytest.mark.parametrize("score", [95.0, -0.5, 1.0001], ids=["percent", "logit", "a little above 1"])
def test_scores_that_are_no_probabilities_have_no_calibration(score, tmp_path):
    found = results((1, 1, BOX, score), (2, 1, BOX, 0.5))
    metrics = evaluate_detections(TRUTH, found, errors=True)
    assert metrics["errors"]["calibration"] is None
    assert metrics["errors"]["counts"]["missed"] == 3
    assert "no calibration error, as scores are not between 0 and 1; " in metrics_table(metrics)
    write_evaluation(tmp_path, TRUTH, found, metrics)
    assert (tmp_path / "plots/errors.png").exists()


def test_subsets_of_images():
    found = results((1, 1, BOX, 0.9), (4, 2, BOX, 0.9))
    subsets = analyze_errors(TRUTH, found, "weather")["subsets"]
    assert {name: s["images"] for name, s in subsets.items()} == {
        "1 object": 3, "2 to 4 objects": 1, "overlapping objects": 1, "no overlapping objects": 3,
        "weather rain": 1, "weather sun": 2, "no weather": 1,
    }  # fmt: skip
    assert subsets["weather rain"]["AP50"] == pytest.approx(1) and subsets["no weather"]["AP50"] == 0
    assert subsets["overlapping objects"]["AP50"] == pytest.approx(51 / 101)  # one of two dogs, up to a recall of 0.5
    alone = {**TRUTH, "images": TRUTH["images"][3:], "annotations": TRUTH["annotations"][3:]}
    assert subsets["2 to 4 objects"]["AP"] == pytest.approx(evaluate_detections(alone, found[1:])["AP"])


@pytest.mark.parametrize(("shift", "overlapping"), [(50, 1), (55, 0)])
def test_objects_overlap_from_an_iou_of_0_3(shift, overlapping):
    """Boxes 100 wide, an IoU of 50 / 150 and of 45 / 155."""
    truth = data({1: {}}, [(1, 1, BOX), (1, 2, (shift, 0, 100, 100))])
    subsets = analyze_errors(truth, [])["subsets"]
    assert [name for name in subsets if "overlapping" in name] == ["no overlapping objects", "overlapping objects"][
        overlapping:
    ][:1]


def test_null_is_no_value():
    truth = data({1: {"weather": "sun"}, 2: {"weather": None}, 3: {}, 4: {}}, [])
    subsets = analyze_errors(truth, [], "weather")["subsets"]
    found = {name: s["images"] for name, s in subsets.items() if "weather" in name}
    assert found == {"weather sun": 1, "no weather": 3}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("objects", 3, {"no objects": 1, "objects=3": 1, "without objects": 2}),
        ("no", "no", {"no=no": 1, "without no": 2}),
    ],
)
def test_rows_of_a_key_are_kept_apart_from_others(key, value, expected):
    truth = data({1: {key: value}, 2: {}, 3: {}}, [(1, 1, BOX), (2, 1, BOX)])
    subsets = {name: s["images"] for name, s in analyze_errors(truth, [], key)["subsets"].items()}
    assert expected.items() <= subsets.items() and not {"no no", "objects 3"} & set(subsets)


def test_label_errors_have_the_ids_of_the_annotations():
    found = results((3, 1, FAR, 0.8), (2, 2, BOX, 0.9), (1, 1, BOX, 0.9), (99, 1, BOX, 0.99))
    errors = analyze_errors(TRUTH, found)
    wrong, missing = errors["label_errors"]
    assert wrong == {
        "file_name": "2.jpg", "image_id": 20, "kind": "wrong label", "class": "dog", "annotated": "cat",
        "annotation_id": 71, "box": [0, 0, 100, 100], "score": 0.9,
    }  # fmt: skip
    assert (missing["file_name"], missing["kind"], missing["box"]) == (
        "3.jpg",
        "missing annotation",
        [500, 500, 50, 50],
    )
    first, second = csv.DictReader(label_errors_csv(errors).splitlines())
    assert (first["annotation_id"], first["w"], second["annotation_id"]) == ("71", "100.0", "")


def test_names_of_label_errors_can_be_written_and_are_no_formulas():
    truth = data({1: {"file_name": "=1+\udcff.jpg"}}, [(1, 1, BOX)], ("@cat", "+dog"))
    text = label_errors_csv(analyze_errors(truth, results((1, 2, BOX, 0.9))))
    row = next(csv.DictReader(text.encode().decode().splitlines()))
    assert [row[key] for key in ("file_name", "class", "annotated")] == ["'=1+\\udcff.jpg", "'+dog", "'@cat"]


@pytest.mark.parametrize("truth", [TRUTH, data({1: {}}, []), data({}, [])], ids=["no results", "no boxes", "empty"])
def test_nothing_to_analyze(truth, tmp_path):
    metrics = evaluate_detections(truth, [], errors=True)
    json.dumps(metrics, allow_nan=False)
    metrics_table(metrics)
    write_evaluation(tmp_path, truth, [], metrics)
    assert (tmp_path / "plots/errors.png").exists()


def test_the_command_writes_them(tmp_path, capsys):
    for name, content in (("truth", TRUTH), ("found", results((1, 1, BOX, 0.9)))):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = ["--results", str(tmp_path / "found.json"), "--annotations", str(tmp_path / "truth.json")]
    assert command.main([*files, "--output", str(tmp_path / "out"), "--slice-by", "weather"]) == 0, capsys.readouterr()
    shown = capsys.readouterr().out
    assert "| missed" in shown and "| weather rain" in shown
    written = json.loads((tmp_path / "out/metrics.json").read_text())
    assert written["errors"]["subsets"]["weather sun"]["images"] == 2
    assert (tmp_path / "out/label_errors.csv").exists() and (tmp_path / "out/plots/errors.png").exists()
    assert command.main([*files, "--slice-by", "wether"]) == 2
    assert "truth.json: no image has the key 'wether'; their keys are weather." in capsys.readouterr().err


def test_without_hotcoco(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "hotcoco" else find(name))
    assert analyze_errors(TRUTH, []) is None and "errors" not in evaluate_detections(TRUTH, [], errors=True)
    with pytest.raises(UserError, match=r"--slice-by weather needs hotcoco"):
        analyze_errors(TRUTH, [], "weather")


def test_too_many_values():
    truth = data({i: {"minute": i} for i in range(1, 60)}, [])
    with pytest.raises(UserError, match="59 values"):
        analyze_errors(truth, [], "minute")


def test_only_confident_detections_make_annotations_doubtful():
    """From the score of the best F1 on, here that of what is right."""
    truth = data({i: {} for i in range(1, 6)}, [(i, 1, BOX) for i in range(1, 6)])
    found = results(*((i, 1, BOX, 0.9) for i in range(1, 6)), (1, 1, FAR, 0.8), (2, 1, FAR, 0.95))
    errors = evaluate_detections(truth, found, errors=True)["errors"]
    assert [row["score"] for row in errors["label_errors"]] == [0.95]
    assert [row["score"] for row in analyze_errors(truth, found)["label_errors"]] == [0.95, 0.8]
    assert "1 confident detection fits no annotation" in metrics_table(evaluate_detections(truth, found, errors=True))


@pytest.mark.parametrize("ids", [["a", "b", "c", "d"], ["1", "2", "3", "4"]])
def test_slices_of_images_whose_ids_are_texts(tmp_path, capsys, ids):
    by_old = {10 * (place + 1): text for place, text in enumerate(ids)}
    truth = {
        **TRUTH,
        "images": [{**image, "id": by_old[image["id"]]} for image in TRUTH["images"]],
        "annotations": [{**a, "image_id": by_old[a["image_id"]]} for a in TRUTH["annotations"]],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text("[]")
    files = ["--results", str(tmp_path / "found.json"), "--annotations", str(tmp_path / "truth.json")]
    assert command.main([*files, "--output", str(tmp_path / "out"), "--slice-by", "weather"]) == 0, capsys.readouterr()
    subsets = json.loads((tmp_path / "out/metrics.json").read_text())["errors"]["subsets"]
    found = {name: s["images"] for name, s in subsets.items() if "weather" in name}
    assert found == {"weather rain": 1, "weather sun": 2, "no weather": 1}
