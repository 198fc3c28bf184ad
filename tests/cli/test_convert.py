"""`detection convert`: the format is chosen, and its options reach it; tests/data has the converters' tests."""

import json

import pytest
from PIL import Image

from detection.cli import convert

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
        ([], "format to read: voc or tensorbox"),
        (["--from=voc"], "--first-pixel"),
        (["--from=tensorbox"], "--back"),
    )
    for arguments, words in helps:
        with pytest.raises(SystemExit) as ended:
            convert.main([*arguments, "--help"])
        assert ended.value.code == 0 and words in capsys.readouterr().out


def test_mistakes_get_one_sentence(folder, capsys):
    for arguments, words in (
        (["xml", "images", "coco.json"], "--from voc or --from tensorbox"),
        (["--from", "yolo", "xml", "images", "coco.json"], "--from yolo: no such format"),
        (["--from", "voc", "nothing", "images", "coco.json"], "nothing is no folder"),
    ):
        assert convert.main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert not (folder / "coco.json").exists()
