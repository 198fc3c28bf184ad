"""Each thing that can be wrong with an annotation file gets one sentence: file, id, key, remedy."""

import gzip
import json
import math
import os

import numpy as np
import pytest

from detection.data.checks import clip_boxes, examine, partly_outside, read_annotations
from detection.data.coco_index import load_index
from detection.errors import UserError
from tests.coco_files import small, write


def _set(section, row, key, value):
    def change(data):
        data[section][row][key] = value

    return change


def _remove(section, row, key):
    def change(data):
        del data[section][row][key]

    return change


def _empty(section):
    def change(data):
        data[section].clear()

    return change


BAD_ENTRIES = [
    (_remove("images", 1, "id"), "image number 1 of the list has no key 'id'"),
    (_remove("images", 1, "file_name"), "image 10 has no key 'file_name'"),
    (_remove("images", 1, "width"), "image 10 has no key 'width'"),
    (_remove("images", 1, "height"), "image 10 has no key 'height'"),
    (_set("images", 0, "width", 0), "image 20 has width 0, which is not a positive number"),
    (_set("images", 0, "height", -3), "image 20 has height -3, which is not a positive number"),
    (_set("images", 0, "height", 30.0), "image 20 has height 30.0, which is not an integer"),
    (_set("images", 0, "width", 2**40), "image 20 has width 1099511627776"),
    (_set("images", 0, "id", "20"), "image '20' has id '20', which is not an integer"),
    (_set("images", 0, "id", 2**70), "over 64 bits"),
    (_set("images", 0, "id", 10), "image 10 has id 10, which another image has too (and 1 more)"),
    (_set("images", 0, "file_name", "../a.png"), "image 20 has file_name '../a.png'"),
    (_set("images", 0, "file_name", "x/../../a.png"), "image 20 has file_name 'x/../../a.png'"),
    (_set("images", 0, "file_name", "/a.png"), "image 20 has file_name '/a.png'"),
    (_set("images", 0, "file_name", ""), "image 20 has file_name ''"),
    (_set("images", 0, "file_name", None), "image 20 has file_name None, which is not a text"),
    (_empty("images"), "lists no images"),
    (_empty("categories"), "lists no categories"),
    (_remove("categories", 0, "id"), "category number 0 of the list has no key 'id'"),
    (_remove("categories", 0, "name"), "category 9 has no key 'name'"),
    (_set("categories", 0, "id", True), "category True has id True, which is not an integer"),
    (_set("categories", 0, "id", 3), "category 3 has id 3, which another category has too"),
    (_set("categories", 0, "name", "cat"), "category 9 has name cat, which another category has too"),
    (_remove("annotations", 1, "id"), "annotation number 1 of the list has no key 'id'"),
    (_remove("annotations", 1, "image_id"), "annotation 5 has no key 'image_id'"),
    (_remove("annotations", 1, "category_id"), "annotation 5 has no key 'category_id'"),
    (_remove("annotations", 1, "bbox"), "annotation 5 has no key 'bbox'"),
    (_set("annotations", 1, "id", 7), "annotation 7 has id 7, which another annotation has too"),
    (_set("annotations", 1, "id", 1.5), "annotation 1.5 has id 1.5, which is not an integer"),
    (_set("annotations", 1, "image_id", 99), "annotation 5 names image_id 99, but the file lists no such image"),
    (_set("annotations", 1, "category_id", 4), "annotation 5 names category_id 4, but the file lists no such category"),
    (_set("annotations", 1, "area", "big"), "annotation 5 has area 'big'"),
    (_set("annotations", 1, "area", None), "annotation 5 has area None"),
    (_set("annotations", 1, "area", math.nan), "annotation 5 has area nan"),
    (_set("annotations", 1, "area", -1), "annotation 5 has area -1"),
    (_set("annotations", 1, "area", 10**400), "annotation 5 has area 1000"),
    (_set("annotations", 1, "iscrowd", 2), "annotation 5 has iscrowd 2"),
    (_set("annotations", 1, "iscrowd", None), "annotation 5 has iscrowd None"),
]

BAD_BOXES = [
    ([1, 2, 3], "is not four numbers"),
    ([1, 2, 3, 4, 5], "is not four numbers"),
    ([1, 2, 3, "4"], "is not four numbers"),
    ([1, 2, 3, None], "is not four numbers"),
    ([1, 2, 3, True], "is not four numbers"),
    ([1, 2, 3, 10**400], "is not four numbers"),
    (None, "is not four numbers"),
    ("1 2 3 4", "is not four numbers"),
    ({"x": 1}, "is not four numbers"),
    ([math.nan, 2, 3, 4], "NaN or infinite"),
    ([1, 2, math.inf, 4], "NaN or infinite"),
    ([1, 2, 0, 4], "width or height is not positive"),
    ([1, 2, 3, -4], "width or height is not positive"),
    ([40, 2, 3, 4], "no area inside the image"),
    ([-5, 2, 5, 4], "no area inside the image"),
    ([1, 30, 3, 4], "no area inside the image"),
    ([1e308, 1, 1e308, 1], "no area inside the image"),
    # Thinner than float32 can tell at this place: training would see a box of no width.
    ([20, 2, 1e-9, 4], "no area inside the image"),
]


@pytest.mark.parametrize(("change", "expected"), BAD_ENTRIES)
def test_a_bad_entry_is_reported_in_one_sentence(tmp_path, change, expected):
    data = small()
    change(data)
    path = write(tmp_path, data, images=False)
    with pytest.raises(UserError) as error:
        load_index(path, cache_dir=tmp_path / "cache")
    sentence = str(error.value)
    assert sentence.startswith(str(path)) and expected in sentence and "\n" not in sentence
    assert sentence.endswith(".") and ". " not in sentence.replace("…", "")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(("box", "expected"), BAD_BOXES)
def test_a_bad_box_is_refused_or_dropped(tmp_path, box, expected):
    data = small()
    data["annotations"][2]["bbox"] = box
    path = write(tmp_path, data, images=False)
    with pytest.raises(UserError) as error:
        load_index(path, cache_dir=tmp_path)
    for part in (str(path), "annotation 6", expected, "detection doctor", "--fix", 'bad_boxes="drop"'):
        assert part in str(error.value)
    index = load_index(path, bad_boxes="drop", cache_dir=tmp_path)
    assert index.counts["dropped"] == 1 and index.annotation_ids.tolist() == [5, 7, 0]


def test_only_bad_boxes_are_dropped(tmp_path):
    data = small()
    data["annotations"][0]["image_id"] = 99
    with pytest.raises(UserError, match="no such image"):
        load_index(write(tmp_path, data, images=False), bad_boxes="drop", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ('{"images": [\n  {"id" 1}]}', "at line 2, column 9"),
        ('{"images": [', "not valid JSON"),
        ("\x00\xff", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "is a results file"),
        ("[]", "holds a list"),
        ("3", "holds a int"),
        ('{"images": [], "annotations": []}', "no key 'categories'"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is a dict"),
        ('{"images": [1], "annotations": [], "categories": []}', "entry 0 of 'images' is 1"),
    ],
)
def test_a_file_that_is_no_annotation_file(tmp_path, content, expected):
    path = tmp_path / "a.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as error:
        load_index(path, cache_dir=tmp_path)
    assert expected in str(error.value) and str(path) in str(error.value)


def test_no_file(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UserError, match="cannot read the annotation file"):
            load_index(path)


def test_a_byte_order_mark_is_no_error(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(small()).encode())
    assert len(load_index(path, cache_dir=tmp_path)) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"{}", mtime=0), "this is gzip: unpack it"),
        (b"PK\x03\x04xx", "this is a zip archive"),
        (b'{"id": 1}\n{"id": 2}\n', "one JSON object a line (ndjson)"),
        ('{"a": "ä"}'.encode("cp1252"), "not encoded in UTF-8"),
        (b'{"images": [', "may be cut short"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a pointer of Git LFS"),
        (b"\n<!DOCTYPE html>\n<html></html>", "is a web page"),
    ],
)
def test_what_a_file_is_instead_is_named(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_index(path, cache_dir=tmp_path / "cache")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_pipe_is_no_annotation_file(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    for read in (read_annotations, load_index):
        with pytest.raises(UserError, match="is a pipe or device"):
            read(tmp_path / "a.json")


def test_no_annotation_finds_an_image_by_the_placeholder_of_a_bad_id(tmp_path):
    data = small()
    data["images"][1]["id"] = None
    data["images"].append({"id": 0, "file_name": "d.png", "width": 9, "height": 9})
    data["annotations"][1]["image_id"] = 0
    tables, problems = examine(data, tmp_path / "a.json")
    assert tables.image_rows[1] == 3 and "duplicate id" not in {problem.kind for problem in problems}


def test_all_problems_are_found_and_the_first_states_how_many_more(tmp_path):
    data = small()
    data["annotations"][0]["image_id"] = 99
    data["annotations"][1]["bbox"] = [0, 0, 0, 0]
    data["annotations"][2]["bbox"] = [0, 0, 1, 0]
    data["images"][1]["width"] = 0
    path = write(tmp_path, data, images=False)
    _, problems = examine(read_annotations(path), path)
    found = {problem.kind: problem.ids for problem in problems}
    assert found == {"bad width": (10,), "unknown image": (7,), "box without area": (5, 6)}
    with pytest.raises(UserError, match=r"image 10 has width 0.*2 other kinds of problem"):
        load_index(path, cache_dir=tmp_path)


def test_a_good_file_has_no_problem(tmp_path):
    path = write(tmp_path, small(), images=False)
    assert examine(read_annotations(path), path)[1] == []


def test_boxes_are_clipped_at_the_borders_of_their_image_and_no_earlier():
    """Of an image of 30 by 20 pixels: the complete image, and boxes that are beyond each border by a half."""
    boxes = np.array(
        [[0, 0, 30, 20], [-0.5, 2, 3, 3], [2, -0.5, 3, 3], [28, 2, 2.5, 3], [2, 18, 3, 2.5], [25, 2, 3, 3.0]]
    )
    widths, heights = np.full(len(boxes), 30), np.full(len(boxes), 20)
    corners = [[0, 0, 30, 20], [0, 2, 2.5, 5], [2, 0, 5, 2.5], [28, 2, 30, 5], [2, 18, 5, 20], [25, 2, 28, 5]]
    assert clip_boxes(boxes, widths, heights).tolist() == corners
    assert partly_outside(boxes, widths, heights).tolist() == [False, True, True, True, True, False]
