"""The TensorBox converter on hand-made lists: numbers, classes, there and back, and what every bad input gets."""

import json
from pathlib import Path

import pytest
from PIL import ExifTags, Image
from pycocotools.coco import COCO

from detection.cli import convert, doctor
from detection.cli import scenes as scenes_command

WIDTH, HEIGHT = 60, 40


def rect(x1, y1, x2, y2, **more):
    return {"x1": x1, "y1": y1, "x2": x2, "y2": y2, **more}


class Box:
    """A folder being made: in.json, images/, and a converter that runs on them."""

    def __init__(self, root: Path) -> None:
        self.root, self.source, self.images, self.out = root, root / "in.json", root / "images", root / "out/out.json"
        self.images.mkdir()
        self.entries: list = []

    def add(self, name: str, *rects: dict, path: str | None = None) -> None:
        self.entries.append({"image_path": path or f"images/{name}", "rects": list(rects)})
        (self.images / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(self.images / name)

    def run(self, *options: str) -> int:
        self.source.write_text(json.dumps(self.entries))
        return convert.main(["--from=tensorbox", str(self.source), str(self.images), str(self.out), *options])

    def read(self) -> dict:
        return json.loads(self.out.read_text())


@pytest.fixture
def box(tmp_path) -> Box:
    return Box(tmp_path)


def fails(box: Box, capsys, *words: str, options: tuple[str, ...] = ()) -> None:
    """Check that the run ends with one sentence, exit code 2 and nothing written."""
    assert box.run(*options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert all(word in error for word in words), error
    assert not box.out.exists() and (not box.out.parent.exists() or not list(box.out.parent.iterdir()))


def test_a_small_set_is_converted(box, capsys):
    box.add("b.png", rect(0, 0, 60, 40), rect(1.5, 2, 10.5, 9))
    box.add("a.png")
    assert box.run() == 0
    data = box.read()
    assert data["images"] == [
        {"id": 1, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
        {"id": 2, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
    ]
    assert data["categories"] == [{"id": 1, "name": "object"}]
    shared = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    assert data["annotations"] == [
        {"id": 1, "bbox": [0, 0, 60, 40], "area": 2400, **shared},
        {"id": 2, "bbox": [1.5, 2, 9, 7], "area": 63, **shared},
    ]
    text = capsys.readouterr().out
    assert (
        "2 images, 2 boxes (object 2)" in text
        and "images without any box: 1" in text
        and text.split("\n\n")[0].count("\n") == 1
    )
    assert len(COCO(box.out).anns) == 2 and doctor.main([str(box.out), str(box.images)]) == 0


def test_what_is_put_right_is_counted(box, capsys):
    box.add("a.png", rect(20, 5, 10, 9), rect(10, 9, 20, 5), rect(20, 9, 10, 5), rect(50, -3, 99, 20), rect(1, 1, 9, 9))
    assert box.run() == 0
    boxes = [item["bbox"] for item in box.read()["annotations"]]
    assert boxes == [[10, 5, 10, 4]] * 3 + [[50, 0, 10, 20], [1, 1, 8, 8]]
    text = capsys.readouterr().out
    assert "corners swapped: 3" in text and "clipped to their image: 1" in text and "without size" not in text


def test_boxes_without_size_are_named_and_left_out(box, capsys):
    box.add("a.png", rect(5, 5, 5, 9), rect(5, 5, 9, 5), rect(70, 5, 80, 9), rect(1, 1, 9, 9))
    assert box.run() == 0
    assert [(item["id"], item["bbox"]) for item in box.read()["annotations"]] == [(1, [1, 1, 8, 8])]
    text = capsys.readouterr().out
    assert "without size, left out: 3" in text and "clipped" not in text
    assert "images/a.png, rect 0 (5, 5, 5, 9)" in text and "rect 1" in text and "rect 2 (70, 5, 80, 9)" in text


def test_classes_and_scores(box, capsys):
    box.add("a.png", rect(1, 1, 9, 9, classID=3), rect(1, 1, 9, 9, classID=1.0, score=0.25))
    assert box.run() == 0
    data = box.read()
    assert data["categories"] == [{"id": 1, "name": "class 1"}, {"id": 3, "name": "class 3"}]
    assert [item["category_id"] for item in data["annotations"]] == [3, 1]
    assert "score" not in data["annotations"][0] and data["annotations"][1]["score"] == 0.25
    assert "with a score, kept: 1" in capsys.readouterr().out
    assert box.run("--categories", "cat,dog,cow") == 0
    assert [c["name"] for c in box.read()["categories"]] == ["cat", "dog", "cow"]


@pytest.mark.parametrize("unset", [{}, {"classID": -1}, {"classID": None}])
def test_without_classes_all_are_of_the_one_named(box, unset):
    box.add("a.png", rect(1, 1, 9, 9, **unset))
    assert box.run("--categories", "person") == 0
    assert box.read()["categories"] == [{"id": 1, "name": "person"}]
    other = box.root / "other.json"
    other.write_text(json.dumps({"categories": [{"id": 17, "name": "head"}]}))
    assert box.run("--categories", str(other)) == 0
    assert box.read()["annotations"][0]["category_id"] == 17 and box.read()["categories"][0]["name"] == "head"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.png", "a.png"),
        ("a.png", "./data/images/a.png"),
        ("a.png", "../x/a.png"),
        ("a.png", "/home/me/a.png"),
        ("a.png", "C:\\me\\a.png"),
        ("sub/a.png", "images/sub/a.png"),
    ],
)
def test_images_are_found_by_the_end_of_their_path(box, name, path):
    box.add(name, path=path)
    assert box.run() == 0
    assert box.read()["images"][0]["file_name"] == name


def test_the_longest_end_that_is_there_wins(box):
    box.add("a.png")
    box.add("sub/a.png", path="data/sub/a.png")
    assert box.run() == 0
    assert [image["file_name"] for image in box.read()["images"]] == ["a.png", "sub/a.png"]


def test_a_turned_image_has_its_turned_size(box):
    box.add("a.jpg", rect(1, 1, 40, 60))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (60, 40)).save(box.images / "a.jpg", exif=turned)
    assert box.run() == 0
    assert (box.read()["images"][0]["width"], box.read()["images"][0]["height"]) == (40, 60)


class TestBack:
    COCO = {
        "images": [
            {"id": 9, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
            {"id": 4, "file_name": "sub/a.png", "width": WIDTH, "height": HEIGHT},
        ],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 7, "bbox": [1.5, 2, 9, 7], "score": 0.5},
            {"id": 2, "image_id": 9, "category_id": 2, "bbox": [0, 0, 60, 40], "iscrowd": 0},
            {"id": 3, "image_id": 9, "category_id": 2, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        ],
        "categories": [{"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}],
    }

    def test_a_small_set(self, box, capsys):
        box.add("b.png")
        box.add("sub/a.png")
        box.entries = self.COCO
        assert box.run("--back") == 0
        assert box.read() == [
            {"image_path": "../images/b.png", "rects": [rect(0, 0, 60, 40, classID=2)]},
            {"image_path": "../images/sub/a.png", "rects": [rect(1.5, 2, 10.5, 9, classID=7, score=0.5)]},
        ]
        text = capsys.readouterr().out
        assert "2 images, 2 boxes (cat 1, dog 1)" in text and "(iscrowd 1), left out: 1" in text

    def test_bad_input(self, box, capsys):
        box.add("b.png")
        box.entries = self.COCO
        fails(box, capsys, "no image sub/a.png", options=("--back",))
        box.entries = {**self.COCO, "annotations": [{"id": 1, "image_id": 5, "category_id": 7, "bbox": [1, 2, 9, 7]}]}
        fails(box, capsys, "in.json", "5", options=("--back",))
        box.entries = [{"image_path": "images/b.png", "rects": []}]
        fails(box, capsys, "in.json", "COCO", options=("--back",))
        fails(box, capsys, "--categories", options=("--back", "--categories=cat"))


@pytest.mark.parametrize("task", ["crowd", "shapes"])
def test_there_and_back_nothing_changes(tmp_path, task):
    """One class without and six with classID, boxes of two decimals; only what TensorBox cannot hold is lost."""
    assert scenes_command.main([str(tmp_path / "set"), f"--task={task}", "--train=5", "--val=0", "--size=64"]) == 0
    coco, images, there, back = (str(tmp_path / p) for p in ("set/train.json", "set/train", "t.json", "back.json"))
    assert convert.main(["--from=tensorbox", "--back", coco, images, there]) == 0
    assert convert.main(["--from=tensorbox", there, images, back, "--categories", coco]) == 0
    before, after = (json.loads(Path(path).read_text()) for path in (coco, back))
    for key in ("images", "categories"):
        assert after[key] == before[key]
    for old, new in zip(before["annotations"], after["annotations"], strict=True):
        width, height = old["bbox"][2:]
        assert new == {**{k: old[k] for k in new}, "area": pytest.approx(width * height)}
    assert set(after["annotations"][0]) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}
    again = tmp_path / "again.json"
    assert convert.main(["--from=tensorbox", "--back", back, images, str(again)]) == 0
    assert again.read_text() == Path(there).read_text()
    assert ("classID" in again.read_text()) == (task == "shapes")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (3, ["entry 1", "image_path"]),
        ({"rects": []}, ["entry 1", "image_path"]),
        ({"image_path": "a.png", "rects": 1}, ["entry 1", "rects"]),
        ({"image_path": "a.png", "rects": [1]}, ["entry 1, rect 0", "no object"]),
        ({"image_path": "a.png", "rects": [{"x1": 1, "y1": 1, "x2": 2}]}, ["rect 0", "y2", "null"]),
        ({"image_path": "a.png", "rects": [rect(1, "2", 3, 4)]}, ["rect 0", "y1", '"2"']),
        ({"image_path": "a.png", "rects": [rect(1, 2, float("nan"), 4)]}, ["rect 0", "x2", "NaN"]),
        ({"image_path": "a.png", "rects": [rect(1, 2, 3, 4, classID=1.5)]}, ["classID", "1.5"]),
        ({"image_path": "a.png", "rects": [rect(1, 2, 3, 4, score=True)]}, ["score", "true"]),
        ({"image_path": "a.png", "rects": [rect(1, 2, 3, 4, classID=1)]}, ["some rects", "classID"]),
        ({"image_path": "x/none.png", "rects": []}, ["no image x/none.png", "images"]),
        ({"image_path": "x/good.png", "rects": []}, ["x/good.png and images/good.png", "both name good.png"]),
        ({"image_path": "bad.png", "rects": []}, ["bad.png", "is empty"]),
    ],
)
def test_bad_entries_are_reported(box, capsys, entry, words):
    box.add("good.png", rect(1, 1, 9, 9))
    (box.images / "bad.png").write_bytes(b"")
    (box.images / "a.png").write_bytes((box.images / "good.png").read_bytes())
    box.entries.append(entry)
    fails(box, capsys, *words)


def test_bad_files_and_categories_are_reported(box, capsys):
    box.add("a.png", rect(1, 1, 9, 9))
    fails(box, capsys, "--categories cat,dog", "classID", options=("--categories", "cat,dog"))
    box.entries[0]["rects"][0]["classID"] = 3
    fails(box, capsys, "--categories cat,dog", "id 3", options=("--categories", "cat,dog"))
    box.entries = {"annotations": []}
    fails(box, capsys, "in.json", "--back")
    box.entries = {"a": 1}
    fails(box, capsys, "in.json", "no list")
    box.source.write_text("[{")
    for source, images in (
        (box.source, box.images),
        (box.root / "none.json", box.images),
        (box.source, box.root / "x"),
    ):
        assert convert.main(["--from=tensorbox", str(source), str(images), str(box.out)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not box.out.exists()


def test_an_old_file_survives_a_failed_run(box, capsys):
    box.add("a.png", rect(1, 1, 9, 9))
    assert box.run() == 0
    before = box.out.read_bytes()
    box.add("b.png", rect(1, "x", 9, 9))
    assert box.run() == 2
    assert box.out.read_bytes() == before and len(list(box.out.parent.iterdir())) == 1


def test_an_output_that_cannot_be_written_is_reported(box, capsys):
    box.add("a.png", rect(1, 1, 9, 9))
    for out in (box.images / "a.png" / "out.json", box.images):
        box.out = out
        assert box.run() == 2
        assert "cannot be written" in capsys.readouterr().err
    assert [path.name for path in box.images.iterdir()] == ["a.png"]
