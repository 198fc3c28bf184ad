"""DOTA's label files: headers, difficult objects, and what every kind of bad input gets."""

import json

import pytest

from tests.data.importing.formats import add_image, add_text, boxes_of, converted, fails, read, same_boxes, sample

PLANE = "10 5 30 5 30 25 10 25 plane 0\n"


@pytest.fixture
def dota(tmp_path):
    """Return a function that writes a label file and gives the arguments to convert it."""

    def write(text: str, encoding: str = "utf-8"):
        add_image(tmp_path / "images/P0001.png")
        add_text(tmp_path / "labelTxt/P0001.txt", text, encoding)
        return tmp_path / "labelTxt", tmp_path / "images", tmp_path / "out.json"

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_headers_corners_and_difficult_objects(dota, capsys, encoding):
    text = f"imagesource:GoogleEarth\r\ngsd:0.146343\r\n{PLANE}20 0 40 10.5 20 21 0 10.5 large-ship 1\r\n"
    text += "1 1 2 1 2 2 1 2 plane"
    arguments = dota(text, encoding)
    assert converted("dota", *arguments) == 0
    data, text = read(arguments[2]), capsys.readouterr().out
    assert [(item["bbox"], item["category_id"], item["iscrowd"]) for item in data["annotations"]] == [
        ([10, 5, 20, 20], 2, 0),
        ([0, 0, 40, 21], 1, 1),
        ([1, 1, 1, 1], 2, 0),
    ]
    assert data["annotations"][1]["segmentation"] == [[20, 0, 40, 10.5, 20, 21, 0, 10.5]]
    assert data["annotations"][1]["area"] == 420
    assert [c["name"] for c in data["categories"]] == ["large-ship", "plane"]
    assert "rotated boxes, as the upright boxes around them: 1" in text and "as iscrowd 1: 1" in text


def test_empty_files_are_images_without_objects(dota, tmp_path, capsys):
    arguments = dota(PLANE)
    add_image(tmp_path / "images/empty.png")
    add_text(tmp_path / "labelTxt/empty.txt", "imagesource:x\n")
    assert converted("dota", *arguments) == 0
    assert boxes_of(read(arguments[2])) == {"P0001": [("plane", [10, 5, 20, 20])], "empty": []}
    assert "images without any box: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line, words",
    [
        ("1 1 2 1 2 2 1 plane 0", ("line 2", "'plane' is not a number")),
        ("1 1 2 1 2 2 1 2", ("line 2", "8 words")),
        ("1 1 2 1 2 2 1 2 plane 7", ("line 2", "difficult is '7'")),
        ("1 1 2 1 2 2 1 inf plane 0", ("line 2", "'inf'")),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.25", ("line 2", "class is '0.25'", "--from yolo")),
    ],
)
def test_a_bad_line_is_named(dota, capsys, line, words):
    arguments = dota(PLANE + line)
    fails(capsys, ("P0001.txt", *words), "dota", *arguments)
    assert not arguments[2].exists()


def test_folders_without_labels_or_images_are_named(dota, tmp_path, capsys):
    labels, images, out = dota(PLANE)
    fails(capsys, ("holds no .txt",), "dota", images, images, out)
    fails(capsys, ("is no folder", "LABELS"), "dota", tmp_path / "x", images, out)
    add_text(labels / "P0002.txt", PLANE)
    fails(capsys, ("P0002.txt", "no image P0002"), "dota", labels, images, out)
    assert converted("dota", labels, images, out, "--skip-missing") == 0
    assert len(read(out)["images"]) == 1 and "without an image, left out: 1" in capsys.readouterr().out


def test_files_in_folders_below_have_the_images_of_the_same_folders(dota, tmp_path, capsys):
    arguments = dota(PLANE)
    for image in ("one/P1.png", "two/P1.png", "other/P2.png"):
        add_image(tmp_path / "images" / image)
    for label in ("one/P1.txt", "two/P1.TXT", "three/P2.txt"):
        add_text(tmp_path / "labelTxt" / label, PLANE)
    assert converted("dota", *arguments, "--no-check") == 0
    names = {image["file_name"] for image in read(arguments[2])["images"]}
    assert names == {"P0001.png", "one/P1.png", "two/P1.png", "other/P2.png"}
    add_text(tmp_path / "labelTxt/P1.txt", PLANE)
    fails(capsys, ("P1.txt", "several images", "one/P1.png, two/P1.png"), "dota", *arguments)
    assert converted("dota", *arguments, "--no-check", "--skip-missing") == 0
    assert "label files that several images fit, left out: 1" in capsys.readouterr().out


def test_an_unused_placeholder_among_given_categories_is_no_class(dota, tmp_path):
    classes = [
        {"id": 0, "name": "ships", "supercategory": "none"},
        {"id": 1, "name": "plane", "supercategory": "ships"},
    ]
    (tmp_path / "train.json").write_text(json.dumps({"annotations": [{"category_id": 1}], "categories": classes}))
    arguments = dota(PLANE)
    assert converted("dota", *arguments, f"--categories={tmp_path / 'train.json'}") == 0
    assert read(arguments[2])["categories"] == [{"id": 1, "name": "plane"}]


def test_there_and_back(tmp_path):
    hotcoco = pytest.importorskip("hotcoco")
    coco = sample(tmp_path / "images")
    oriented = json.loads(json.dumps(coco))
    for item in oriented["annotations"]:
        x, y, w, h = item["bbox"]
        item["obb"] = [x + w / 2, y + h / 2, w, h, 0.0]
    (tmp_path / "coco.json").write_text(json.dumps(oriented))
    hotcoco.COCO(str(tmp_path / "coco.json")).to_dota(str(tmp_path / "labels"))
    out = tmp_path / "again.json"
    assert converted("dota", tmp_path / "labels", tmp_path / "images", out, "--categories=zebra,ant") == 0
    assert same_boxes(read(out), coco, within=0.1)  # the format's writers round to tenths
