"""LabelMe's JSON files: every kind of shape, and what every kind of bad input gets."""

import json

import pytest

from tests.data.importing.formats import add_image, converted, fails, read, same_boxes, sample


def shape(kind: str, *points: list, label: str = "cat", **more) -> dict:
    return {"label": label, "points": list(points), "shape_type": kind, **more}


@pytest.fixture
def labelme(tmp_path):
    """Return a function that writes a file of these shapes and gives the arguments to convert it."""

    def write(*shapes, image: str = "..\\photos\\a.png", **more):
        add_image(tmp_path / "a.png")
        data = {"version": "5.1", "shapes": list(shapes), "imagePath": image, "imageData": "AAAA"}
        (tmp_path / "a.json").write_text(json.dumps(data | {"imageHeight": 40, "imageWidth": 80} | more))
        return tmp_path, tmp_path, tmp_path / "out.json"

    return write


@pytest.mark.parametrize(
    "given, box, words",
    [
        (shape("rectangle", [30, 20], [10.5, 5]), [10.5, 5, 19.5, 15], "cat 1"),
        (shape("rectangle", [10, 5], [30, 5], [30, 20], [10, 20]), [10, 5, 20, 15], "cat 1"),
        (shape("polygon", [10, 10], [30, 10], [20, 30]), [10, 10, 20, 20], "polygons, as"),
        ({"label": 3, "points": [[10, 10], [30, 10], [20, 30]]}, [10, 10, 20, 20], "3 1"),
        (shape("rotation", [20, 0], [40, 10], [20, 20], [0, 10]), [0, 0, 40, 20], "polygons, as"),
        (shape("circle", [20, 20], [23, 24]), [15, 15, 10, 10], "circles, as"),
        (shape("mask", [10, 10], [19, 14], mask="AAAA"), [10, 10, 10, 5], "masks, of which the box is kept: 1"),
        (shape("rectangle", [-1, 0], [90, 40]), [0, 0, 80, 40], "clipped to their image: 1"),
    ],
)
def test_shapes_become_boxes(labelme, capsys, given, box, words):
    arguments = labelme(given)
    assert converted("labelme", *arguments) == 0
    data = read(arguments[2])
    assert data["annotations"][0]["bbox"] == box and data["images"][0]["file_name"] == "a.png"
    assert words in capsys.readouterr().out


def test_difficult_shapes_are_neither_found_nor_missed(labelme, capsys):
    shapes = [shape("rectangle", [0, 0], [9, 9], difficult=value) for value in (True, False)]
    shapes.append(shape("polygon", [10, 10], [30, 10], [20, 30], difficult=True))
    shapes.append(shape("point", [3, 3], difficult=True))
    arguments = labelme(*shapes, imageWidth=160, imageHeight=80)
    assert converted("labelme", *arguments, "--no-check") == 0
    assert [item["iscrowd"] for item in read(arguments[2])["annotations"]] == [1, 0, 1]
    text = capsys.readouterr().out
    assert "difficult shapes, written as iscrowd 1: 2" in text
    assert "images of another size than in their annotation, boxes as written: 1" in text


def test_polygons_of_one_group_are_one_object(labelme, capsys):
    first, second = ([[0, 0], [10, 0], [10, 10]], [[20, 20], [30, 20], [30, 30]])
    shapes = [shape("polygon", *points, group_id=1) for points in (first, second)]
    arguments = labelme(*shapes, shape("polygon", *first, label="dog", group_id=1), shape("polygon", *second))
    assert converted("labelme", *arguments, "--no-check") == 0
    items = read(arguments[2])["annotations"]
    assert [item["bbox"] for item in items] == [[0, 0, 30, 30], [0, 0, 10, 10], [20, 20, 10, 10]]
    assert items[0]["segmentation"] == [[0, 0, 10, 0, 10, 10], [20, 20, 30, 20, 30, 30]] and items[0]["area"] == 100
    assert "objects of several polygons with one group_id: 1" in capsys.readouterr().out


def test_what_has_no_box_is_counted(labelme, capsys, tmp_path):
    shapes = (
        shape("point", [1, 1], label="nose"),
        shape("linestrip", [1, 1], [2, 2]),
        shape("rectangle", [5, 5], [5, 9]),
    )
    arguments = labelme(*shapes, shape("rectangle", [5, 5], [9, 9], label=" dog "), imageWidth=81)
    (tmp_path / "coco.json").write_text('{"images": []}')
    assert converted("labelme", *arguments) == 0
    assert [c["name"] for c in read(arguments[2])["categories"]] == ["cat", "dog"]
    text = capsys.readouterr().out
    for words in (
        "point shapes, which have no box, left out: 1", "linestrip shapes", "boxes without size, left out: 1",
        "a.json, shape 3", "another size than in their annotation, boxes as written: 1",
        "without shapes, not read: 1", "coco.json",
    ):  # fmt: skip
        assert words in text, words
    assert converted("labelme", *arguments, "--no-check") == 0  # with its own result in the folder


@pytest.mark.parametrize("image", ["a.png", "C:\\x\\a.png", "wrong/A.PNG", "a.jpg", "", None])
def test_images_are_found_by_name_or_stem(labelme, image):
    arguments = labelme(shape("rectangle", [5, 5], [9, 9]), image=image)
    assert converted("labelme", *arguments) == 0
    assert read(arguments[2])["images"][0]["file_name"] == "a.png"


def test_classes_are_in_the_order_of_a_list(labelme, tmp_path):
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    arguments = labelme(shape("rectangle", [5, 5], [9, 9]))
    assert converted("labelme", *arguments, f"--categories={tmp_path / 'labels.txt'}") == 0
    assert read(arguments[2])["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]


@pytest.mark.parametrize(
    "given, words",
    [
        (shape("rectangle", [1, "x"], [2, 2]), ("shape 1", "points")),
        (shape("rectangle", [1, 2, 3], [2, 2]), ("shape 1", "points")),
        (shape("rectangle"), ("shape 1", "points []")),
        (shape("circle", [1, 1]), ("shape 1", "circle of 1 points")),
        (shape("blob", [1, 1]), ("shape 1", "'blob'")),
        (shape("rectangle", [1, 1], [2, 2], label=" "), ("shape 1", "label ' '")),
        ("cat", ("shape 1", "no object")),
    ],
)
def test_a_bad_shape_is_named(labelme, capsys, given, words):
    arguments = labelme(given)
    fails(capsys, ("a.json", *words), "labelme", *arguments)
    assert not arguments[2].exists()


def test_bad_folders_and_files_are_named(labelme, capsys, tmp_path):
    arguments = labelme(shape("rectangle", [5, 5], [9, 9]), image="b.png")
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    fails(capsys, ("a.json", "no image b.png"), "labelme", *arguments)
    assert converted("labelme", *arguments, "--skip-missing", "--no-check") == 0
    (tmp_path / "a.json").write_text("{")
    fails(capsys, ("a.json", "not valid JSON"), "labelme", *arguments)
    fails(capsys, ("is no folder",), "labelme", tmp_path / "x", *arguments[1:])
    (tmp_path / "a.json").unlink()
    fails(capsys, ("no JSON file with shapes",), "labelme", *arguments)


def test_files_in_folders_below_are_read_and_folders_of_images_kept(tmp_path, capsys):
    def write(name: str, image: str | None) -> None:
        data = {"shapes": [shape("rectangle", [5, 5], [9, 9])], "imagePath": image}
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(data))

    images = [f"{folder}/{name}.png" for folder in ("cam1", "cam2") for name in "abc"]
    for image in images:
        add_image(tmp_path / "im" / image)
    write("ann/a.json", "..\\im\\cam1\\a.png")  # relative to the file
    write("ann/second.json", "D:\\photos\\cam2\\a.png")  # with folders in front that are not there
    write("ann/cam1/b.json", "b.png")  # in the folder of the same name
    write("ann/cam2/b.json", "b.jpg")
    write("ann/cam1/c.json", None)
    write("ann/cam2/c.json", "c")
    write("ann/.hidden/c.json", "c")
    (tmp_path / "ann/cam2/other.json").write_text("{}")
    arguments = (tmp_path / "ann", tmp_path / "im", tmp_path / "out.json")
    assert converted("labelme", *arguments, "--no-check") == 0
    assert sorted(image["file_name"] for image in read(arguments[2])["images"]) == images
    assert "cam2/other.json" in capsys.readouterr().out
    write("ann/a.json", "a.png")
    fails(capsys, ("a.json: several images", "fit a.png (cam1/a.png, cam2/a.png)"), "labelme", *arguments)
    assert converted("labelme", *arguments, "--no-check", "--skip-missing") == 0
    assert "several images fit, left out: 1" in capsys.readouterr().out


def test_there_and_back(tmp_path):
    coco = sample(tmp_path / "images")
    names = {c["id"]: c["name"] for c in coco["categories"]}
    for image in coco["images"]:
        shapes = []
        for item in (item for item in coco["annotations"] if item["image_id"] == image["id"]):
            x, y, w, h = item["bbox"]
            shapes.append(shape("rectangle", [x, y], [x + w, y + h], label=names[item["category_id"]]))
        stem = image["file_name"].rpartition(".")[0]
        (tmp_path / f"{stem}.json").write_text(json.dumps({"shapes": shapes, "imagePath": image["file_name"]}))
    out = tmp_path / "out/again.json"
    assert converted("labelme", tmp_path, tmp_path / "images", out) == 0
    again = read(out)
    assert [c["name"] for c in again["categories"]] == ["ant", "zebra"]
    assert converted("labelme", tmp_path, tmp_path / "images", out, "--categories=zebra,ant", "--no-check") == 0
    assert same_boxes(read(out), coco)
