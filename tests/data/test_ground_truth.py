"""Ground truth for measuring is read where training refuses the file, and gives what pycocotools measures."""

import json

import pytest

from detection.errors import UserError
from detection.evaluation import evaluate_detections, read_ground_truth
from tests.coco_files import small


def _each(section, change):
    def apply(data):
        for entry in data[section]:
            change(entry)

    return apply


CHANGES = {
    "no sizes": _each("images", lambda e: (e.pop("width"), e.pop("height"))),
    "no names": _each("images", lambda e: e.pop("file_name")),
    "urls": _each("images", lambda e: e.update(file_name="s3://b/x.png")),
    "equal class names": _each("categories", lambda e: e.update(name="thing")),
    "no class names": _each("categories", lambda e: e.pop("name")),
    "no annotation ids": _each("annotations", lambda e: e.pop("id")),
    "null areas": _each("annotations", lambda e: e.update(area=None)),
    "null iscrowd": lambda data: data["annotations"][0].update(iscrowd=None),
    "numbers in quotes": _each("annotations", lambda e: e.update(bbox=[str(v) for v in e["bbox"]])),
    "unknown image": lambda data: data["annotations"].append({**data["annotations"][0], "id": 99, "image_id": 77}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_training_refuses_is_measured(tmp_path, name):
    data = small()
    results = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9}
        for a in data["annotations"]
        if not a.get("iscrowd")
    ]
    data = json.loads(json.dumps(data))
    CHANGES[name](data)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(data))
    ground_truth = read_ground_truth(path)
    assert evaluate_detections(ground_truth, results)["AP"] == 1
    assert ground_truth.get("dropped", 0) == (name == "unknown image")


def test_ids_that_repeat_are_refused(tmp_path):
    data = small()
    data["images"][0]["id"] = 10
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="has id 10, which another image has too"):
        read_ground_truth(tmp_path / "a.json")
