import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.data.coco_index import Category, load_index
from detection.errors import UserError
from tests.coco_files import small, write


def test_hand_made_file(tmp_path):
    index = load_index(write(tmp_path, small(), images=False), cache_dir=tmp_path / "cache")
    assert index.categories == (Category(3, "cat"), Category(9, "dog"))
    assert index.image_ids.tolist() == [20, 10, 30]
    assert [index.file_name(i) for i in range(3)] == ["a.png", "sub/b.png", "c.png"]
    assert index.widths.tolist() == [40, 20, 10] and index.heights.tolist() == [30, 50, 10]
    assert index.box_offsets.tolist() == [0, 2, 4, 4]
    assert index.annotation_ids.tolist() == [5, 6, 7, 0]
    assert index.labels.tolist() == [1, 2, 2, 1]
    assert index.boxes.tolist() == [[0, 0, 40, 30], [30.5, 10, 20, 5], [1, 2, 3, 4], [0, 0, 20, 50]]
    assert index.areas.tolist() == [1200, 100, 5.5, 1000]
    assert index.iscrowd.tolist() == [True, False, False, False]
    assert index.counts == {
        "images": 3, "boxes": 4, "crowd": 1, "images_without_boxes": 1, "clipped": 1, "dropped": 0,
    }  # fmt: skip
    dtypes = [getattr(index, name).dtype.name for name in ("image_ids", "widths", "boxes", "labels", "iscrowd")]
    assert dtypes == ["int64", "int32", "float64", "int32", "bool"]


@st.composite
def coco_files(draw):
    ids = st.integers(-(2**62), 2**62)
    image_ids = draw(st.lists(ids, min_size=1, max_size=5, unique=True))
    category_ids = draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    box = st.tuples(
        st.floats(-10, 19, allow_nan=False), st.floats(-10, 19), st.floats(11, 500), st.floats(11, 500)
    ).map(list)
    entry = st.fixed_dictionaries(
        {"image_id": st.sampled_from(image_ids), "category_id": st.sampled_from(category_ids), "bbox": box},
        optional={"area": st.floats(0, 1e6), "iscrowd": st.integers(0, 1)},
    )
    annotations = draw(st.lists(entry, max_size=12))
    numbers = draw(st.lists(ids, min_size=len(annotations), max_size=len(annotations), unique=True))
    name = st.text(min_size=1, max_size=5, alphabet="aé日/b").filter(lambda name: not name.startswith("/"))
    return {
        "images": [{"id": i, "file_name": draw(name) + ".jpg", "width": 20, "height": 30} for i in image_ids],
        "annotations": [{"id": number, **a} for number, a in zip(numbers, annotations, strict=True)],
        "categories": [{"id": i, "name": f"name {i}"} for i in category_ids],
    }


@settings(max_examples=60, deadline=None)
@given(coco_files())
def test_to_coco_gives_the_file_back(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("index")
    result = load_index(write(folder, data, images=False), cache_dir=folder).to_coco()
    expected = [{"area": a["bbox"][2] * a["bbox"][3], "iscrowd": 0, **a} for a in data["annotations"]]

    def by_id(entries):
        return sorted(entries, key=lambda entry: entry["id"])

    assert result["images"] == data["images"]
    assert result["categories"] == by_id(data["categories"])
    assert by_id(result["annotations"]) == by_id(expected)
    json.dumps(result)


def _equal(a, b):
    arrays = ("image_ids", "widths", "heights", "box_offsets", "boxes", "labels", "areas", "iscrowd", "annotation_ids")
    assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
    assert a.categories == b.categories and a.counts == b.counts and a.digest == b.digest
    assert [a.file_name(i) for i in range(len(a))] == [b.file_name(i) for i in range(len(b))]


def test_the_cache_is_used_and_follows_the_content(tmp_path, monkeypatch):
    data = small()
    path = write(tmp_path, data, images=False)
    cache = tmp_path / "cache"
    first = load_index(path, cache_dir=cache)
    with monkeypatch.context() as patch:
        patch.setattr("detection.data.coco_index.read_annotations", None)
        _equal(first, load_index(path, cache_dir=cache))
    data["annotations"].pop()
    write(tmp_path, data, images=False)
    assert load_index(path, cache_dir=cache).counts["boxes"] == 3
    assert not [entry for entry in cache.iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
@pytest.mark.parametrize("name", ["meta.json", "boxes.npy", "_names.npy"])
def test_a_damaged_cache_is_rebuilt(tmp_path, name, damage):
    path, cache = write(tmp_path, small(), images=False), tmp_path / "cache"
    first = load_index(path, cache_dir=cache)
    file = next(cache.iterdir()) / name
    expected = file.read_bytes()
    # A new file in its place: `first` still maps the old one.
    file.unlink()
    if damage is not None:
        file.write_bytes(damage)
    _equal(first, load_index(path, cache_dir=cache))
    assert file.read_bytes() == expected


def test_a_flipped_bit_in_the_cache_is_noticed(tmp_path):
    path, cache = write(tmp_path, small(), images=False), tmp_path / "cache"
    first = load_index(path, cache_dir=cache)
    file = next(cache.iterdir()) / "boxes.npy"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.unlink()
    file.write_bytes(bytes(content))
    _equal(first, load_index(path, cache_dir=cache))


def test_without_a_writable_cache_it_stays_in_memory(tmp_path):
    path = write(tmp_path, small(), images=False)
    (tmp_path / "file").write_text("a file where the folder should be")
    index = load_index(path, cache_dir=tmp_path / "file")
    _equal(index, pickle.loads(pickle.dumps(index)))
    _equal(index, load_index(path, cache_dir=tmp_path / "cache"))


def test_it_pickles_small_and_opens_memory_mapped(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTION_CACHE", str(tmp_path / "cache"))
    data = small()
    data["annotations"] = [{**data["annotations"][0], "id": i} for i in range(10_000)]
    index = load_index(write(tmp_path, data, images=False))
    content = pickle.dumps(index)
    assert len(content) < 1000
    again = pickle.loads(content)
    _equal(index, again)
    assert isinstance(again.boxes.base, np.memmap) and not again.boxes.flags.writeable


def test_no_torch_is_imported():
    code = "import sys, detection.data.coco_index; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", ["animals", "dog"])  # a project may be named as its class is
def test_the_placeholder_of_roboflow_is_no_class(tmp_path, monkeypatch, large, name):
    if large:
        monkeypatch.setattr("detection.data.coco_index.LARGE_BYTES", 0)
    data = small()
    data["categories"] = [{**category, "supercategory": name} for category in data["categories"]]
    data["categories"].insert(0, {"id": 0, "name": name, "supercategory": "none"})
    for _ in range(2):  # from the file, then from the cache
        index = load_index(write(tmp_path, data), cache_dir=tmp_path / "cache")
        assert index.categories == (Category(3, "cat"), Category(9, "dog")) and index.left_out == (Category(0, name),)
        assert index.labels.tolist() == load_index(write(tmp_path, small(), "b.json")).labels.tolist()
    used = {**data["annotations"][0], "id": 99, "category_id": 0}
    data["annotations"].append(used)
    if name == "dog":
        with pytest.raises(UserError, match="category 0 has boxes and the name of another"):
            load_index(write(tmp_path, data), cache_dir=tmp_path / "cache")
        return
    index = load_index(write(tmp_path, data), cache_dir=tmp_path / "cache")
    assert [category.id for category in index.categories] == [0, 3, 9] and not index.left_out


def test_a_class_of_id_0_or_another_supercategory_stays(tmp_path):
    data = small()
    data["categories"] += [{"id": 0, "name": "bird", "supercategory": "none"}]
    data["categories"] += [{"id": 1, "name": "pet"}, {"id": 2, "name": "cow", "supercategory": "pet"}]
    assert [c.id for c in load_index(write(tmp_path, data)).categories] == [0, 1, 2, 3, 9]
