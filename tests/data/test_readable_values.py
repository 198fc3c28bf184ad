import math

import pytest

from detection.data.readable_values import box_numbers, flag, integer, number, polygons, read_values
from tests.coco_files import small


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7), ("7", 7), (" 7 ", 7), (7.0, 7), ("7.0", 7), ([7], 7), (["7"], 7), ("1e3", 1000), ("64,0", 64),
        ("1,024", None), ("-12,000", None), ("1234,000", 1234), ("0,000", 0), ("64,0000", 64),
        (7.5, None), ("x", None), (None, None), (True, None), (math.nan, None), (math.inf, None), (2**63, None),
        ("1_0", None), ("", None), ([1, 2], None), ({}, None), ("9" * 5000, None),
    ],
)  # fmt: skip
def test_integers(value, expected):
    assert integer(value) == expected


def test_numbers_boxes_flags_and_polygons():
    assert number("1.5") == 1.5 and number([2]) == 2 and number("nan") != number("nan") and number([]) is None
    box = [1, 2, 3, 4]
    for value in (box, ["1", "2", "3", "4"], "1 2 3 4", "[1, 2, 3, 4]", "1;2;3;4", [box], [[1], 2, 3, 4]):
        assert box_numbers(value) == box
    assert box_numbers({"x": 1, "y": 2, "width": 3, "height": 4}) == box
    assert box_numbers({"Left": 1, "Top": 2, "Right": "4", "Bottom": 6}) == box
    assert box_numbers({"xmin": 1, "ymin": 2, "xmax": 4, "ymax": 6}) == box_numbers({"x": 1, "y": 2, "w": 3, "h": 4})
    for keys in (("x1", "y1", "x2", "y2"), ("x0", "y0", "x1", "y1"), ("x_min", "y_min", "x_max", "y_max")):
        assert box_numbers(dict(zip(keys, [1, 2, 4, 6], strict=True))) == box
    assert box_numbers({"xmin": 1, "ymin": 2, "xmax": 4}) is None and box_numbers({"xmin": None, "x": 1}) is None
    for value in (None, [1, 2, 3], "a b c d", {"x": 1}, [1, 2, 3, None]):
        assert box_numbers(value) is None
    assert [flag(v) for v in (None, "false", "0", False, 0.0, [0])] == [0] * 6
    assert [flag(v) for v in ("true", "1", True, 1.0, [1])] == [1] * 5
    assert flag(2) is None and flag("perhaps") is None
    flat = [1, 1, 5, 1, 5, 5]
    assert polygons(flat) == [flat] and polygons([flat]) == [flat] and polygons([str(v) for v in flat]) == [flat]
    assert polygons([1, 2]) == [1, 2] and polygons({"size": []}) == {"size": []}


def test_a_sound_file_does_not_change():
    data = small()
    read, changes = read_values(data)
    assert read == data and changes == {}


def test_text_ids_are_numbered_and_followed():
    data = small()
    for image in data["images"]:
        image["id"] = f"img{image['id']}"
    for annotation in data["annotations"]:
        annotation["image_id"] = f"img{annotation['image_id']}"
        annotation["category_id"] = {9: "dog", 3: "cat"}[annotation["category_id"]]
    read, changes = read_values(data)
    assert [image["id"] for image in read["images"]] == [1, 2, 3]
    assert [annotation["image_id"] for annotation in read["annotations"]] == [2, 1, 1, 2]
    assert [annotation["category_id"] for annotation in read["annotations"]] == [9, 3, 9, 3]
    assert len(changes["image ids that are texts, numbered"]) == 3


def test_ids_of_several_types_stay_apart():
    data = small()
    data["images"][0]["id"], data["images"][1]["id"] = 10, "10"
    for annotation, id_ in zip(data["annotations"], ("10", 10, 10, "10"), strict=True):
        annotation["image_id"] = id_
    read, _ = read_values(data)
    ids = [image["id"] for image in read["images"]]
    assert ids[0] == 10 and ids[1] not in (10, 30) and type(ids[1]) is int
    assert [annotation["image_id"] for annotation in read["annotations"]] == [ids[1], 10, 10, ids[1]]


@pytest.mark.parametrize(
    ("texts", "ids", "rule"),
    [
        (["1", "2", "3"], [1, 2, 3], "ids"),  # all three are names of the following classes, too
        (["1", "4"], [1, 4], "ids"),
        (["0", "1", "2"], [1, 2, 3], "names"),  # no class has the id 0
        (["0", "4", "2"], [1, 4, 2], "ids"),  # no class has the name 4
    ],
)
def test_texts_that_are_ids_and_names_are_read_by_one_rule(texts, ids, rule):
    data = small()
    data["categories"] = [{"id": id_, "name": str(id_ - 1)} for id_ in (1, 2, 3, 4)]
    data["annotations"] = [{**data["annotations"][0], "id": n, "category_id": text} for n, text in enumerate(texts)]
    read, changes = read_values(data)
    assert [annotation["category_id"] for annotation in read["annotations"]] == ids
    assert [kind for kind in changes if "fits an id and another's name: all are read as " + rule in kind]
    data["categories"] = [{"id": id_, "name": f"{id_}"} for id_ in (1, 2, 3, 4)]
    assert not [kind for kind in read_values(data)[1] if "another's name" in kind]


@pytest.mark.parametrize("names", [("000002", "000010", "000007"), ("x/20", "x/10", "x/n"), ("a.b", "c.d", "e")])
def test_image_ids_that_are_names_of_files(names):
    """File names without folders and suffix; of digits, `000010` is the file of that name, not the image of id 10."""
    data = small()
    data["images"][2]["id"] = 2
    for image, name in zip(data["images"], names, strict=True):
        image["file_name"] = f"{name}.jpg"
    stems = [name.rpartition("/")[2] for name in names]
    for annotation, row in zip(data["annotations"], (1, 0, 2, 1), strict=True):
        annotation["image_id"] = stems[row]
    read, changes = read_values(data)
    assert [annotation["image_id"] for annotation in read["annotations"]] == [10, 20, 2, 10]
    assert len(changes["annotation image_id read as what it means"]) == 4


def test_a_stem_of_two_files_is_no_image():
    data = small()
    data["images"][0]["file_name"], data["images"][1]["file_name"] = "a.png", "sub/a.jpg"
    data["annotations"][0]["image_id"] = "a"
    assert read_values(data)[0]["annotations"][0]["image_id"] == "a"
