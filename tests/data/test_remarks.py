"""Remarks that training makes on its data without opening an image."""

from pathlib import Path

from detection.data.coco_index import load_index
from detection.data.remarks import training_remarks
from tests.coco_files import small, write
from tests.data.mutations import draw_set


def _remarks(folder, train, val, images="images"):
    indexes = [
        load_index(write(folder, data, f"{name}.json", images=False)) for name, data in (("t", train), ("v", val))
    ]
    return training_remarks(*indexes, Path(folder, "images"), Path(folder, images))


def test_sound_splits_give_no_remark(tmp_path):
    assert _remarks(tmp_path, draw_set(0)[0], draw_set(1)[0], "others") == []


def test_shared_names_missing_classes_and_corners(tmp_path):
    train, val = draw_set(0)[0], draw_set(1)[0]
    val["annotations"] = [a for a in val["annotations"] if a["category_id"] == 1]
    for annotation in train["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]
        annotation["area"] = 1
    # Boxes that reach outside are legal, those that are outside are not.
    corners, shared, lacking = _remarks(tmp_path, train, val)
    assert "look like corners" in corners and "detection doctor" in corners
    assert shared.startswith("12 of 12 images of") and "v.json has no box of 1 category: blue" in lacking


def test_a_placeholder_is_named(tmp_path):
    data = small()
    data["categories"] = [{**category, "supercategory": "animals"} for category in data["categories"]]
    data["categories"].append({"id": 0, "name": "animals", "supercategory": "none"})
    index = load_index(write(tmp_path, data))
    remarks = training_remarks(index, index, tmp_path, tmp_path)
    assert sum("category 0, 'animals', is no class" in remark for remark in remarks) == 1


def test_names_that_are_nearly_anothers(tmp_path):
    data = small()
    names = ["traffic light", "Traffic_Light", "traffic lights", "car 1", "car 2", "Ⅳ", "iv"]
    data["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    data["annotations"] = [{**entry, "category_id": 1} for entry in data["annotations"]]
    index = load_index(write(tmp_path, data))
    (remark,) = [text for text in training_remarks(index, index, tmp_path, tmp_path) if "nearly another's" in text]
    assert remark.endswith("name 'traffic light', 'Traffic_Light', 'Ⅳ', 'iv'") and ": 4 categories have" in remark


def test_an_image_for_each_box_is_named(tmp_path):
    data = small()
    image, box = data["images"][0], data["annotations"][0]
    data["images"] = [{**image, "id": n} for n in (1, 2)]
    boxes = ([0, 0, 4, 4], [5, 5, 4, 4])
    data["annotations"] = [{**box, "id": n, "image_id": n, "bbox": b} for n, b in enumerate(boxes, 1)]
    index = load_index(write(tmp_path, data))
    remarks = training_remarks(index, index, tmp_path, tmp_path)
    assert sum("files are listed as several images with different objects" in remark for remark in remarks) == 1


def test_a_file_that_is_listed_and_annotated_twice_is_not_divided(tmp_path, monkeypatch):
    """Nor where only some of its boxes are looked at for other remarks, nor one of very many boxes."""
    data = small()
    image, box = data["images"][0], data["annotations"][0]
    data["images"] = [{**image, "id": n} for n in (1, 2)]
    boxes = [[n, n, 2, 2] for n in range(0, 6, 2)]
    data["annotations"] = [
        {**box, "id": len(boxes) * n + k, "image_id": n, "bbox": b} for n in (1, 2) for k, b in enumerate(boxes)
    ]
    index = load_index(write(tmp_path, data))
    monkeypatch.setattr("detection.data.remarks.objects_of_index.__defaults__", (3,))
    assert not any("different objects" in text for text in training_remarks(index, index, tmp_path, tmp_path))
    data["annotations"] = data["annotations"][:2] + data["annotations"][5:]
    index = load_index(write(tmp_path, data))
    assert any("different objects" in text for text in training_remarks(index, index, tmp_path, tmp_path))
    empty = load_index(write(tmp_path, {**data, "annotations": []}, "none.json"))
    assert not any("different objects" in t for t in training_remarks(empty, empty, tmp_path, tmp_path))
    monkeypatch.setattr("detection.data.remarks._COMPARED_BOXES", 2)
    assert not any("different objects" in text for text in training_remarks(index, index, tmp_path, tmp_path))
