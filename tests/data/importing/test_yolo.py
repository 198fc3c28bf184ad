"""YOLO data sets of all layouts, lines of all kinds, and what every kind of bad input gets."""

import json

import numpy as np
import pytest

from detection.data.folder_layout import SplitFiles, find_splits
from detection.data.importing.yolo import looks_like_pose
from tests.data.importing.formats import (
    HEIGHT,
    WIDTH,
    add_image,
    add_text,
    boxes_of,
    converted,
    fails,
    read,
    same_boxes,
    sample,
)

BOX = "0 0.5 0.5 0.25 0.5\n"
ITS_BOX = [30, 10, 20, 20]


def small(root, line=BOX, yaml="names: [cat, dog]\ntrain: images\n"):
    add_image(root / "images/a.jpg")
    add_text(root / "labels/a.txt", line)
    add_text(root / "data.yaml", yaml)
    return root


@pytest.mark.parametrize("layout", ["{kind}/{split}/{name}", "{split}/{kind}/{name}"])
def test_all_splits_of_a_folder_are_converted_and_examined(tmp_path, capsys, layout):
    yaml = "path: ../nowhere\nnc: 2\nnames:\n- cat\n- 'no'\n"
    for key, split in (("train", "train"), ("val", "valid"), ("test", "test")):
        add_image(tmp_path / layout.format(kind="images", split=split, name=f"{split}.jpg"))
        add_text(tmp_path / layout.format(kind="labels", split=split, name=f"{split}.txt"), BOX)
        yaml += f"{key}: ../{layout.format(kind='images', split=split, name='').rstrip('/')}\n"
    add_image(tmp_path / layout.format(kind="images", split="train", name="negative.jpg"))
    add_image(tmp_path / layout.format(kind="images", split="train", name="empty.jpg"))
    add_text(tmp_path / layout.format(kind="labels", split="train", name="empty.txt"), "\n")
    add_text(tmp_path / layout.format(kind="labels", split="train", name="orphan.txt"), BOX)
    add_text(tmp_path / "data.yaml", yaml)
    assert converted("yolo", tmp_path) == 0
    for split in ("train", "val", "test"):
        data = read(tmp_path / f"annotations/{split}.json")
        assert data["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "no"}]
        assert data["annotations"][0]["bbox"] == ITS_BOX and data["annotations"][0]["id"] == 1
    assert len(read(tmp_path / "annotations/train.json")["images"]) == 3
    text = capsys.readouterr().out
    for words in (
        "3 images, 1 boxes (cat 1, no 0)", "without a label file, negatives: 1", "empty label file, negatives: 1",
        "belong to no image, not read: 1", "path: ../nowhere is not there", "Worth checking", "Fit for training.",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize(
    "line, encoding, boxes",
    [
        ("0.0 0.5 0.5 0.25 0.5", "utf-8", [("cat", ITS_BOX)]),
        ("0 0.5 0.5 0.25 0.5\r\n1 0.5 0.5 0.25 0.5  \r\n\r\n", "utf-8", [("cat", ITS_BOX), ("dog", ITS_BOX)]),
        ("1\t0.5\t0.5\t0.25\t0.5\t", "utf-8-sig", [("dog", ITS_BOX)]),
        (BOX, "utf-16", [("cat", ITS_BOX)]),
        ("0 0 0 0.5 0.5", "utf-8", [("cat", [0, 0, 20, 10])]),
        ("0 0.25 0.25 0.75 0.25 0.5 0.75", "utf-8", [("cat", [20, 10, 40, 20])]),
        ("0 0.5 0 1.02 0.5 0.5 1.02 0 0.5", "utf-8", [("cat", [0, 0, 80, 40])]),
        ("0 0.5 0.5 0 0.5\n" + BOX, "utf-8", [("cat", ITS_BOX)]),
    ],
)
def test_lines_of_all_kinds(tmp_path, line, encoding, boxes):
    add_text(small(tmp_path) / "labels/a.txt", line, encoding)
    assert converted("yolo", tmp_path, "--no-check") == 0
    assert boxes_of(read(tmp_path / "annotations/train.json")) == {"a": boxes}


def test_what_is_changed_or_left_out_is_counted(tmp_path, capsys):
    lines = ["0 0 0 0.5 0.5", "0 0.25 0.25 0.75 0.25 0.5 0.75", "0 0.5 0 1 0.5 0.5 1 0 0.5", "0 0.5 0.5 0 0.5"]
    small(tmp_path, "\n".join(lines))
    assert converted("yolo", tmp_path, "--no-check") == 0
    text = capsys.readouterr().out
    for words in (
        "rotated boxes, or outlines of four points, as the upright boxes around them: 1",
        "outlines, as the upright boxes around them: 1",
        "clipped to their image: 1 (if many, lines may not be center x, center y, width, height)",
        "without size, left out: 1",
        "a.txt, line 4",
    ):  # fmt: skip
        assert words in text, words
    outline, rotated = read(tmp_path / "annotations/train.json")["annotations"][1:]
    assert outline["segmentation"] == [[20, 10, 60, 10, 40, 30]] and outline["area"] == 400
    assert rotated["bbox"] == [0, 0, 80, 40] and rotated["area"] == 1600


def test_keypoints_are_left_out_where_the_yaml_has_them(tmp_path, capsys):
    small(tmp_path, "0 0.5 0.5 0.25 0.5 0.1 0.1 2 0.2 0.2 1", "names: [cat]\ntrain: images\nkpt_shape: [2, 3]\n")
    assert converted("yolo", tmp_path, "--no-check") == 0
    assert read(tmp_path / "annotations/train.json")["annotations"][0]["bbox"] == ITS_BOX
    assert "keypoints of boxes, left out: 1" in capsys.readouterr().out


POSES = """0 0.5 0.5 0.1 0.2 0.46 0.42 0.54 0.55
0 0.7 0.6 0.2 0.3 0 0 0.62 0.7
0 0.3 0.7 0.1 0.3 0.26 0.6 0.34 0.8
"""
OUTLINES = """0 0.4 0.3 0.6 0.3 0.6 0.7 0.4 0.7
0 0.5 0.5 0.9 0.5 0.8 0.9
0 0.1 0.1 0.3 0.12 0.25 0.3 0.12 0.28
0 0.62 0.5 0.6 0.51 0.61 0.53 0.63 0.52
"""


def test_boxes_with_keypoints_are_no_outlines(tmp_path, capsys):
    """Two keypoints of two numbers make as many values as an outline of four points."""
    small(tmp_path, POSES)
    words = ("a.txt, line 1: 3 of 3 lines of more than 5 values look like a box", "--points keypoints", "outlines")
    fails(capsys, words, "yolo", tmp_path)
    assert not (tmp_path / "annotations").exists()
    assert converted("yolo", tmp_path, "--points", "keypoints", "--no-check") == 0
    found = read(tmp_path / "annotations/train.json")["annotations"]
    assert [a["bbox"] for a in found] == [[36, 16, 8, 8], [48, 18, 16, 12], [20, 22, 8, 12]]
    assert converted("yolo", tmp_path, "--points", "outlines", "--no-check") == 0
    assert read(tmp_path / "annotations/train.json")["annotations"][0]["bbox"] == [8, 8, 35.2, 14]
    small(tmp_path, POSES.rsplit("\n", 2)[0])  # two lines show nothing
    assert converted("yolo", tmp_path, "--no-check") == 0
    small(tmp_path, "0 0.5 0.5 0.25 0.5 0.375 0.25 0.625 0.5 0.5 0.75\n" * 3)  # an outline behind its box
    fails(capsys, ("look like a box with its keypoints or its outline behind it",), "yolo", tmp_path)


def test_outlines_are_no_keypoints(tmp_path):
    small(tmp_path, OUTLINES * 2 + POSES.splitlines()[0])
    assert converted("yolo", tmp_path, "--no-check") == 0
    boxes = [a["bbox"] for a in read(tmp_path / "annotations/train.json")["annotations"]]
    assert boxes[:2] == [[32, 12, 16, 16], [40, 20, 32, 16]] and len(boxes) == 9


@pytest.mark.parametrize("seed", range(3))
def test_random_outlines_and_poses_are_told_apart(seed):
    draw = np.random.default_rng(seed)
    size, corners = draw.uniform(0.03, 0.5, 300), draw.integers(3, 20, 300)
    centers = draw.uniform(size[:, None] / 2, 1 - size[:, None] / 2, (300, 2))
    outlines, poses = [], []
    for s, n, center in zip(size, corners, centers, strict=True):
        turn, radius = np.sort(draw.uniform(0, 2 * np.pi, n)), draw.uniform(0.3, 1, n) * s / 2
        outlines.append([*(center + np.stack([np.cos(turn), np.sin(turn)], 1) * radius[:, None]).ravel()])
        poses.append([*center, s, s, *draw.uniform(center - s / 2, center + s / 2, (n, 2)).ravel()])
    assert np.mean([looks_like_pose(values) for values in outlines]) < 0.05
    assert np.mean([looks_like_pose(values) for values in poses]) > 0.4


def test_shares_are_of_the_image_as_it_is_shown(tmp_path):
    small(tmp_path)
    add_image(tmp_path / "images/a.jpg", WIDTH, HEIGHT, orientation=6)
    assert converted("yolo", tmp_path) == 0
    data = read(tmp_path / "annotations/train.json")
    assert (data["images"][0]["width"], data["images"][0]["height"]) == (HEIGHT, WIDTH)
    assert data["annotations"][0]["bbox"] == [15, 20, 10, 40]


@pytest.mark.parametrize(
    "names, expected",
    [
        ("{1: dog, 0: cat}", ["cat", "dog"]),
        ("\n  0: cat\n  5: dog\n", ["cat", "dog"]),
        ("['yes', 1.0]", ["yes", "1.0"]),
        ("\n- cat # a comment\n- 'big: dog'", ["cat", "big: dog"]),
    ],
)
def test_names_are_a_list_or_numbered(tmp_path, names, expected):
    small(tmp_path, yaml=f"train: images\nnames: {names}\n")
    assert converted("yolo", tmp_path, "--no-check") == 0
    categories = read(tmp_path / "annotations/train.json")["categories"]
    assert categories == [{"id": i, "name": name} for i, name in enumerate(expected, 1)]


def test_splits_may_be_lists_of_images_and_several_folders(tmp_path):
    for folder, name in (("images/one", "a"), ("images/two", "b"), ("images/two", "c")):
        add_image(tmp_path / folder / f"{name}.jpg")
        add_text(tmp_path / folder.replace("images", "labels") / f"{name}.txt", BOX)
    add_text(tmp_path / "val.txt", "./images/two/c.jpg\r\n/content/data/images/two/b.jpg\n")
    add_text(tmp_path / "my.yaml", "train:\n  - images/one\n  - images/two\nval: val.txt\nnames: {0: cat}\n")
    assert converted("yolo", tmp_path / "my.yaml", tmp_path / "out", "--no-check") == 0
    train, val = read(tmp_path / "out/train.json"), read(tmp_path / "out/val.json")
    assert [image["file_name"] for image in train["images"]] == ["one/a.jpg", "two/b.jpg", "two/c.jpg"]
    assert [image["file_name"] for image in val["images"]] == ["c.jpg", "b.jpg"]


def darknet(root, train):
    for name in ("a", "b", "c", "d"):
        add_image(root / f"obj/{name}.jpg")
        add_text(root / f"obj/{name}.txt", BOX)
    add_text(root / "obj.names", "cat\ndog\n")
    add_text(root / "train.txt", train)
    add_text(root / "valid.txt", "data/obj/c.jpg\n")


def test_lists_of_darknet_are_splits_and_what_is_in_none_is_counted(tmp_path, capsys):
    darknet(tmp_path, "\ndata/obj/a.jpg\ndata/obj/b.jpg\n")
    assert converted("yolo", tmp_path) == 0
    images = {split: read(tmp_path / f"annotations/{split}.json")["images"] for split in ("train", "val")}
    assert {split: [i["file_name"] for i in found] for split, found in images.items()} == {
        "train": ["a.jpg", "b.jpg"],
        "val": ["c.jpg"],
    }
    assert f"1 images of {tmp_path} are in none of train.txt, valid.txt, and are left out" in capsys.readouterr().out


def test_a_text_that_lists_no_images_is_no_split(tmp_path):
    darknet(tmp_path, "trained in spring\n")
    (tmp_path / "valid.txt").unlink()
    assert converted("yolo", tmp_path) == 0
    assert len(read(tmp_path / "annotations/all.json")["images"]) == 4


def test_labels_may_be_next_to_images_and_classes_in_a_list(tmp_path):
    add_image(tmp_path / "a.jpg")
    add_text(tmp_path / "a.txt", BOX)
    add_text(tmp_path / "classes.txt", "big cat\r\ndog\r\n\r\n")
    assert converted("yolo", tmp_path, "--no-check") == 0
    data = read(tmp_path / "annotations/all.json")
    assert [c["name"] for c in data["categories"]] == ["big cat", "dog"] and len(data["annotations"]) == 1


def test_two_folders_make_one_file(tmp_path, capsys):
    add_image(tmp_path / "photos/sub/a.jpg")
    add_text(tmp_path / "texts/sub/a.txt", "1 0.5 0.5 0.25 0.5")
    arguments = (tmp_path / "texts", tmp_path / "photos", tmp_path / "out.json")
    fails(capsys, ("no class names", "--categories"), "yolo", *arguments)
    assert converted("yolo", *arguments, "--categories=cat,dog") == 0
    assert boxes_of(read(tmp_path / "out.json")) == {"a": [("dog", ITS_BOX)]}
    (tmp_path / "other.json").write_text(
        json.dumps({"categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}]})
    )
    add_text(tmp_path / "texts/classes.txt", "cat\ndog\n")
    assert converted("yolo", *arguments, f"--categories={tmp_path / 'other.json'}") == 0
    assert read(tmp_path / "out.json")["annotations"][0]["category_id"] == 9
    assert converted("yolo", *arguments, f"--categories={tmp_path / 'texts/classes.txt'}") == 0


@pytest.mark.parametrize(
    "line, words",
    [
        ("0 0.5 0.5 0.5", ("a.txt, line 2", "4 values")),
        ("0 0.5 0.5 0.5 0.5 0.9", ("line 2", "confidence")),
        ("2 0.5 0.5 0.5 0.5", ("line 2", "class 2", "data.yaml", "0, 1")),
        ("0.5 0.5 0.5 0.5 0.5", ("line 2", "class 0.5")),
        ("-1 0.5 0.5 0.5 0.5", ("line 2", "class -1")),
        ("cat 0.5 0.5 0.5 0.5", ("line 2", "'cat' is not a number")),
        ("0 nan 0.5 0.5 0.5", ("line 2", "'nan'")),
        ("0 320 240 100 80", ("line 2", "320 is no share", "divide pixels")),
        ("0,0.5,0.5,0.5,0.5", ("line 2", "not a number")),
    ],
)
def test_a_bad_line_is_named(tmp_path, capsys, line, words):
    small(tmp_path, f"{BOX}{line}\n")
    fails(capsys, words, "yolo", tmp_path)
    assert not (tmp_path / "annotations").exists()


@pytest.mark.parametrize(
    "yaml, words",
    [
        ("names: [cat\ntrain: images\n", ("data.yaml, line 2", "no valid YAML")),
        ("names: [cat, cat]\ntrain: images\n", ("both called 'cat'",)),
        ("names: cat\ntrain: images\n", ("names must be a list",)),
        ("names: [cat, '']\ntrain: images\n", ("class 1", "not a name")),
        ("names: [cat]\nnc: 2\ntrain: images\n", ("nc is 2", "1 classes")),
        ("names: [cat]\n", ("names no images",)),
        ("names: [cat]\ntrain: photos\n", ("train is photos", "correct the path")),
        ("names: [cat]\ntrain: images\nval: x\nvalid: y\n", ("both val and valid",)),
        ("names: [cat]\ntrain: labels\n", ("no image", "train")),
        ("names: [cat]\ntrain: list.txt\n", ("list.txt, line 2", "b.jpg")),
        ("- cat\n", ("no data.yaml",)),
        ("train: images\n", ("no class names",)),
    ],
)
def test_a_bad_yaml_is_named(tmp_path, capsys, yaml, words):
    add_text(small(tmp_path, yaml=yaml) / "list.txt", "images/a.jpg\nimages/b.jpg\n")
    fails(capsys, words, "yolo", tmp_path)
    assert not (tmp_path / "annotations").exists()


def test_bad_folders_and_images_are_named(tmp_path, capsys):
    fails(capsys, ("no such folder",), "yolo", tmp_path / "nothing")
    small(tmp_path)
    fails(capsys, ("OUT_FOLDER",), "yolo", tmp_path, tmp_path / "out.json")
    fails(capsys, ("at most",), "yolo", tmp_path, tmp_path, tmp_path, tmp_path)
    fails(capsys, ("is no folder", "LABELS"), "yolo", tmp_path / "x", tmp_path / "images", tmp_path / "out.json")
    (tmp_path / "labels/a.txt").unlink()
    fails(capsys, ("none of the 1 images has a label file", "labels"), "yolo", tmp_path)
    add_text(tmp_path / "labels/a.txt", "0 \xe9", "latin-1")
    fails(capsys, ("a.txt", "not encoded in UTF-8"), "yolo", tmp_path)
    (tmp_path / "images/a.jpg").write_bytes(b"")
    fails(capsys, ("a.jpg", "is empty"), "yolo", tmp_path)


def with_splits(root, *unlabeled: str):
    yaml = "names: [cat]\n"
    for split in ("train", "val", "test"):
        yaml += f"{split}: images/{split}\n"
        add_image(root / f"images/{split}/{split}.jpg")
        if split not in unlabeled:
            add_text(root / f"labels/{split}/{split}.txt", BOX)
    add_text(root / "data.yaml", yaml)
    return root


def test_a_test_split_without_labels_is_not_converted(tmp_path, capsys):
    add_text(with_splits(tmp_path, "test") / "labels/test/orphan.txt", BOX)
    assert converted("yolo", tmp_path, "--no-check") == 0
    assert sorted(path.name for path in (tmp_path / "annotations").iterdir()) == ["train.json", "val.json"]
    text = capsys.readouterr().out
    assert "test: no image has a label file, not converted" in text and "orphan.txt" in text
    add_text(tmp_path / "data.yaml", "names: [cat]\ntest: images/test\n")
    fails(capsys, ("none of the 1 images has a label file",), "yolo", tmp_path)


def test_another_split_without_labels_may_be_removed(tmp_path, capsys):
    with_splits(tmp_path, "val")
    fails(capsys, ("images/val: none", f"or remove the line `val:` of {tmp_path}/data.yaml"), "yolo", tmp_path)
    assert not (tmp_path / "annotations").exists()


def test_label_files_may_have_a_suffix_in_another_case(tmp_path, capsys):
    small(tmp_path)
    (tmp_path / "labels/a.txt").rename(tmp_path / "labels/a.TXT")
    add_text(tmp_path / "labels/orphan.Txt", BOX)
    assert converted("yolo", tmp_path, "--no-check") == 0
    assert boxes_of(read(tmp_path / "annotations/train.json")) == {"a": [("cat", ITS_BOX)]}
    assert "belong to no image, not read: 1" in capsys.readouterr().out
    add_text(tmp_path / "labels/a.txt", "1 0.5 0.5 0.25 0.5")
    assert converted("yolo", tmp_path, "--no-check") == 0
    assert boxes_of(read(tmp_path / "annotations/train.json")) == {"a": [("dog", ITS_BOX)]}
    assert "belong to no image, not read: 2" in capsys.readouterr().out


def test_two_yaml_files_need_a_choice_and_other_ones_do_not_count(tmp_path, capsys):
    small(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "one.yaml")
    add_text(tmp_path / "settings.yaml", "epochs: 3\n")
    assert converted("yolo", tmp_path, "--no-check") == 0
    add_text(tmp_path / "two.yaml", "names: [x]\ntrain: images\n")
    fails(capsys, ("one.yaml, two.yaml",), "yolo", tmp_path)


def test_annotations_of_another_origin_are_not_overwritten(tmp_path, capsys):
    small(tmp_path)
    for _ in range(2):
        assert converted("yolo", tmp_path, "--no-check") == 0
    add_text(tmp_path / "annotations/train.json", "{}")
    fails(capsys, ("train.json is there already", "OUT_FOLDER"), "yolo", tmp_path)
    (tmp_path / "data.yaml").write_bytes(b"PK\x03\x04")
    fails(capsys, ("data.yaml is a zip archive",), "yolo", tmp_path)


def test_there_and_back(tmp_path):
    hotcoco = pytest.importorskip("hotcoco")
    coco = sample(tmp_path / "images")
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    hotcoco.COCO(str(tmp_path / "coco.json")).to_yolo(str(tmp_path / "labels"))
    assert converted("yolo", tmp_path / "labels", tmp_path / "images", tmp_path / "again.json") == 0
    assert same_boxes(read(tmp_path / "again.json"), coco)


def test_how_to_train_is_printed_and_true(tmp_path, capsys):
    for split in ("train", "val"):
        add_image(tmp_path / f"images/{split}/{split}.jpg")
        add_text(tmp_path / f"labels/{split}/{split}.txt", BOX)
    add_text(tmp_path / "classes.txt", "cat\n")
    assert converted("yolo", tmp_path, "--no-check", tmp_path / "out") == 0
    key = f"data.val.annotations={tmp_path}/out/val.json data.val.images={tmp_path}/images/val"
    assert key in capsys.readouterr().out
    assert converted("yolo", tmp_path, "--no-check") == 0
    assert f"train on it by data={tmp_path}\n" in capsys.readouterr().out
    found = find_splits(tmp_path)
    assert found["val"] == SplitFiles(tmp_path / "annotations/val.json", tmp_path / "images/val")
    for split in ("train", "val"):
        (tmp_path / f"images/{split}/{split}.jpg").rename(tmp_path / f"images/{split}.jpg")
        (tmp_path / f"labels/{split}/{split}.txt").rename(tmp_path / f"labels/{split}.txt")
        (tmp_path / f"images/{split}").rmdir()
    assert converted("yolo", tmp_path, tmp_path / "all", "--no-check") == 0
    assert f"detection split {tmp_path}/all/all.json --fractions" in capsys.readouterr().out
