"""A file that is read in pieces gives what it gives read at once: columns, sentences, the place where JSON breaks."""

import json
import random
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.data import coco_index, large_file
from detection.data.coco_index import load_index
from detection.data.entry_columns import read_sections
from detection.data.json_pieces import BrokenJson, line_and_column, read_pieces
from detection.data.large_file import examine_large
from detection.errors import UserError
from tests.coco_files import small, write
from tests.data.test_checks import BAD_BOXES, BAD_ENTRIES
from tests.data.test_coco_index import coco_files


@pytest.fixture
def large(monkeypatch):
    """Every file counts as large, and its pieces are of 50 bytes."""
    monkeypatch.setattr(coco_index, "LARGE_BYTES", 0)
    monkeypatch.setattr(large_file.examine_large, "__defaults__", (50,))
    monkeypatch.setattr(large_file, "examine_completely", None)


def outcome(path, folder, **settings):
    """The index as a dictionary with its counts, or the sentence."""
    try:
        index = load_index(path, cache_dir=folder, **settings)
    except UserError as error:
        return str(error)
    return index.to_coco(), index.counts


def both(tmp_path, monkeypatch, **settings):
    """The outcomes at once and in pieces."""
    first = outcome(tmp_path / "a.json", tmp_path / "first", **settings)
    monkeypatch.setattr(coco_index, "LARGE_BYTES", 0)
    monkeypatch.setattr(large_file.examine_large, "__defaults__", (50,))
    return first, outcome(tmp_path / "a.json", tmp_path / "second", **settings)


@pytest.mark.parametrize(("change", "expected"), BAD_ENTRIES)
def test_sentences_are_the_same(tmp_path, monkeypatch, change, expected):
    data = small()
    change(data)
    write(tmp_path, data, images=False)
    for bad_boxes in ("error", "drop"):
        with monkeypatch.context() as patch:
            first, second = both(tmp_path, patch, bad_boxes=bad_boxes)
        assert first == second and expected in first


@pytest.mark.parametrize(("box", "expected"), BAD_BOXES)
def test_bad_boxes_are_the_same(tmp_path, monkeypatch, box, expected):
    data = small()
    data["annotations"][2]["bbox"] = box
    data["annotations"].append({"id": 100, "image_id": 20, "category_id": 3, "bbox": box})
    write(tmp_path, data, images=False)
    for bad_boxes in ("error", "drop"):
        with monkeypatch.context() as patch:
            first, second = both(tmp_path, patch, bad_boxes=bad_boxes)
        assert first == second and (bad_boxes == "drop" or expected in first)
    assert first[1]["dropped"] == 2


def test_an_integer_that_no_float_holds_is_found_with_an_older_msgspec(tmp_path, monkeypatch):
    """Before 0.22 it raises a SystemError for one."""

    def older(value, type_, convert=msgspec.convert):
        try:
            return convert(value, type_)
        except msgspec.ValidationError as error:
            raise SystemError from error

    monkeypatch.setattr(msgspec, "convert", older)
    data = small()
    data["annotations"][0]["area"] = 10**400
    write(tmp_path, data, images=False)
    first, second = both(tmp_path, monkeypatch)
    assert first == second and "area" in first


CONTENTS = [
    "{}",
    '{"images": [\n  {"id" 1}]}',
    '{"images": [',
    '{"images": [{"id": 1}',
    '{"images": [{"id": 1},]}',
    '{"images": [{"id": 1}}',
    '{"images": [{"id": 1}], }',
    '{"images" [1]}',
    '{"images": }',
    '{"images": [], "annotations": []}',
    '{"images": {}, "annotations": [], "categories": []}',
    '{"images": [{}, {}, 1, {}], "annotations": [], "categories": []}',
    '{"images": [], "annotations": [{}, [{"a": 1}, {}]], "categories": []}',
    '{"images": 3, "annotations": [], "categories": []} x',
    '\ufeff{"images": [],\n "é": "é", "annotations": tru}',
    '{"images": [{"id": "' + "\\" * 4 + '"}, {"id": "a\\"}, {"}], "annotations": [], "categories": [] ',
    '{"a": ' + "[" * 100_000,
    '{"a": ' + '{"a":' * 100_000,
    '{"images": [' + "[" * 100_000,
    "{",
    '{"',
    '{"a',
    '{"a"',
    '{"a": "b',
    '{"images": [{"id": 1, "x": "a\nb"}]}',
    b'{"images": [{"id": 1, "x": "\xff"}]}',
    b'{"info": {"x": "\xff"}, "images": []}',
    b'{"\xc3\xa9": 1, "images": [{"id": 1, "x": "\xc3"}]}',
]


@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_no_annotation_file_is_the_same(tmp_path, monkeypatch, content):
    (tmp_path / "a.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    first, second = both(tmp_path, monkeypatch)
    assert first == second and isinstance(first, str)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('ab\\"{}[],: é\n😀'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a{"', max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abé\\", max_size=2), VALUES), st.integers(1, 60), st.booleans(), st.integers(0, 2))
def test_pieces_are_the_value(tmp_path_factory, value, size, plain, indent):
    path = tmp_path_factory.mktemp("pieces") / "a.json"
    text = json.dumps(value, ensure_ascii=plain, indent=indent or None)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    found = {}
    for piece in read_pieces(path, lambda key, text: json.loads(text), size):
        if not piece.is_list:
            found[piece.key] = piece.value
        else:
            found[piece.key] = [*([] if piece.is_first else found[piece.key]), *piece.value]
    assert repr(found) == repr(json.loads(text))


@pytest.mark.parametrize("seed", range(60))
def test_json_breaks_where_json_says(tmp_path, seed):
    draw = random.Random(seed)
    data = small()
    data["annotations"][1]["segmentation"] = {"size": [3, 4], "counts": 'a\\"}, {'}
    text = json.dumps(data, indent=draw.choice([None, 1]))
    for _ in range(draw.randint(1, 2)):
        at = draw.randrange(len(text))
        text = text[:at] + draw.choice(["", "é", *'{}[],:"\\\n 1']) + text[at + draw.randint(0, 1) :]
    text = text[: draw.choice([len(text)] * 3 + [draw.randrange(1, len(text))])]
    if not text.startswith("{"):
        return
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    try:
        expected = json.loads(text)
    except json.JSONDecodeError as error:
        expected = (error.msg, error.lineno, error.colno)
    try:
        for _ in read_pieces(path, lambda key, text: json.loads(text.decode()), draw.randint(1, 300)):
            pass
    except BrokenJson as error:
        assert (error.message, *line_and_column(path, error.offset)) == expected
    else:
        assert isinstance(expected, dict)


@settings(max_examples=40, deadline=None)
@given(coco_files(), st.integers(20, 400))
def test_columns_are_the_same(tmp_path_factory, data, size):
    folder = tmp_path_factory.mktemp("large")
    for annotation in data["annotations"][::2]:
        annotation["segmentation"] = {"size": [1, 2], "counts": [{"a": 1}, {"b": "}, {"}]}
    path = write(folder, {"info": {"a": [1]}, "categories": data["categories"], **data}, images=False)
    tables, problems, dropped = examine_large(path, False, size)
    expected = coco_index.examine_completely(path, False)
    assert problems == expected[1] and dropped.tolist() == expected[2].tolist()
    for name, column in vars(expected[0]).items():
        assert np.array_equal(getattr(tables, name), column), name


def test_rows_and_counts_are_the_files(tmp_path, monkeypatch):
    """Offenders are far behind one another, one has no id, and images are named in another order."""
    data = small()
    row = data["annotations"].pop()
    data["images"] = [{"id": 10 * i, "file_name": "x", "width": 20, "height": 20} for i in range(500, 0, -1)]
    data["annotations"] = [
        {**row, "id": i + 1, "image_id": 10 * (i % 499 + 1), "bbox": [1, 2, 3, 4]} for i in range(900)
    ]
    for i in (300, 301, 800):
        data["annotations"][i]["bbox"] = [30, 2, 3, 4]
    del data["annotations"][700]["id"]
    data["annotations"][899]["image_id"] = 7
    data["images"][400]["width"] = 0
    write(tmp_path, data, images=False)
    first, second = both(tmp_path, monkeypatch)
    assert first == second and "image 1000 has width 0" in first and "(3 other kinds of problem" in first
    data["images"][400]["width"] = 20
    write(tmp_path, data, images=False)
    sentence = outcome(tmp_path / "a.json", tmp_path / "third")
    assert "annotation number 700 of the list has no key 'id'" in sentence
    problems = examine_large(tmp_path / "a.json", True)[1]
    assert [problem.rows for problem in problems] == [(700,), (899,)]
    data["annotations"][700]["id"] = 701
    data["annotations"].pop()
    write(tmp_path, data, images=False)
    monkeypatch.setattr(large_file, "_BATCH", 2)
    assert examine_large(tmp_path / "a.json", True)[2].tolist() == [300, 301, 800]
    (problem,) = examine_large(tmp_path / "a.json", False)[1]
    assert problem.rows == (300, 301) and "(and at least 1 more): run" in problem.sentence


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("section", ["images", "annotations"])
def test_ids_that_repeat_farther_than_a_batch_are_found(tmp_path, monkeypatch, section, drop):
    data = small()
    data[section] *= 2
    monkeypatch.setattr(large_file, "_BATCH", 2)
    (problem,) = examine_large(write(tmp_path, data, images=False), drop)[1]
    n = len(data[section]) // 2
    assert problem.kind == "duplicate id" and problem.rows == (0, 1, n, n + 1)
    assert "which another" in problem.sentence and "(and at least 3 more): give every" in problem.sentence


@pytest.mark.parametrize("value", [True, False])
def test_flags_may_be_true_and_false(tmp_path, large, value):
    data = small()
    data["annotations"][1] |= {"iscrowd": value, "note": float("nan")}  # what typed decoding does not take
    assert load_index(write(tmp_path, data, images=False), cache_dir=tmp_path).counts["crowd"] == value


@pytest.mark.parametrize(
    ("repeated", "names"),
    [
        ('"annotations": [], ', "'annotations'"),
        ('"categories": [{"id": 1}], "images": 5, ', "'images' and 'categories'"),
        ('"images": [], "info": 1, "info": 2, "images": [], ', "'images'"),
    ],
)
def test_a_list_that_is_there_twice_is_refused(tmp_path, monkeypatch, repeated, names):
    """`json` would keep the last, and all entries before it would be lost without a word."""
    (tmp_path / "a.json").write_text("{" + repeated + json.dumps(small())[1:])
    first, second = both(tmp_path, monkeypatch)
    path = tmp_path / "a.json"
    assert first == second
    assert first == f"{path} has {names} more than once, and only the last would be read: join the lists."


def test_names_of_lists_elsewhere_are_not_lists(tmp_path, monkeypatch):
    data = small()
    data["categories"][0]["name"] = "images"
    text = json.dumps(data | {"info": {"images": 1, "annotations": 2, "more": {"images": "categories"}}})
    (tmp_path / "a.json").write_text(text.replace('"more"', '"images": 2, "more"'))
    first, second = both(tmp_path, monkeypatch)
    assert first == second and "images" in {category["name"] for category in first[0]["categories"]}


def test_what_the_checks_accept_is_read_at_once(tmp_path, monkeypatch):
    """Columns do not know everything that the checks may come to accept."""
    data = small()
    data["annotations"][0]["iscrowd"] = 2
    path = write(tmp_path, data, images=False)
    with monkeypatch.context() as patch:
        patch.setattr(large_file, "examine", lambda data, path: (coco_index.examine(data, path)[0], []))
        patch.setattr(large_file, "_explained", lambda odd, problems, section: section == "images")
        patch.setattr(large_file, "examine_completely", lambda path, drop: "read at once")
        assert examine_large(path, False) == "read at once"


def test_memory_is_that_of_columns(tmp_path):
    rows = [{"id": i, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "x": "y" * 200} for i in range(20_000)]
    image = {"id": 1, "file_name": "a", "width": 9, "height": 9}
    path = write(tmp_path, {"images": [image], "annotations": rows, "categories": []}, images=False)
    del rows
    tracemalloc.start()
    read_sections(path, 1 << 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000 * 65 * 1.5 + 10 * (1 << 16) < path.stat().st_size
