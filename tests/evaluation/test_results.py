"""Results files: what is read, and the sentence for every mistake."""

import gzip
import json

import pytest

from detection.errors import UserError
from detection.evaluation.results import read_ground_truth, read_results
from tests.evaluation.coco_sets import make_results, make_truth

TRUTH = make_truth([(1, 1, (10, 10, 40, 40))])
GOOD = {"image_id": 1, "category_id": 2, "bbox": [1, 2.5, 3, 0], "score": 1}


def test_reads_plain_types_and_leaves_other_keys_out(tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps([GOOD | {"segmentation": [], "id": 7}, GOOD | {"image_id": 1.0, "score": -3.5}]))
    results = read_results(file, TRUTH)
    assert results == [GOOD, GOOD | {"score": -3.5}]
    assert [type(value) for value in results[1].values()] == [int, int, list, float]
    assert all(type(value) is float for value in results[0]["bbox"])


def test_empty_list_is_fine(tmp_path):
    (tmp_path / "results.json").write_text("[]")
    assert read_results(tmp_path / "results.json", TRUTH) == []


BAD_ENTRIES = {
    "no object": ([1, 2], "it is a list, not an object with image_id"),
    "missing key": ({k: v for k, v in GOOD.items() if k != "bbox"}, "bbox is missing."),
    "an annotation": (
        {k: v for k, v in GOOD.items() if k != "score"} | {"iscrowd": 0},
        "score is missing (it looks like an annotation; results carry a score).",
    ),
    "unknown image": (
        GOOD | {"image_id": 7},
        "image_id 7 is not in the annotations (1 of 2 entries have such an id: another split?).",
    ),
    "unknown category": (
        GOOD | {"category_id": 0},
        "category_id 0 is not in the annotations (1 of 2 entries have such an id: category ids counted from 0",
    ),
    "id as text": (GOOD | {"image_id": "1"}, 'image_id is "1", not an integer; write numbers without quotes.'),
    "fractional id": (GOOD | {"category_id": 1.5}, "category_id is 1.5, not an integer."),
    "id is a ground truth value": (GOOD | {"image_id": True}, "image_id is true, not an integer."),
    "infinite id": (GOOD | {"image_id": float("inf")}, "image_id is Infinity, not an integer."),
    "score NaN": (GOOD | {"score": float("nan")}, "score holds nan; it must be a finite number."),
    "score inf": (GOOD | {"score": float("inf")}, "score holds inf; it must be a finite number."),
    "score is text": (GOOD | {"score": "high"}, 'score is "high", not a number.'),
    "box NaN": (GOOD | {"bbox": [0, 0, float("nan"), 1]}, "bbox holds nan; it must be a finite number."),
    "box too large": (GOOD | {"bbox": [0, 0, 10**400, 1]}, "bbox holds inf; it must be a finite number."),
    "infinite area": (GOOD | {"bbox": [0, 0, 1e200, 1e200]}, "has an infinite area."),
    "negative size": (
        GOOD | {"bbox": [5, 5, -1, 2]},
        "bbox [5, 5, -1, 2] has a negative size; boxes are [x, y, width, height].",
    ),
    "three numbers": (GOOD | {"bbox": [1, 2, 3]}, "bbox is not 4 numbers [x, y, width, height] but [1, 2, 3]."),
    "text in a box": (GOOD | {"bbox": [1, 2, 3, "4"]}, 'not 4 numbers [x, y, width, height] but [1, 2, 3, "4"].'),
    "box is no list": (GOOD | {"bbox": None}, "but null."),
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_bad_entry(tmp_path, name):
    entry, sentence = BAD_ENTRIES[name]
    file = tmp_path / "results.json"
    file.write_text(json.dumps([GOOD, entry]))
    with pytest.raises(UserError) as error:
        read_results(file, TRUTH)
    assert str(error.value).startswith(f"{file}: entry 1 (counted from 0): ")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


BAD_FILES = {
    "annotations": (json.dumps(TRUTH), "this is an annotations file; results are a list of image_id"),
    "object": ('{"results": []}', "results are a JSON list of image_id, category_id, bbox, score, not an object."),
    "number": ("3", "not a number."),
    "malformed": ('[{"image_id": 1,\n  oops}]', "malformed JSON at line 2, column 3"),
    "empty": ("", "malformed JSON at line 1, column 1"),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xfe", "this is not JSON"),
    "nested": ("[" * 100_000, "this is not JSON"),
    "gzip": (gzip.compress(b"[]"), "this is gzip: unpack it (gunzip)."),
    "zip": (b"PK\x03\x04 and so on", "this is a zip archive: unpack it (unzip)."),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(tmp_path, name):
    content, sentence = BAD_FILES[name]
    file = tmp_path / "results.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_results(file, TRUTH)
    assert str(error.value).startswith(f"{file}: ") and sentence in str(error.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json: there is no such results file\."):
        read_results(tmp_path / "nowhere.json", TRUTH)
    with pytest.raises(UserError, match="cannot be read"):
        read_results(tmp_path, TRUTH)


def test_ground_truth_comes_back_as_written(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTION_CACHE", str(tmp_path / "cache"))
    (tmp_path / "annotations.json").write_text(json.dumps(TRUTH))
    assert read_ground_truth(tmp_path / "annotations.json") == TRUTH


def test_bad_boxes_of_the_ground_truth_are_dropped_and_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTION_CACHE", str(tmp_path / "cache"))
    broken = make_truth([(1, 1, (10, 10, 40, 40)), (1, 1, (10, 10, 0, 40))])
    (tmp_path / "annotations.json").write_text(json.dumps(broken))
    ground_truth = read_ground_truth(tmp_path / "annotations.json")
    assert ground_truth["dropped"] == 1 and len(ground_truth["annotations"]) == 1


def test_helper_results_are_valid(tmp_path):
    results = make_results([(1, 1, (10, 10, 40, 40), 0.5)])
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert read_results(tmp_path / "results.json", TRUTH) == results


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": "1"}, 'image_id is "1", not an integer; write numbers without quotes'),
        ({"image_id": "1.png"}, 'not an integer; the annotations have "1.png" under the id 1: write that'),
        ({"image_id": "none"}, 'image_id is "none", not an integer; write the id that the annotations give it.'),
        ({"category_id": "dog"}, 'not an integer; the annotations have "dog" under the id 2: write that'),
        ({"score": "0.5"}, 'score is "0.5", not a number; write numbers without quotes'),
        ({"bbox": None, "segmentation": {"counts": "abc"}}, "bbox is missing, and segmentation is no sound RLE"),
        (
            {"bbox": None, "segmentation": {"size": [2, 3], "counts": [1, 5]}},
            "segmentation has height and width [2, 3], but those of its image are [",
        ),
    ],
)
def test_an_entry_of_another_kind_gets_its_remedy(tmp_path, change, words):
    entry = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5, **change}
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{key: value for key, value in entry.items() if value is not None}]))
    with pytest.raises(UserError) as error:
        read_results(path, make_truth([(1, 1, (0, 0, 5, 5))]))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_results_a_line_are_named_as_that(tmp_path):
    (tmp_path / "results.json").write_text('{"image_id": 1}\n{"image_id": 1}')
    with pytest.raises(UserError, match="one JSON object a line; results are a JSON list"):
        read_results(tmp_path / "results.json", make_truth([]))
