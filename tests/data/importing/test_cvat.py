"""CVAT's XML: every kind of shape, and what every kind of bad input gets."""

import json

import pytest
from pycocotools import mask as masks

from tests.data.importing.formats import add_image, add_text, converted, fails, read, same_boxes, sample

HEAD = """<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><labels>
<label><name>zebra</name></label><label><name>ant</name></label>
<label><name>1</name><parent>ant</parent></label></labels></task></meta>"""


@pytest.fixture
def cvat(tmp_path):
    """Return a function that writes a file with one image of these shapes and gives the arguments to convert it."""

    def write(shapes: str, name: str = "a.png", more: str = "", attributes: str = 'width="80" height="40"'):
        add_image(tmp_path / "images/a.png")
        text = f'{HEAD}<image id="0" name="{name}" {attributes}>{shapes}</image>{more}</annotations>'
        add_text(tmp_path / "a.xml", text)
        return tmp_path / "a.xml", tmp_path / "images", tmp_path / "out.json"

    return write


def shape(tag: str, label: str = "zebra", body: str = "", **attributes) -> str:
    return f'<{tag} label="{label}" {" ".join(f"""{k}="{v}" """ for k, v in attributes.items())}>{body}</{tag}>'


BOX = shape("box", xtl=1, ytl=2.5, xbr=11, ybr=22)


@pytest.mark.parametrize(
    "shapes, box, words",
    [
        (BOX, [1, 2.5, 10, 19.5], "zebra 1"),
        (shape("box", xtl=-5, ytl=0, xbr=90, ybr=40), [0, 0, 80, 40], "clipped to their image: 1"),
        (shape("box", xtl=20, ytl=10, xbr=40, ybr=20, rotation=90), [25, 5, 10, 20], "rotated boxes, as"),
        (shape("polygon", points="10,10;30,10;20,30"), [10, 10, 20, 20], "zebra 1"),
        (shape("ellipse", cx=20, cy=20, rx=10, ry=5), [10, 15, 20, 10], "ellipses: 1"),
        (shape("mask", rle="1, 2, 1, 2", left=70, top=3, width=3, height=2), [71, 3, 2, 2], "zebra 1"),
        (shape("box", label="new", xtl=1, ytl=1, xbr=2, ybr=2), [1, 1, 1, 1], "ant 0, new 1"),
    ],
)
def test_shapes_become_boxes(cvat, capsys, shapes, box, words):
    arguments = cvat(shapes)
    assert converted("cvat", *arguments) == 0
    item = read(arguments[2])["annotations"][0]
    assert item["bbox"] == box and item["id"] == item["image_id"] == 1 and item["iscrowd"] == 0
    assert words in capsys.readouterr().out


def test_a_rotated_box_turns_clockwise_and_keeps_its_outline(cvat):
    arguments = cvat(shape("box", xtl=20, ytl=10, xbr=40, ybr=20, rotation=30))
    assert converted("cvat", *arguments, "--no-check") == 0
    item = read(arguments[2])["annotations"][0]
    first = [30 - 10 * 0.8660254 + 5 * 0.5, 15 - 10 * 0.5 - 5 * 0.8660254]  # the upper left corner, turned about 30, 15
    assert item["segmentation"][0][:2] == pytest.approx(first, abs=1e-5) and item["area"] == pytest.approx(200)


def test_a_mask_keeps_its_pixels(cvat):
    arguments = cvat(shape("mask", rle="1, 2, 1, 2", left=70, top=3, width=3, height=2))
    assert converted("cvat", *arguments, "--no-check") == 0
    item = read(arguments[2])["annotations"][0]
    pixels = masks.decode([masks.frPyObjects(item["segmentation"], 40, 80)])[:, :, 0]
    assert pixels.sum() == item["area"] == 4 and pixels[3:5, 70:73].tolist() == [[0, 1, 1], [0, 1, 1]]


def test_what_has_no_box_is_counted_and_attributes_are_kept(cvat, capsys):
    text = "<attribute name='color'>red</attribute>"
    shapes = BOX.replace("></box>", f">{text}</box>") + shape("points", points="1,1") + shape("tag")
    shapes += shape("box", xtl=5, ytl=5, xbr=5, ybr=9) + shape("box", outside=1, xtl=5, ytl=5, xbr=9, ybr=9)
    arguments = cvat(shapes, "set\\a.JPG", attributes='width="81" height="40"')
    assert converted("cvat", *arguments) == 0
    data, text = read(arguments[2]), capsys.readouterr().out
    assert [item.get("attributes") for item in data["annotations"]] == [{"color": "red"}]
    assert data["images"] == [{"id": 1, "file_name": "a.png", "width": 80, "height": 40}]
    assert data["categories"] == [{"id": 1, "name": "zebra"}, {"id": 2, "name": "ant"}]
    for words in (
        "points shapes, which have no box, left out: 1", "tag shapes", "shapes outside of their image, left out: 1",
        "boxes without size, left out: 1", "<box> 4",
        "of another size than in the XML, boxes as written: 1",
        "has (81, 40), a.png is (80, 40): the image's size is used",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize(
    "shapes, words",
    [
        (shape("box", xtl="x", ytl=2, xbr=11, ybr=22), ("image a.png, <box> 1", "xtl is 'x'")),
        (shape("box", xtl=1, ytl=2, xbr=11), ("<box> 1", "no ybr")),
        (shape("box", label="", xtl=1, ytl=2, xbr=11, ybr=2), ("no label",)),
        (shape("polygon", points="1,1;2"), ("<polygon> 1", "x,y")),
        (shape("polygon", points="1,1;2,nan"), ("<polygon> 1", "x,y")),
        (shape("mask", rle="1,2", left=0, top=0, width=3, height=2), ("<mask> 1", "3 × 2 pixels")),
        (shape("blob"), ("<blob> 1", "no shape")),
        ("<box", ("no valid XML",)),
    ],
)
def test_a_bad_shape_is_named(cvat, capsys, shapes, words):
    arguments = cvat(shapes)
    fails(capsys, ("a.xml", *words), "cvat", *arguments)
    assert not arguments[2].exists()


def test_tracks_and_files_without_images_get_a_sentence(cvat, capsys, tmp_path):
    fails(capsys, ("for video", "CVAT for images 1.1"), "cvat", *cvat("", more='<track id="0" label="zebra"/>'))
    arguments = cvat("")
    add_text(tmp_path / "a.xml", "<annotations/>")
    fails(capsys, ("no <image>",), "cvat", *arguments)
    (tmp_path / "a.xml").write_bytes(b"PK\x03\x04")
    fails(capsys, ("a.xml is a zip archive", "unpack"), "cvat", *arguments)
    fails(capsys, ("not there",), "cvat", tmp_path / "b.xml", *arguments[1:])


def test_missing_images_are_named_or_skipped(cvat, capsys):
    arguments = cvat(BOX, more=f'<image id="1" name="b.png">{BOX}</image>')
    fails(capsys, ("no image b.png", "--skip-missing"), "cvat", *arguments)
    assert converted("cvat", *arguments, "--skip-missing") == 0
    assert len(read(arguments[2])["images"]) == 1 and "left out with their annotations: 1" in capsys.readouterr().out


def test_names_that_change_are_counted_and_folders_that_are_there_are_kept(cvat, capsys):
    arguments = cvat(BOX, name="gone/a.bmp", more=f'<image id="1" name="train/b.png">{BOX}</image>')
    for file in ("val/b.png", "train/c.png"):
        add_image(arguments[1] / file)
    fails(capsys, ("no image train/b.png", "--skip-missing"), "cvat", *arguments)
    (arguments[1] / "val/b.png").rename(arguments[1] / "val/b.jpg")  # another suffix is another file, too
    fails(capsys, ("no image train/b.png",), "cvat", *arguments)
    (arguments[1] / "val/b.jpg").rename(arguments[1] / "train/B.png")
    assert converted("cvat", *arguments) == 0
    assert [image["file_name"] for image in read(arguments[2])["images"]] == ["a.png", "train/B.png"]
    assert "images found under another name: 2 (first gone/a.bmp is a.png)" in capsys.readouterr().out


def test_other_categories_are_those_given(cvat, capsys):
    arguments = cvat(BOX)
    assert converted("cvat", *arguments, "--categories=ant,cow,zebra") == 0
    assert read(arguments[2])["annotations"][0]["category_id"] == 3
    fails(capsys, ("'ant' is not among",), "cvat", *arguments, "--categories=zebra")


def test_there_and_back(tmp_path):
    hotcoco = pytest.importorskip("hotcoco")
    coco = sample(tmp_path / "images")
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    hotcoco.COCO(str(tmp_path / "coco.json")).to_cvat(str(tmp_path / "a.xml"))
    assert converted("cvat", tmp_path / "a.xml", tmp_path / "images", tmp_path / "again.json") == 0
    assert same_boxes(read(tmp_path / "again.json"), coco, within=0.011)  # CVAT writes hundredths
