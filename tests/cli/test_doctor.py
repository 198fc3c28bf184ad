import json
import math
from pathlib import Path

import pytest
from PIL import Image

from detection.cli import doctor
from tests.coco_files import small, write, write_image

DOCTOR = Path(doctor.__file__)


def _run(capsys, *arguments):
    code = doctor.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_good_data_set(tmp_path, capsys):
    code, report, _ = _run(capsys, write(tmp_path, small()), tmp_path / "images")
    assert code == 0 and "Fit for training." in report and "Would break" not in report
    assert "3 images (1 without boxes), 3 boxes, 1 crowd regions" in report
    assert [line.split() for line in report.splitlines() if line.startswith(("dog", "cat "))] == [
        ["dog", "9", "2", "2"],
        ["cat", "3", "1", "1"],
    ]
    assert "box areas: 3 small (< 32²), 0 medium, 0 large" in report
    assert (
        "1 images have no box: id 30" in report and "1 boxes reach outside their image and are clipped: id 6" in report
    )


def _spoil(tmp_path):
    """A data set with one of everything that --fix can repair."""
    data = small()
    image = {"width": 20, "height": 20}
    data["images"] += [{"id": 100 + i, "file_name": f"{i}.png", **image} for i in range(9)]
    data["annotations"] += [
        {"id": 200 + i, "image_id": 100 + i, "category_id": 3, "bbox": [1, 1, 18, 18], "area": 324} for i in range(9)
    ]
    path = write(tmp_path, data)
    images = tmp_path / "images"
    (images / "0.png").unlink()
    (images / "1.png").write_bytes(b"")
    (images / "2.png").write_bytes((images / "2.png").read_bytes()[:300])
    write_image(images / "3.png", 10, 20)  # the JSON says 20x20
    (images / "4.png").rename(tmp_path / "4.png")
    (images / "4.png").symlink_to(tmp_path / "4.png")
    data["images"][3 + 5]["file_name"] = "../5.png"
    data["images"][3 + 6]["width"] = "wide"
    data["images"].append(dict(data["images"][3 + 7]))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(images / "8.png", exif=exif)
    row = {"image_id": 10, "category_id": 3}
    bad = [[math.nan, 1, 2, 3], [1, 2, 0, 3], [50, 1, 2, 3], [1, 2, 3], None]
    data["annotations"] += [{"id": 300 + i, **row, "bbox": box} for i, box in enumerate(bad)]
    data["annotations"] += [
        {"id": 310, **row, "image_id": 77, "bbox": [1, 2, 3, 4]},
        {"id": 311, **row, "category_id": 77, "bbox": [1, 2, 3, 4]},
        {"id": 312, **row, "bbox": [1, 2, 3, 4], "area": None, "segmentation": [[1, 2, 3, 4, 5, 6]]},
        {"id": 312, **row, "bbox": [1, 2, 3, 4], "iscrowd": 5},
        {"id": 312, **row, "bbox": [1, 2, 3, 4]},
    ]
    path.write_text(json.dumps(data))
    return path, images


def test_everything_is_reported_and_repaired(tmp_path, capsys):
    path, images = _spoil(tmp_path)
    before = path.read_bytes()
    fixed = tmp_path / "new" / "fixed.json"
    code, report, _ = _run(capsys, path, images, "--fix", fixed, "--drop-boxes")
    assert code == 1 and "NOT fit for training." in report and path.read_bytes() == before
    for words in (
        "names 0.png, which is not in",
        "1.png is empty (0 bytes)",
        "2 × unreadable image file: id 101, 102",
        "lists 20x20 pixels for image 103, but 3.png has 10x20",
        "names 4.png, a link out of",
        "image 105 has file_name '../5.png'",
        "image 106 has width 'wide'",
        "image 107 has id 107, which another image has too",
        "2 × image size differs: id 103, 108",
        "NaN or infinite", "is not positive", "no area inside the image", "is not four numbers", "2 × malformed box",
        "names image_id 77", "names category_id 77", "annotation 312 has id 312", "area None", "iscrowd 5",
        "5.png",
    ):  # fmt: skip
        assert words in report, words
    result = json.loads(fixed.read_text())
    assert [image["id"] for image in result["images"]] == [20, 10, 30, 103, 105, 106, 107, 108]
    sizes = {image["id"]: (image["width"], image["height"]) for image in result["images"]}
    assert sizes[103] == (10, 20) and sizes[106] == (20, 20) and sizes[108] == (30, 20)
    annotations = result["annotations"]
    assert [annotation["id"] for annotation in annotations] == list(range(1, len(annotations) + 1))
    assert len(annotations) == 4 + 5 + 2
    clipped = next(annotation for annotation in annotations if annotation["image_id"] == 103)
    assert clipped["bbox"] == [1, 1, 9, 18] and clipped["area"] == 162
    assert any(annotation.get("segmentation") and annotation["area"] == 12 for annotation in annotations)
    assert not [entry for entry in fixed.parent.iterdir() if entry != fixed]
    code, report, _ = _run(capsys, fixed, images)
    assert code == 0 and "Would break" not in report


def test_a_copy_of_a_good_file_is_equal(tmp_path, capsys):
    data = small()
    data["annotations"][2]["bbox"] = [30.5, 10, 9.5, 5]
    for entry in data["annotations"]:
        entry["area"] = 1.0
    path = write(tmp_path, data)
    code, report, _ = _run(capsys, path, tmp_path / "images", "--fix", tmp_path / "b.json")
    assert code == 0 and "nothing to repair" in report
    assert json.loads((tmp_path / "b.json").read_text()) == json.loads(path.read_text())


def test_warnings(tmp_path, capsys):
    data = small()
    data["categories"].append({"id": 1, "name": "unicorn"})
    data["annotations"].append({**data["annotations"][0], "id": 99})
    path = write(tmp_path, data)
    write_image(tmp_path / "images/sub/unlisted.png", 4, 4)
    code, report, _ = _run(capsys, path, tmp_path / "images")
    assert code == 0
    assert "1 categories have no box: name unicorn" in report
    assert "1 boxes repeat another of the same category and image: id 99" in report
    assert "1 image files in the folder are not listed: file sub/unlisted.png" in report


def test_masks_are_examined_when_asked_for(tmp_path, capsys):
    data = small()
    square = [[1, 1, 5, 1, 5, 5, 1, 5]]
    for entry, mask in zip(data["annotations"], (square, square, square, square), strict=True):
        entry["segmentation"] = mask
    sound = write(tmp_path, data, "sound.json")
    assert _run(capsys, sound, tmp_path / "images", "--masks")[0] == 0
    wrong = [None, [[1, 2, 3]], [[1, 1, 999, 1, 5, 5]], {"size": [3, 3], "counts": [9]}]
    for entry, mask in zip(data["annotations"], wrong, strict=True):
        entry["segmentation"] = mask
    data["annotations"] += [
        {"id": 40, "image_id": 10, "category_id": 3, "bbox": [0, 0, 9, 9]},
        {"id": 41, "image_id": 77, "category_id": 3, "bbox": [0, 0, 9, 9]},
    ]
    path = write(tmp_path, data)
    code, report, _ = _run(capsys, path, tmp_path / "images", "--masks")
    assert code == 1
    for words in (
        "annotation 7 has no 'segmentation' (and 1 more)", "2 × bad segmentation: id 7, 40",
        "annotation 5 has segmentation [[1, 2, 3]], which is not a list of polygons",
        "annotation 6 has segmentation [[1, 1, 999, 1, 5, 5]] with a point far outside",
        "annotation 0 has a segmentation of size [3, 3]", "names image_id 77", "data.masks=boxes",
    ):  # fmt: skip
        assert words in report, (words, report)
    report = _run(capsys, path, tmp_path / "images")[1]
    assert "segmentation" not in report


def test_a_set_without_a_box_would_break_training(tmp_path, capsys):
    data = small()
    data["annotations"] = []
    code, report, _ = _run(capsys, write(tmp_path, data), tmp_path / "images")
    assert code == 1 and "no image has a box" in report


@pytest.mark.parametrize("name", ["id", "name"])
def test_categories_are_not_guessed(tmp_path, capsys, name):
    data = small()
    data["categories"][0][name] = data["categories"][1][name]
    code, _, error = _run(capsys, write(tmp_path, data), tmp_path / "images", "--fix", tmp_path / "b.json")
    words = {"id": "cannot be repaired automatically", "name": "add --merge-categories"}[name]
    assert code == 2 and words in error and not (tmp_path / "b.json").exists()


def test_unusable_input(tmp_path, capsys):
    path = write(tmp_path, small())
    (tmp_path / "broken.json").write_text("{")
    for arguments, words in (
        ((tmp_path / "none.json", tmp_path), "no such file"),
        ((tmp_path / "broken.json", tmp_path), "not valid JSON"),
        ((path, tmp_path / "none"), "does not exist"),
        ((path, tmp_path / "images", "--fix", path), "would overwrite"),
    ):
        code, _, error = _run(capsys, *arguments)
        assert code == 2 and words in error and error.count("\n") == 1
