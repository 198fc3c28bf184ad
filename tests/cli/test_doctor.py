import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image

from detection.cli import doctor
from detection.data.checks import examine
from detection.data.coco_index import load_index
from detection.data.dataset import match_categories
from detection.data.mask_boxes import with_boxes_of_masks
from detection.data.remarks import divided_files, objects_of_tables
from tests.coco_files import small, write, write_image
from tests.data.mutations import draw_set
from tests.hostile_names import KINDS, printed


def _code(*arguments):
    return doctor.main([str(argument) for argument in arguments])


def _run(capsys, *arguments):
    code = _code(*arguments)
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
    data["categories"] += [{"id": 1, "name": "unicorn"}, {"id": 4, "name": "Unicorn"}]
    data["annotations"].append({**data["annotations"][0], "id": 99})
    path = write(tmp_path, data)
    write_image(tmp_path / "images/sub/unlisted.png", 4, 4)
    code, report, _ = _run(capsys, path, tmp_path / "images")
    assert code == 0
    assert "2 categories have no box: name unicorn, Unicorn" in report
    assert "2 categories have nearly another's name, and are learned as classes of their own: name 'unicorn'" in report
    assert "1 boxes repeat another of the same category and image: id 99" in report
    assert "1 image files in the folder are not listed: file sub/unlisted.png" in report


def test_half_of_a_split_is_refused(tmp_path, capsys):
    overrides = ["data.train.annotations=a.json", "data.train.images=a", "data.val.annotations=b.json"]
    assert _code("finetune", *overrides) == 2
    assert "data.val.annotations is set and data.val.images is not: give both" in capsys.readouterr().err


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


def _shift(data, change):
    for annotation in data["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = list(change(x, y, w, h))
    return data


def _drawn(folder, seed=0, n=10, **changes):
    data, pictures = draw_set(seed, n)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        picture.save(folder / "images" / name, **changes)
    return data


def _save(folder, data, name="a.json"):
    (folder / name).write_text(json.dumps(data))
    return folder / name


def test_corners_are_recognized_and_converted_when_decided(tmp_path, capsys):
    sound = _drawn(tmp_path)
    path, images, fixed = tmp_path / "a.json", tmp_path / "images", tmp_path / "fixed.json"
    corners = _shift(json.loads(json.dumps(sound)), lambda x, y, w, h: (x, y, x + w, y + h))
    _save(tmp_path, corners)
    code, report, error = _run(capsys, path, images, "--fix", fixed)
    assert code == 2 and "look like corners" in report and "--boxes xyxy converts them" in error and not fixed.exists()
    assert _run(capsys, path, images)[0] == 1 and _run(capsys, path, images, "--boxes", "xywh")[0] == 0
    code, report, _ = _run(capsys, path, images, "--fix", fixed, "--boxes", "xyxy")
    assert "converted from xyxy 20 annotations" in report
    assert json.loads(fixed.read_text())["annotations"] == sound["annotations"]
    code, report, _ = _run(capsys, fixed, images)
    assert code == 0 and "look like" not in report


def test_boxes_on_stored_pixels_are_recognized(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 3
    sound = _drawn(tmp_path, exif=exif)
    images, fixed = tmp_path / "images", tmp_path / "fixed.json"
    code, report, _ = _run(capsys, _save(tmp_path, sound), images)
    assert code == 1 and "without the EXIF orientation" in report and "--boxes raw" in report
    _run(capsys, tmp_path / "a.json", images, "--fix", fixed, "--boxes", "raw")
    expected = _shift(sound, lambda x, y, w, h: (64 - x - w, 64 - y - h, w, h))
    assert [a["bbox"] for a in json.loads(fixed.read_text())["annotations"]] == [
        a["bbox"] for a in expected["annotations"]
    ]
    assert _run(capsys, fixed, images)[0] == 0


def test_images_of_another_size_need_a_decision(tmp_path, capsys):
    data = _drawn(tmp_path)
    for image in data["images"]:
        image["width"], image["height"] = 32, 32
    for annotation in data["annotations"]:
        annotation["bbox"] = [v / 2 for v in annotation["bbox"]]
    path, images, fixed = _save(tmp_path, data), tmp_path / "images", tmp_path / "fixed.json"
    code, report, error = _run(capsys, path, images, "--fix", fixed)
    assert code == 2 and "--boxes scaled" in report + error
    assert _run(capsys, path, images, "--fix", fixed, "--boxes", "scaled")[0] == 1
    sound = draw_set(0, 10)[0]
    assert [a["bbox"] for a in json.loads(fixed.read_text())["annotations"]] == [
        a["bbox"] for a in sound["annotations"]
    ]


def test_boxes_of_images_listed_as_stored_need_a_decision(tmp_path, capsys):
    """Too few to see by their content that the boxes were drawn without the EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = small()
    data["images"] = data["images"][:1]
    data["annotations"] = [{"id": 1, "image_id": 20, "category_id": 9, "bbox": [30, 5, 8, 20], "area": 160}]
    path, fixed = write(tmp_path, data), tmp_path / "fixed.json"
    Image.new("RGB", (40, 30)).save(tmp_path / "images/a.png", exif=exif)
    code, report, error = _run(capsys, path, tmp_path / "images", "--fix", fixed)
    assert "lists 40x30 pixels for image 20, but a.png has 30x40 (EXIF orientation 6 applied)" in report
    assert code == 2 and not fixed.exists()
    assert error == (
        f"error: {path} lists 1 images in the size that they are stored in, before their EXIF orientation, and the "
        "boxes may be drawn so, too: decide it for --fix: --boxes raw turns them with the image, --boxes xywh keeps "
        "them.\n"
    )
    _run(capsys, path, tmp_path / "images", "--fix", fixed, "--boxes", "raw")
    (entry,) = json.loads(fixed.read_text())["annotations"]
    assert entry["bbox"] == [5, 30, 20, 8]
    data["annotations"][0]["bbox"] = [5, 10, 20, 28]  # fits the upright image alone
    path.write_text(json.dumps(data))
    assert "corrected the size of 1 image" in _run(capsys, path, tmp_path / "images", "--fix", fixed)[1]


def test_what_cannot_be_kept_takes_its_image_out(tmp_path, capsys):
    data = small()
    data["annotations"][0]["bbox"] = [1, 2, math.nan, 4]
    path, images, fixed = write(tmp_path, data), tmp_path / "images", tmp_path / "fixed.json"
    _, report, _ = _run(capsys, path, images, "--fix", fixed)
    result = json.loads(fixed.read_text())
    assert [image["id"] for image in result["images"]] == [20, 30]
    assert {annotation["image_id"] for annotation in result["annotations"]} == {20}
    assert "left out with them 1 image (--drop-boxes keeps them): id 10" in report
    _run(capsys, path, images, "--fix", fixed, "--drop-boxes")
    assert len(json.loads(fixed.read_text())["images"]) == 3


def test_an_object_of_no_known_image_stops_the_repair(tmp_path, capsys):
    data = small()
    data["annotations"][0]["image_id"] = None
    path, fixed = write(tmp_path, data), tmp_path / "fixed.json"
    code, _, error = _run(capsys, path, tmp_path / "images", "--fix", fixed)
    assert code == 2 and "nobody knows in which image" in error and "--drop-boxes" in error and not fixed.exists()


@pytest.mark.parametrize(("shift", "words"), [(1, "too low (counted from 0?)"), (-1, "too high (counted from 1?)")])
def test_category_ids_that_are_shifted_are_not_repaired(tmp_path, capsys, shift, words):
    """Some of them are ids of other categories, so that what is left would have wrong classes."""
    data = small()
    data["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for annotation, own in zip(data["annotations"], (1, 2, 2, 1), strict=True):
        annotation["category_id"] = own - shift
    path, fixed = write(tmp_path, data), tmp_path / "fixed.json"
    code, report, error = _run(capsys, path, tmp_path / "images", "--fix", fixed)
    assert f"the category_id of all annotations seems to be one {words}" in report
    assert code == 2 and f"one {words}" in error and "--drop-boxes" in error and not fixed.exists()


def test_clipping_is_reported(tmp_path, capsys):
    path = write(tmp_path, small())
    _, report, _ = _run(capsys, path, tmp_path / "images", "--fix", tmp_path / "fixed.json")
    assert (
        "clipped to their image 1 annotation (cut by 52% of their area on average, at most 52% of annotation 6)"
        in report
    )


def test_categories_of_one_name_are_merged_on_demand(tmp_path, capsys):
    data = small()
    data["categories"][0]["name"] = "cat"
    path, images, fixed = write(tmp_path, data), tmp_path / "images", tmp_path / "fixed.json"
    code, _, error = _run(capsys, path, images, "--fix", fixed)
    assert code == 2 and "id 9 with 2 boxes, id 3 with 2 boxes" in error
    _run(capsys, path, images, "--fix", fixed, "--merge-categories")
    result = json.loads(fixed.read_text())
    assert [c["id"] for c in result["categories"]] == [9] and {a["category_id"] for a in result["annotations"]} == {9}


def test_a_category_that_is_listed_twice_is_kept_once(tmp_path, capsys):
    data = small()
    data["categories"] += [{**data["categories"][0], "supercategory": "x"}, dict(data["categories"][1])]
    path, fixed = write(tmp_path, data), tmp_path / "fixed.json"
    code, report, _ = _run(capsys, path, tmp_path / "images", "--fix", fixed)
    assert code == 1 and "left out 2 categories that were listed twice" in report
    assert json.loads(fixed.read_text())["categories"] == small()["categories"]


def test_a_placeholder_without_boxes_merges_by_itself(tmp_path, capsys):
    data = small()
    data["categories"].insert(0, {"id": 0, "name": "dog", "supercategory": "none"})
    path, images, fixed = write(tmp_path, data), tmp_path / "images", tmp_path / "fixed.json"
    _run(capsys, path, images, "--fix", fixed)
    assert [c["id"] for c in json.loads(fixed.read_text())["categories"]] == [9, 3]
    data["categories"] = [{**c, "supercategory": "animals"} for c in data["categories"]]
    data["categories"][0] |= {"name": "animals", "supercategory": "none"}
    code, report, _ = _run(capsys, write(tmp_path, data), images)
    assert code == 0 and "'animals', is no class: Roboflow" in report and "no box: name animals" not in report


def test_categories_take_the_ids_of_another_file(tmp_path, capsys):
    train = write(tmp_path, small(), "train.json")
    data = small()
    data["categories"] = [{"id": 1, "name": "dog"}, {"id": 9, "name": "cat"}]
    for annotation in data["annotations"]:
        annotation["category_id"] = {9: 1, 3: 9}[annotation["category_id"]]
    val, images, fixed = write(tmp_path, data, "val.json"), tmp_path / "images", tmp_path / "fixed.json"
    code, report, _ = _run(capsys, train, images, "--with", val, images)
    assert code == 1 and "has other ids than" in report and "--categories" in report
    _run(capsys, val, images, "--fix", fixed, "--categories", train)
    result = json.loads(fixed.read_text())
    assert result["categories"] == small()["categories"]
    assert [a["category_id"] for a in result["annotations"]] == [a["category_id"] for a in small()["annotations"]]


def _with_placeholder(data, name="animals"):
    data["categories"] = [{**category, "supercategory": name} for category in data["categories"]]
    data["categories"].insert(0, {"id": 0, "name": name, "supercategory": "none"})
    return data


@pytest.mark.parametrize("of_train", [True, False])
def test_the_placeholder_of_one_split_is_no_category_of_the_other(tmp_path, capsys, of_train):
    val = small()
    val["categories"] = [{"id": 1, "name": "dog"}, {"id": 9, "name": "cat"}]
    for annotation in val["annotations"]:
        annotation["category_id"] = {9: 1, 3: 9}[annotation["category_id"]]
    train = write(tmp_path, _with_placeholder(small()) if of_train else small(), "train.json")
    val = write(tmp_path, val if of_train else _with_placeholder(val), "val.json")
    images, fixed = tmp_path / "images", tmp_path / "fixed.json"
    report = _run(capsys, train, images, "--with", val, images)[1]
    assert "has other ids than" in report and "lacks" not in report
    code, report, error = _run(capsys, val, images, "--fix", fixed, "--categories", train)
    assert code == 0 and "animals" not in json.loads(fixed.read_text())["categories"][0]["name"], error
    assert ("left out: category 0, 'animals', is no class" in report) is not of_train
    match_categories(load_index(train), load_index(fixed))
    assert _code(train, images, "--with", fixed, images) == 0


def test_a_placeholder_with_boxes_and_the_name_of_a_class_is_reported(tmp_path, capsys):
    data = _with_placeholder(small(), "dog")
    images, fixed = tmp_path / "images", tmp_path / "fixed.json"
    assert _run(capsys, write(tmp_path, data), images)[0] == 0
    data["annotations"][0]["category_id"] = 0
    path = write(tmp_path, data)
    code, report, _ = _run(capsys, path, images, "--fix", fixed, "--merge-categories")
    assert code == 1 and "category 0 has boxes and the name of another category, 'dog'" in report
    load_index(fixed)
    assert _run(capsys, fixed, images)[0] == 0


def test_the_lists_of_lvis_take_the_ids_of_their_categories(tmp_path, capsys):
    data = small()
    train = write(tmp_path, {**data, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}, "train.json")
    data["images"][0] |= {"neg_category_ids": [9, 77], "not_exhaustive_category_ids": [3, 9]}  # 77 is no category
    path, images, fixed = write(tmp_path, data), tmp_path / "images", tmp_path / "fixed.json"
    names = {category["id"]: category["name"] for category in data["categories"]}
    assert names == {9: "dog", 3: "cat"}

    def lists():
        image = json.loads(fixed.read_text())["images"][0]
        return image["neg_category_ids"], image["not_exhaustive_category_ids"]

    _run(capsys, path, images, "--fix", fixed, "--categories", train)
    assert lists() == ([2], [1, 2])
    data["categories"][0]["name"] = "cat"
    _run(capsys, write(tmp_path, data), images, "--fix", fixed, "--merge-categories")
    assert lists() == ([9], [9])


def test_the_copy_does_not_replace_the_file_of_categories(tmp_path, capsys):
    path, train = write(tmp_path, small()), write(tmp_path, small(), "train.json")
    before = train.read_bytes()
    arguments = (path, tmp_path / "images", "--categories", train, "--fix", tmp_path / "images/../train.json")
    code, _, error = _run(capsys, *arguments)
    assert code == 2 and "would overwrite the file of --categories" in error and error.count("\n") == 1
    assert train.read_bytes() == before


def test_splits_are_examined_together(tmp_path, capsys):
    data = _drawn(tmp_path / "train")
    other = _drawn(tmp_path / "val", seed=1)
    shutil.copy(tmp_path / "train/images/img1.png", tmp_path / "val/images/img2.png")
    other["annotations"] = [a for a in other["annotations"] if a["category_id"] == 1]
    paths = [_save(tmp_path / name, d) for name, d in (("train", data), ("val", other))]
    code, report, _ = _run(capsys, paths[0], tmp_path / "train/images", "--with", paths[1], tmp_path / "val/images")
    assert code == 0 and f"1 of 10 images of {paths[1]} are in {paths[0]} too, by content: id 2" in report
    assert f"{paths[1]} has no box of 1 category: blue" in report
    splits = [f"data.train.annotations={paths[0]}", f"data.train.images={tmp_path / 'train/images'}"]
    splits += [f"data.val.annotations={paths[1]}", f"data.val.images={tmp_path / 'val/images'}"]
    code, by_config, _ = _run(capsys, "finetune", *splits)
    assert code == 0 and by_config == report


def test_dark_crowded_and_relabeled_sets_are_remarked_on(tmp_path, capsys):
    data = small()
    data["annotations"] += [
        {**data["annotations"][0], "id": 100 + i, "bbox": [i % 10, i // 10, 3, 3]} for i in range(101)
    ]
    data["annotations"].append({**data["annotations"][0], "id": 300, "category_id": 3, "area": 500})
    path = write(tmp_path, data)
    Image.fromarray(np.full((30, 40), 3, np.uint8)).save(tmp_path / "images/a.png")
    Image.fromarray(np.arange(1000, dtype=np.uint16).reshape(50, 20) * 4).save(tmp_path / "images/sub/b.png")
    code, report, _ = _run(capsys, path, tmp_path / "images")
    for words in (
        "1 images are nearly black",
        "1 images have 12 bits a color: 4095 is read as white: id 10",
        "1 images have more than 100 objects (up to 104)",
        "1 boxes repeat another of their image with another category",
        "areas are larger than their box",
    ):  # fmt: skip
        assert words in report, words
    assert code == 0


def test_ignored_objects_thin_boxes_and_empty_images_are_remarked_on(tmp_path, capsys):
    data = small()
    more = {"image_id": 20, "category_id": 3, "area": 0.5}
    data["annotations"][0]["ignore"] = 1
    data["annotations"][1]["ignore"] = 1  # a crowd region, which is left out
    data["annotations"][2]["difficult"] = "0"
    data["annotations"] += [
        {"id": 50, **more, "bbox": [1, 1, 9, 9], "difficult": True},
        {"id": 51, **more, "bbox": [0.4, 0.2, 0.1, 0.3]},
        {"id": 52, **more, "bbox": [3, 3, 1, 1]},
    ]
    path = write(tmp_path, data)
    Image.new("RGBA", (40, 30), (9, 99, 199, 0)).save(tmp_path / "images/a.png")
    code, report, _ = _run(capsys, path, tmp_path / "images")
    for words in (
        "2 annotations have ignore or difficult 1, which is not read; iscrowd 1 leaves them out: id 7, 50",
        "1 boxes are less than a pixel wide or high: id 51",
        "1 images have one color alone (what is transparent is read as white): id 20",
    ):
        assert words in report, words
    assert code == 0


def test_boxes_that_cvat_rotates_after_its_coco_export_are_remarked_on(tmp_path, capsys):
    data = small()
    rotations = ({"rotation": 30.0}, {"rotation": 180}, {"rotation": 0.0, "occluded": False}, {"rotation": -90})
    for annotation, attributes in zip(data["annotations"], rotations, strict=True):
        annotation["attributes"] = attributes
    data["annotations"] += [
        {"id": 60 + k, "image_id": 20, "category_id": 3, "bbox": [3 + k, 3, 9, 9], "attributes": attributes}
        for k, attributes in enumerate(([30], {"rotation": None}, {"rotation": float("nan")}, "rotation"))
    ]
    code, report, _ = _run(capsys, write(tmp_path, data), tmp_path / "images")
    assert "2 annotations have attributes.rotation, but bbox is the box before that" in report
    assert "`detection convert --from cvat`: id 7, 0" in report
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--boxes", "xy"], "no such reading"),
        (["--drop-boxes"], "are for --fix"),
        (["--fix", "."], "is a folder"),
        (["extra"], "folder of images"),
    ],
)
def test_wrong_arguments(tmp_path, capsys, arguments, words):
    code, _, error = _run(capsys, write(tmp_path, small()), tmp_path / "images", *arguments)
    assert code == 2 and words in error and error.count("\n") == 1


def test_hostile_names_are_escaped(tmp_path, capsys):
    data = small()
    names = [name for name in KINDS if name.strip()]
    row = {**data["annotations"][0], "bbox": [30, 2, 9, 4]}  # outside
    data["categories"] += [{"id": 100 + k, "name": name} for k, name in enumerate([*names, *names[:2]])]
    data["annotations"] += [{**row, "id": 100 + k, "category_id": 100 + k} for k in range(len(names))]
    data["annotations"] += [{**row, "id": name} for name in names]
    data["images"] += [{"id": 100 + k, "file_name": name, "width": 9, "height": 9} for k, name in enumerate(names)]
    folder = tmp_path / "\x1b[1mtwo\nlines"
    path = write(tmp_path, data, "\u202ea.json", images=False)
    for name in ("a.png", "sub/b.png", "c.png", "\x1b[31mred.png", "two\nfile.png"):
        write_image(folder / name, 20, 20)
    assert _code(path, folder, "--with", path, folder) == 1
    report = printed(capsys)
    assert r"\x1b[31mred" in report and r"two\nfile.png" in report and "a.json, images in" in report
    assert _code(path, folder, "--fix", tmp_path / "\x1b[1mfixed.json", "--drop-boxes", "--merge-categories") == 1
    assert r"Repaired copy" in printed(capsys)


def test_annotations_of_masks_alone_get_their_boxes(tmp_path, capsys):
    """Values worked by hand; segmentation tools write no box, a null or an empty one."""
    data = small()
    square = [[2, 3, 8, 3, 8, 7, 2, 7], [1, 3, 2, 3, 2, 4]]
    masks = {
        "polygons": {"segmentation": square},
        "null": {"segmentation": square, "bbox": None, "area": 5},
        "empty": {"segmentation": square[0], "bbox": []},
        "flat": {"segmentation": square, "bbox": [0, 0, 0, 0]},
        "rle": {"segmentation": {"size": [30, 40], "counts": [30 + 4, 2, 28, 2, 30 * 37 + 24]}},
        "a box": {"segmentation": square, "bbox": [0, 0, 9, 9], "area": 81},
    }
    image = data["images"][0]["id"]
    data["images"][0] |= {"width": 40, "height": 30}
    data["annotations"] = [
        {"id": number, "image_id": image, "category_id": 3, **given} for number, given in enumerate(masks.values(), 1)
    ]
    path = write(tmp_path, data)
    _, report, _ = _run(capsys, path, tmp_path / "images", "--fix", tmp_path / "fixed.json")
    assert "took from their masks the boxes of 5 annotations (without a box of their own): id 1, 2, 3, 4, 5" in report
    found = json.loads((tmp_path / "fixed.json").read_text())["annotations"]
    assert [a["bbox"] for a in found] == [[1, 3, 7, 4]] * 2 + [[2, 3, 6, 4], [1, 3, 7, 4], [1, 4, 2, 2], [0, 0, 9, 9]]
    assert [a["area"] for a in found] == [24.5, 5, 24, 24.5, 4, 81]
    assert _code(tmp_path / "fixed.json", tmp_path / "images", "--masks") == 0


@pytest.mark.parametrize(
    "mask",
    [
        [], None, [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [[1, 1, 5, 1, 9, 1]], [["a"] * 6], [[0, 0, 5, 0, 5, 1e10]],
        {"size": [30, 40], "counts": [1200]}, {"size": [30, 40], "counts": "?"}, {"size": [30, 40], "counts": [5, 5]},
    ],
)  # fmt: skip
def test_a_mask_that_is_none_gives_no_box(tmp_path, capsys, mask):
    data = small()
    data["annotations"][0] = {k: v for k, v in data["annotations"][0].items() if k != "bbox"} | {"segmentation": mask}
    path = write(tmp_path, data)
    _, report, _ = _run(capsys, path, tmp_path / "images", "--fix", tmp_path / "fixed.json")
    assert "left out 1 annotation (missing bbox)" in report


def test_run_lengths_of_another_size_than_their_image_give_no_box(tmp_path, capsys):
    """Swapped sides and masks at a network's own size are the usual mistakes."""
    data = small()
    image = data["images"][0]
    image |= {"width": 40, "height": 30}
    masks = [{"size": size, "counts": [4, 2, size[0] * size[1] - 6]} for size in ([40, 30], [15, 20], [30, 40])]
    data["annotations"] = [
        {"id": number, "image_id": image["id"], "category_id": 3, "segmentation": mask}
        for number, mask in enumerate(masks, 1)
    ]
    path = write(tmp_path, data)
    code, report, _ = _run(capsys, path, tmp_path / "images", "--fix", tmp_path / "fixed.json", "--drop-boxes")
    words = "annotation 1 has no box, and run lengths of height and width [40, 30], but those of its image are [30, 40]"
    assert code == 1 and f"{words} (1 more like it)" in report
    assert "the boxes of 1 annotation (without a box of their own): id 3" in report
    assert [a["bbox"] for a in json.loads((tmp_path / "fixed.json").read_text())["annotations"]] == [[0, 4, 1, 2]]


def masked_set(folder, orientation):
    """Two images of 40x30 stored pixels with an EXIF orientation, an annotation each with a polygon and no box."""
    data = small()
    data["images"], data["annotations"] = [], []
    exif = Image.Exif()
    exif[274] = orientation
    for number in (1, 2):
        name = f"{number}.jpg"
        (folder / "images").mkdir(exist_ok=True)
        Image.effect_noise((40, 30), 40).convert("RGB").save(folder / "images" / name, exif=exif)
        data["images"].append({"id": number, "file_name": name, "width": 40, "height": 30})
        outline = [[2, 3, 12, 3, 12, 8, 2, 8]]
        data["annotations"].append({"id": number, "image_id": number, "category_id": 3, "segmentation": outline})
    return data


def test_masks_drawn_on_stored_pixels_are_asked_about_as_boxes_are(tmp_path, capsys):
    """EXIF 6: stored (x, y) of 40x30 is upright (30 − y, x) of 30x40."""
    path = write(tmp_path, masked_set(tmp_path, 6), images=False)
    code, _, error = _run(capsys, path, tmp_path / "images", "--fix", tmp_path / "fixed.json")
    assert code == 2 and "--boxes raw turns them with the image" in error
    assert _code(path, tmp_path / "images", "--fix", tmp_path / "fixed.json", "--boxes", "raw") == 1
    fixed = json.loads((tmp_path / "fixed.json").read_text())
    assert [a["bbox"] for a in fixed["annotations"]] == [[22, 2, 5, 10]] * 2
    assert fixed["annotations"][0]["segmentation"] == [[27, 2, 27, 12, 22, 12, 22, 2]]


def test_a_reading_that_is_given_holds_for_masks_but_for_their_order(tmp_path, capsys):
    data = masked_set(tmp_path, 1)
    data["annotations"][0]["segmentation"] = [[0.1, 0.2, 0.5, 0.2, 0.5, 0.4]]
    data["annotations"][1]["segmentation"] = {"size": [30, 40], "counts": [34, 2, 28, 2, 30 * 40 - 66]}
    data["annotations"].append({"id": 3, "image_id": 1, "category_id": 3, "bbox": [0.1, 0.2, 0.5, 0.4], "area": 0.08})
    path = write(tmp_path, data, images=False)
    assert _code(path, tmp_path / "images", "--fix", tmp_path / "fixed.json", "--boxes", "xyxy/1") == 1
    fixed = json.loads((tmp_path / "fixed.json").read_text())["annotations"]
    assert [a["bbox"] for a in fixed] == [[4, 6, 16, 6], [1, 4, 2, 2], [4, 6, 16, 6]]
    assert [a["area"] for a in fixed] == pytest.approx([48, 4, 96])
    assert "segmentation" in fixed[1]  # its pixels need no conversion


def test_images_of_one_file_that_have_different_objects_are_joined(tmp_path, capsys):
    """Some exporters write an image for each box: the others' objects would be background."""
    data = small()
    data["images"] = [{"id": n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate("aabbcc", 1)]
    for image in data["images"]:
        image["file_name"] += ".png"
    boxes = {1: [1, 1, 9, 9], 2: [20, 5, 9, 9], 3: [5, 5, 10, 10], 4: [6, 5, 10, 10], 5: [5, 5, 10, 10]}
    data["annotations"] = [
        {"id": n, "image_id": n, "category_id": 3, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, box in boxes.items()
    ]
    path = write(tmp_path, data)
    _, report, _ = _run(capsys, path, tmp_path / "images", "--fix", tmp_path / "fixed.json")
    assert "1 files are listed as several images with different objects, which are background in one" in report
    assert "--fix OUT.json joins them: file a.png" in report
    assert "2 files are listed as several images: file b.png, c.png" in report
    assert "joined 1 image (with another of the same file, which had others of its objects): id 2" in report
    fixed = json.loads((tmp_path / "fixed.json").read_text())
    assert [image["id"] for image in fixed["images"]] == [1, 3, 4, 5, 6]
    assert [a["image_id"] for a in fixed["annotations"]] == [1, 1, 3, 4, 5]
    data["annotations"][3]["category_id"] = 9  # another object in the same place
    divided = divided_files([image["file_name"] for image in data["images"]], objects_of_tables(examine(data, path)[0]))
    assert divided == {"a.png": [0, 1], "b.png": [2, 3]}


def test_masks_that_a_tool_has_made_crowd_regions_are_named(tmp_path, capsys):
    data = small()
    mask = {"iscrowd": 1, "segmentation": {"size": [9, 9], "counts": [40, 1, 40]}}
    data["annotations"][1] |= mask
    _, report, _ = _run(capsys, write(tmp_path, data), tmp_path / "images")
    assert "drawn with a brush" not in report
    data["annotations"][1]["attributes"] = {"occluded": False}
    _, report, _ = _run(capsys, write(tmp_path, data), tmp_path / "images")
    assert "1 crowd regions have run lengths and attributes, as CVAT exports" in report
    assert f"set its iscrowd to 0: id {data['annotations'][1]['id']}" in report


def test_run_lengths_are_held_against_the_listed_size_of_their_own_image():
    mask = {"size": [3, 4], "counts": [4, 2, 6]}
    images = [{"id": 1, "height": 3, "width": 4}, {"id": 2}, {"file_name": "x"}]
    annotations = [{"id": n, "image_id": n, "segmentation": mask} for n in (1, 2, 3, None)]
    found = with_boxes_of_masks({"images": images, "annotations": annotations})
    assert found.rows == (0, 2, 3) and found.data["annotations"][0]["bbox"] == [1, 1, 1, 2]
    assert found.fault is not None and "annotation 2 has no box" in found.fault
    assert "[3, 4], but no size is listed for its image: write masks" in found.fault
