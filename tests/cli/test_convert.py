"""`detection convert`: the format is chosen, and its options reach it; tests/data has the converters' tests."""

import json

import pytest
from PIL import Image

from detection.cli import convert
from tests.coco_files import small, write
from tests.hostile_names import KINDS, printed

XML = """<annotation><filename>a.png</filename><object><name>dog</name>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("xml", "images"):
        (tmp_path / name).mkdir()
    (tmp_path / "xml" / "a.xml").write_text(XML)
    Image.new("RGB", (20, 10)).save(tmp_path / "images" / "a.png")
    return tmp_path


def test_voc_and_tensorbox_there_and_back(folder, capsys):
    assert convert.main(["--from", "voc", "xml", "images", "new/coco.json", "--first-pixel=0"]) == 0
    coco = json.loads((folder / "new/coco.json").read_text())
    assert coco["annotations"][0]["bbox"] == [1, 1, 9, 9] and coco["categories"] == [{"id": 1, "name": "dog"}]
    assert convert.main(["--from=tensorbox", "--back", "new/coco.json", "images", "box.json"]) == 0
    arguments = ["box.json", "images", "again.json", "--categories=dog", "--from=tensorbox"]
    assert convert.main(arguments) == 0
    assert json.loads((folder / "again.json").read_text())["annotations"] == coco["annotations"]
    assert "1 images, 1 boxes (dog 1)" in capsys.readouterr().out


def test_help_is_that_of_the_format_where_one_is_given(capsys):
    helps = (
        ([], "format to read: yolo, cvat, labelme, dota, voc or tensorbox"),
        (["--from=voc"], "--first-pixel"),
        (["--from=tensorbox"], "--back"),
    )
    for arguments, words in helps:
        with pytest.raises(SystemExit) as ended:
            convert.main([*arguments, "--help"])
        assert ended.value.code == 0 and words in capsys.readouterr().out


def test_mistakes_get_one_sentence(folder, capsys):
    for arguments, words in (
        (["xml", "images", "coco.json"], "give the format to read: --from yolo, cvat"),
        (["--from", "kitti", "xml", "images", "coco.json"], "--from kitti: no such format; choose yolo"),
        (["--from", "voc", "nothing", "images", "coco.json"], "nothing is no folder"),
    ):
        assert convert.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert not (folder / "coco.json").exists()


def test_no_input_is_replaced(folder, capsys):
    (folder / "list.txt").write_text("a\n")
    (folder / "names.txt").write_text("dog\n")
    assert convert.main(["--from=voc", "xml", "images", "coco.json"]) == 0
    assert convert.main(["--from=voc", "xml", "images", "coco.json"]) == 0  # a former output
    assert convert.main(["--from=tensorbox", "--back", "coco.json", "images", "box.json"]) == 0
    before = {path: path.read_bytes() for path in folder.glob("*.*")}
    for arguments in (
        ["--from=voc", "xml", "images", "list.txt", "--ids=list.txt"],
        ["--from=voc", "xml", "images", "coco.json", "--categories=./coco.json"],
        ["--from=voc", "xml", "images", "xml/../names.txt", "--categories=names.txt"],
        ["--from=tensorbox", "coco.json", "images", "coco.json", "--back"],
        ["--from=tensorbox", "box.json", "images", "box.json", "--categories=dog"],
    ):
        capsys.readouterr()
        assert convert.main(arguments) == 2
        error = capsys.readouterr().err
        assert f"error: {arguments[3]} is a file to read; give another OUT.json" in error
    assert {path: path.read_bytes() for path in folder.glob("*.*")} == before


def test_what_is_written_is_examined_unless_it_is_not_wanted(folder, capsys):
    arguments = ["--from=voc", "xml", "images", "coco.json"]
    assert convert.main(arguments) == 0
    assert "1 images are nearly black" in (text := capsys.readouterr().out) and text.endswith("Fit for training.\n")
    assert convert.main([*arguments, "--no-check"]) == 0
    assert "training" not in capsys.readouterr().out
    assert convert.main(["--from=tensorbox", "--back", "coco.json", "images", "box.json"]) == 0  # no COCO file
    assert "training" not in capsys.readouterr().out


def test_hostile_names_are_escaped(tmp_path, capsys):
    data, out = small(), str(tmp_path / "\x1b[1mout.json")
    names = [name for name in KINDS if name.strip()]
    data["categories"] += [{"id": 100 + k, "name": name} for k, name in enumerate(names)]
    path, images = write(tmp_path, data), str(tmp_path / "images")
    assert convert.main(["--from=tensorbox", "--back", str(path), images, out]) == 0
    assert r"\x1b[31mred\x1b[0m 0" in printed(capsys)
    entries = [{"image_path": "two\n\x1b[31m/a.png", "rects": [{"x1": 1, "y1": 1, "x2": 1, "y2": 5, "classID": 9}]}]
    (tmp_path / "in.json").write_text(json.dumps(entries))
    assert convert.main(["--from=tensorbox", str(tmp_path / "in.json"), images, out, f"--categories={path}"]) == 0
    assert r"two\n\x1b[31m/a.png, rect 0" in printed(capsys)
