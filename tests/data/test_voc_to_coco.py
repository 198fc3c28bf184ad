"""The VOC converter on hand-made XML: numbers, names, splits, and what every kind of bad input gets."""

import json
import os
from pathlib import Path

import pytest
from PIL import ExifTags, Image
from pycocotools.coco import COCO

from detection.cli import convert, doctor
from tests.data.importing.formats import same_boxes, sample

WIDTH, HEIGHT = 60, 40


def thing(name: str, corners: tuple, extra: str = "") -> str:
    """Return an <object>; with fewer than four corners, the last tags are missing."""
    tags = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=False)
    )
    return f"<object><name>{name}</name>{extra}<bndbox>{tags}</bndbox></object>"


class Voc:
    """A VOC folder being made: ANNOTATIONS, IMAGES, and a converter that runs on them."""

    def __init__(self, root: Path) -> None:
        self.root, self.annotations, self.images = root, root / "Annotations", root / "JPEGImages"
        self.annotations.mkdir()
        self.images.mkdir()
        self.out = root / "out" / "coco.json"

    def add(self, stem: str, *objects: str, filename: str | None = None, image: str | None = None, size=(60, 40)):
        filename = f"{stem}.jpg" if filename is None else filename
        header = f"<filename>{filename}</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        (self.annotations / f"{stem}.xml").write_text(f"<annotation>{header}{''.join(objects)}</annotation>")
        Image.new("RGB", (WIDTH, HEIGHT)).save(self.images / (image or f"{stem}.jpg"))

    def run(self, *options: str) -> int:
        return convert.main(["--from=voc", str(self.annotations), str(self.images), str(self.out), *options])

    def read(self) -> dict:
        return json.loads(self.out.read_text())

    def ids(self, text: str) -> Path:
        path = self.root / "list.txt"
        path.write_text(text)
        return path


@pytest.fixture
def voc(tmp_path) -> Voc:
    return Voc(tmp_path)


def fails(voc: Voc, capsys, *words: str, options: tuple[str, ...] = ()) -> None:
    """Check that the run ends with one sentence, exit code 2 and nothing written."""
    assert voc.run(*options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert all(word in error for word in words), error
    assert not voc.out.exists() and (not voc.out.parent.exists() or not list(voc.out.parent.iterdir()))


def test_a_small_set_is_converted(voc, capsys):
    voc.add("b", thing("dog", (1, 1, 60, 40)), thing("cat", (11, 6, 20, 25)))
    voc.add("a", thing("dog", (2.5, 3, 10.5, 9)))
    voc.add("c")
    assert voc.run() == 0
    data = voc.read()
    assert [(image["id"], image["file_name"]) for image in data["images"]] == [(1, "a.jpg"), (2, "b.jpg"), (3, "c.jpg")]
    assert all((image["width"], image["height"]) == (WIDTH, HEIGHT) for image in data["images"])
    assert data["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert [(item["id"], item["image_id"], item["category_id"], item["bbox"]) for item in data["annotations"]] == [
        (1, 1, 2, [1.5, 2, 9, 7]),
        (2, 2, 2, [0, 0, 60, 40]),  # the whole image
        (3, 2, 1, [10, 5, 10, 20]),
    ]
    assert all(item["area"] == item["bbox"][2] * item["bbox"][3] for item in data["annotations"])
    text = capsys.readouterr().out
    assert "3 images, 3 boxes (cat 1, dog 2)" in text and "images without any box: 1" in text and "clipped" not in text
    assert len(COCO(voc.out).anns) == 3


def test_pixels_may_be_counted_from_zero(voc):
    voc.add("a", thing("dog", (0, 0, 59, 39)), thing("dog", (10, 5, 19, 24)))
    assert voc.run("--first-pixel", "0") == 0
    assert [item["bbox"] for item in voc.read()["annotations"]] == [[0, 0, 60, 40], [10, 5, 10, 20]]


def test_boxes_outside_are_clipped_and_counted(voc, capsys):
    voc.add("a", thing("dog", (0, -3, 30, 20)), thing("dog", (50, 30, 99, 99)), thing("dog", (5, 5, 9, 9)))
    assert voc.run() == 0
    assert [item["bbox"] for item in voc.read()["annotations"]] == [[0, 0, 30, 20], [49, 29, 11, 11], [4, 4, 5, 5]]
    assert "boxes clipped to their image: 2" in capsys.readouterr().out


def test_boxes_without_size_are_named_and_left_out(voc, capsys):
    voc.add("a", thing("dog", (5, 5, 5, 5)), thing("cat", (9, 3, 4, 8)), thing("dog", (70, 3, 80, 8)))
    voc.add("b", thing("dog", (1, 1, 9, 9)))
    assert voc.run() == 0
    assert len(voc.read()["annotations"]) == 1
    text = capsys.readouterr().out
    assert "left out: 3" in text
    for line in ("a.xml, object 1, dog (5, 5, 5, 5)", "a.xml, object 2, cat (9, 3, 4, 8)", "a.xml, object 3, dog"):
        assert line in text


def test_difficult_becomes_crowd(voc, capsys):
    voc.add(
        "a",
        thing("dog", (1, 1, 9, 9), "<difficult>1</difficult>"),
        thing("dog", (1, 1, 9, 9), "<difficult>0</difficult>"),
    )
    assert voc.run() == 0
    assert [item["iscrowd"] for item in voc.read()["annotations"]] == [1, 0]
    assert "iscrowd 1: 1" in capsys.readouterr().out


def test_flags_are_counted(voc, capsys):
    flags = "<truncated>1</truncated><occluded>1</occluded>"
    voc.add("a", thing("dog", (1, 1, 9, 9), flags), thing("dog", (2, 2, 9, 9), "<truncated>1</truncated>"))
    voc.add("c", thing("dog", (5, 5, 5, 5), flags + "<difficult>1</difficult>"))
    voc.add("b", thing("dog", (1, 1, 9, 9), "<truncated>0</truncated><difficult> True </difficult>"))
    assert voc.run() == 0
    text = capsys.readouterr().out
    for line in (
        "difficult boxes, written as iscrowd 1: 1",
        "truncated boxes, taken as any other: 2",
        "occluded boxes, ta",
    ):
        assert line in text
    assert [item["iscrowd"] for item in voc.read()["annotations"]] == [0, 0, 1]


def test_there_and_back(tmp_path, capsys):
    """By hotcoco's writer, which rounds to pixels and makes crowds difficult; some of its objects are truncated."""
    hotcoco = pytest.importorskip("hotcoco")
    coco = sample(tmp_path / "images")
    coco["annotations"][2]["iscrowd"] = 1
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    hotcoco.COCO(str(tmp_path / "coco.json")).to_voc(str(tmp_path / "voc"))
    (written,) = (tmp_path / "voc" / "Annotations").glob("a.xml")
    written.write_text(written.read_text().replace("<truncated>0", "<truncated>1"))
    annotations, out = tmp_path / "voc" / "Annotations", tmp_path / "again.json"
    arguments = [str(annotations), str(tmp_path / "images"), str(out), f"--categories={tmp_path / 'coco.json'}"]
    assert convert.main(["--from=voc", *arguments]) == 0
    again, text = json.loads(out.read_text()), capsys.readouterr().out
    assert same_boxes(again, coco, within=1.0)
    crowds = [[a["bbox"] for a in data["annotations"] if a["iscrowd"]] for data in (again, coco)]
    assert crowds[0] == crowds[1] == [[0, 50, 33, 7]]
    assert "iscrowd 1: 1" in text and "truncated boxes, taken as any other: 2" in text and "left out" not in text


def test_parts_of_an_object_are_no_objects(voc):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    voc.add("a", thing("person", (3, 3, 9, 9), part))
    assert voc.run() == 0
    data = voc.read()
    assert [item["bbox"] for item in data["annotations"]] == [[2, 2, 7, 7]]
    assert [category["name"] for category in data["categories"]] == ["person"]


@pytest.mark.parametrize(
    "text", ["b\na\n", "b  1\na -1\n\n", "b 0\n a 1 \nb 1\n"], ids=["stems", "class list", "repeated"]
)
def test_lists_choose_and_order_images_but_not_category_ids(voc, text):
    voc.add("a", thing("dog", (1, 1, 9, 9)))
    voc.add("b", thing("zebra", (1, 1, 9, 9)))
    voc.add("c", thing("cat", (1, 1, 9, 9)))
    assert voc.run("--ids", str(voc.ids(text))) == 0
    data = voc.read()
    assert [image["file_name"] for image in data["images"]] == ["b.jpg", "a.jpg"]
    assert {category["name"]: category["id"] for category in data["categories"]} == {"cat": 1, "dog": 2, "zebra": 3}


def test_a_stem_may_hold_spaces_and_end_in_a_number(voc):
    voc.add("my photo 1", thing("dog", (1, 1, 9, 9)))
    voc.add("my photo", thing("dog", (1, 1, 9, 9)))
    assert voc.run("--ids", str(voc.ids("my photo 1\n"))) == 0
    assert [image["file_name"] for image in voc.read()["images"]] == ["my photo 1.jpg"]


def test_category_ids_are_taken_from_names_or_a_coco_file(voc, capsys):
    voc.add("a", thing("dog", (1, 1, 9, 9)), thing("cat", (1, 1, 9, 9)))
    assert voc.run("--categories", "dog, cat, cow") == 0
    assert [item["category_id"] for item in voc.read()["annotations"]] == [1, 2]
    other = voc.root / "other.json"
    other.write_text(json.dumps({"categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]}))
    assert voc.run("--categories", str(other)) == 0
    assert [item["category_id"] for item in voc.read()["annotations"]] == [18, 17]
    voc.out.unlink()
    fails(voc, capsys, "a.xml", "'cat'", "dog,cow", options=("--categories", "dog,cow"))
    fails(voc, capsys, "dog,dog", options=("--categories", "dog,dog,cat"))
    other.write_text("{}")
    fails(voc, capsys, "other.json", options=("--categories", str(other)))


@pytest.mark.parametrize(
    "filename, image",
    [
        ("a.jpg", "a.png"),
        ("a", "a.jpg"),
        ("", "a.JPG"),
        ("C:\\photos\\a.bmp", "a.jpg"),
        ("folder/x.jpg", "x.jpg"),
        ("wrong.jpg", "a.jpg"),
        ("v1.2", "v1.2.png"),
    ],
)
def test_images_are_found_by_name_or_stem(voc, filename, image):
    voc.add("a", thing("dog", (1, 1, 9, 9)), filename=filename, image=image)
    assert voc.run() == 0
    assert voc.read()["images"][0]["file_name"] == image


def test_the_images_size_counts(voc, capsys):
    voc.add("a", thing("dog", (1, 1, 90, 9)), size=(100, 100))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    voc.add("b", thing("dog", (1, 1, 40, 60)), size=(40, 60))
    Image.new("RGB", (60, 40)).save(voc.images / "b.jpg", exif=turned)
    assert voc.run() == 0
    data = voc.read()
    assert [(image["width"], image["height"]) for image in data["images"]] == [(60, 40), (40, 60)]
    assert [item["bbox"] for item in data["annotations"]] == [[0, 0, 60, 9], [0, 0, 40, 60]]
    text = capsys.readouterr().out
    assert "than in their annotation, boxes as written: 1" in text and "a.xml has (100, 100), a.jpg is (60, 40)" in text


def test_boxes_of_another_form_of_an_image_are_not_cut(voc, capsys, tmp_path):
    """Drawn on an image twice as large, or on the pixels as stored: the doctor can still convert them."""
    voc.add("a", thing("dog", (11, 21, 50, 60)), size=(120, 80))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    voc.add("b", thing("dog", (1, 1, 60, 20)), size=(60, 40))
    Image.effect_noise((60, 40), 40).convert("RGB").save(voc.images / "b.jpg", exif=turned)
    assert voc.run("--no-check") == 0
    data, text = voc.read(), capsys.readouterr().out
    assert [(image["width"], image["height"]) for image in data["images"]] == [(120, 80), (60, 40)]
    assert [item["bbox"] for item in data["annotations"]] == [[10, 20, 40, 40], [0, 0, 60, 20]]
    assert "boxes as written: 2" in text and "clipped" not in text
    assert "a.xml has (120, 80), a.jpg is (60, 40): listed as written, for the doctor to ask" in text
    for reading, boxes in (("scaled", [[5, 10, 20, 20]]), ("raw", [[20, 0, 20, 60]])):
        image = data["images"][reading == "raw"]
        one = {**data, "images": [image]}
        one["annotations"] = [item for item in data["annotations"] if item["image_id"] == image["id"]]
        (tmp_path / "one.json").write_text(json.dumps(one))
        arguments = [tmp_path / "one.json", voc.images, "--fix", tmp_path / "fixed.json", "--boxes", reading]
        doctor.main(list(map(str, arguments)))
        assert [item["bbox"] for item in json.loads((tmp_path / "fixed.json").read_text())["annotations"]] == boxes


def test_shares_of_the_sides_are_refused(voc, capsys):
    voc.add("a", thing("dog", (0.1, 0.2, 0.5, 0.9)))
    voc.add("b", thing("dog", (0, 0, 1, 1)))
    fails(voc, capsys, "a.xml: the corners of all boxes are from 0 to 1", "multiply them by the width and the height")
    voc.add("c", thing("dog", (0, 0, 2, 1)))
    assert voc.run("--no-check") == 0


def test_a_missing_size_is_read_from_the_image(voc):
    voc.add("a", thing("dog", (1, 1, 9, 9)))
    path = voc.annotations / "a.xml"
    path.write_text("<annotation>" + thing("dog", (1, 1, 9, 9)) + "</annotation>")
    assert voc.run() == 0
    assert voc.read()["images"] == [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}]


@pytest.mark.parametrize(
    "xml, words",
    [
        ("<annotation><object>", ["no valid XML"]),
        ("", ["no valid XML"]),
        ("<annotation><object><name>dog</name></object></annotation>", ["<object> 1", "<bndbox>"]),
        ("<annotation>" + thing("", (1, 1, 9, 9)) + "</annotation>", ["no <name>"]),
        ("<annotation>" + thing("dog", (1, 1, 9)) + "</annotation>", ["no <ymax>"]),
        ("<annotation>" + thing("dog", (1, "one", 9, 9)) + "</annotation>", ["<ymin>", "'one'", "not a number"]),
        ("<annotation>" + thing("dog", (1, 1, "nan", 9)) + "</annotation>", ["<xmax>", "'nan'"]),
        ("<annotation><size><width>5</width></size></annotation>", ["no <height>"]),
    ],
)
def test_bad_xml_is_reported_by_file(voc, capsys, xml, words):
    voc.add("good", thing("dog", (1, 1, 9, 9)))
    voc.add("bad")
    (voc.annotations / "bad.xml").write_text(xml)
    fails(voc, capsys, "bad.xml", *words)


def test_missing_and_broken_images_are_reported_by_file(voc, capsys):
    voc.add("a", thing("dog", (1, 1, 9, 9)))
    (voc.images / "a.jpg").write_bytes(b"")
    fails(voc, capsys, "a.jpg", "is empty")
    (voc.images / "a.jpg").unlink()
    fails(voc, capsys, "a.xml", "no image a.jpg")


def test_two_files_about_one_image_are_an_error(voc, capsys):
    voc.add("a", thing("dog", (1, 1, 9, 9)))
    voc.add("b", thing("dog", (1, 1, 9, 9)), filename="a.jpg")
    fails(voc, capsys, "a.xml", "b.xml", "a.jpg")


def test_bad_folders_and_lists_are_reported(voc, capsys):
    fails(voc, capsys, "Annotations", "holds no .xml")
    voc.add("a", thing("dog", (1, 1, 9, 9)))
    fails(voc, capsys, "list.txt, line 2", "nowhere.xml", options=("--ids", str(voc.ids("a\nnowhere\n"))))
    fails(voc, capsys, "list.txt", "is empty", options=("--ids", str(voc.ids("\n"))))
    fails(voc, capsys, "missing.txt", options=("--ids", str(voc.root / "missing.txt")))
    for wrong in (voc.root / "x", voc.annotations / "a.xml"):
        assert convert.main(["--from=voc", str(wrong), str(voc.images), str(voc.out)]) == 2
        assert convert.main(["--from=voc", str(voc.annotations), str(wrong), str(voc.out)]) == 2
    assert not voc.out.exists()


def test_an_old_file_survives_a_failed_run(voc, capsys):
    voc.add("a", thing("dog", (1, 1, 9, 9)))
    assert voc.run() == 0
    before = voc.out.read_bytes()
    (voc.annotations / "a.xml").write_text("broken")
    assert voc.run() == 2
    assert voc.out.read_bytes() == before and len(list(voc.out.parent.iterdir())) == 1


def test_an_output_that_cannot_be_written_is_reported(voc, capsys):
    voc.add("a", thing("dog", (1, 1, 9, 9)))
    for out in (voc.annotations / "a.xml" / "coco.json", voc.images):
        voc.out = out
        assert voc.run() == 2
        assert "cannot be written" in capsys.readouterr().err
    assert [path.name for path in voc.images.iterdir()] == ["a.jpg"]


@pytest.mark.bccd
@pytest.mark.skipif("BCCD_ROOT" not in os.environ, reason="BCCD_ROOT is not set to the folder of the BCCD images")
def test_bccd_splits(tmp_path, capsys):
    root = Path(os.environ["BCCD_ROOT"])
    boxes = 0
    for split, count in (("train", 205), ("val", 87), ("test", 72)):
        out = tmp_path / f"{split}.json"
        listing = root / "ImageSets" / "Main" / f"{split}.txt"
        arguments = [str(root / "Annotations"), str(root / "JPEGImages"), str(out), "--ids", str(listing)]
        assert convert.main(["--from=voc", *arguments]) == 0
        data = json.loads(out.read_text())
        assert len(data["images"]) == count
        assert [category["name"] for category in data["categories"]] == ["Platelets", "RBC", "WBC"]
        boxes += len(data["annotations"])
        assert doctor.main([str(out), str(root / "JPEGImages")]) == 0
    text = capsys.readouterr().out
    assert boxes == 4155 + 372 + 361 - 2 and "clipped" not in text
    assert text.count("left out: 1") == 2 and "BloodImage_00338.xml" in text and "BloodImage_00343.xml" in text


@pytest.mark.parametrize(
    ("encoding", "declaration", "options"),
    [
        ("utf-8-sig", "", ()),
        ("utf-16", "", ()),
        ("utf-16", '<?xml version="1.0" encoding="UTF-16"?>', ()),
        ("utf-16-le", "", ()),
        ("gb2312", '<?xml version="1.0" encoding="gb2312"?>', ()),
        ("shift_jis", "<?xml version='1.0' encoding='Shift_JIS'?>", ()),
        ("utf-8", '<?xml version="1.0" encoding="latin-9999"?>', ()),
        ("gbk", "", ("--encoding", "gbk")),
    ],
)
def test_any_encoding_is_read(voc, encoding, declaration, options):
    voc.add("a", thing("\u72ac", (1, 1, 9, 9)))
    text = declaration + (voc.annotations / "a.xml").read_text()
    (voc.annotations / "a.xml").write_bytes(text.encode(encoding))
    assert voc.run(*options) == 0 and voc.read()["categories"][0]["name"] == "\u72ac"


def test_an_unknown_encoding_is_named(voc, capsys):
    voc.add("a", thing("caf\u00e9", (1, 1, 9, 9)))
    content = (voc.annotations / "a.xml").read_text().encode("cp1252")
    (voc.annotations / "a.xml").write_bytes(content)
    fails(voc, capsys, "a.xml is not encoded in utf-8", "--encoding")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_in_the_way_of_a_file_is_named(voc, capsys, make):
    voc.add("a", thing("dog", (1, 1, 9, 9)))
    make(voc.annotations / "b.xml")
    fails(voc, capsys, "b.xml is a", "not an XML file")
    (voc.annotations / "b.xml").rename(voc.images / "moved")
    (voc.images / "a.jpg").unlink()
    make(voc.images / "a.jpg")
    fails(voc, capsys, "a.jpg is a", "not a file")


def test_an_undefined_orientation_swaps_no_sides(voc):
    voc.add("a", thing("dog", (1, 1, 9, 9)))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 40000
    Image.new("RGB", (WIDTH, HEIGHT)).save(voc.images / "a.jpg", exif=exif)
    assert voc.run() == 0 and (voc.read()["images"][0]["width"], voc.read()["images"][0]["height"]) == (WIDTH, HEIGHT)
