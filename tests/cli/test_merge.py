"""`detection merge`: classes by name, new ids, equal file names, licenses, and what is refused."""

import json

import pytest

from detection.cli import merge
from detection.data.coco_index import load_index
from tests.coco_files import write_image

BOX = [1, 1, 3, 3]


def make(root, name, categories, annotations, files=("x.png", "y.png"), **more):
    """Write root/name.json with images 7, 8 … in root/name; an annotation is (image, category) or with a box."""
    images = [{"id": n, "file_name": file, "width": 9, "height": 9} for n, file in enumerate(files, 7)]
    for image in images:
        write_image(root / name / image["file_name"], 9, 9, len(name))
    items = [
        {"id": n, "image_id": image, "category_id": category, "bbox": box[0] if box else BOX, "iscrowd": 0}
        for n, (image, category, *box) in enumerate(annotations, 3)
    ]
    listed = [
        {"id": id_, **(entry if isinstance(entry, dict) else {"name": entry})} for id_, entry in categories.items()
    ]
    data = {"images": images, "annotations": items, "categories": listed, **more}
    path = root / f"{name}.json"
    path.write_text(json.dumps(data))
    return [str(path), str(root / name)]


def joined(root, *arguments):
    out = root / "out/all.json"
    assert merge.main([*sum(arguments, []), str(out), "--overwrite"]) == 0
    return json.loads(out.read_text())


def test_classes_go_by_name_and_ids_are_new(tmp_path, capsys):
    first = make(tmp_path, "a", {5: "dog", 2: "cat"}, [(7, 5), (8, 2)])
    second = make(tmp_path, "b", {1: "cow", 2: "dog"}, [(7, 2), (8, 1)])
    data = joined(tmp_path, first, second)
    assert data["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "cow"}]
    assert [(i["id"], i["file_name"]) for i in data["images"]] == [
        (1, "a/x.png"), (2, "a/y.png"), (3, "b/x.png"), (4, "b/y.png"),
    ]  # fmt: skip
    assert [(a["id"], a["image_id"], a["category_id"]) for a in data["annotations"]] == [
        (1, 1, 1), (2, 2, 2), (3, 3, 1), (4, 4, 3),
    ]  # fmt: skip
    text = capsys.readouterr().out
    assert "4 images, 4 boxes (dog 2, cat 1, cow 1)" in text and text.endswith("Fit for training.\n")
    assert f"relative to {tmp_path}\n" in text and load_index(tmp_path / "out/all.json").counts["boxes"] == 4


def test_an_image_that_two_files_list_is_one_with_equal_boxes_once(tmp_path, capsys):
    first = make(tmp_path, "a", {1: "dog"}, [(7, 1), (7, 1)])
    second = make(tmp_path, "b", {4: "dog", 5: "cat"}, [(7, 4), (7, 4, [2, 2, 3, 3]), (7, 5)])
    data = joined(tmp_path, first, [second[0], first[1]])
    assert [image["file_name"] for image in data["images"]] == ["x.png", "y.png"]
    assert [(a["category_id"], a["bbox"]) for a in data["annotations"]] == [
        (1, BOX), (1, BOX), (1, [2, 2, 3, 3]), (2, BOX),
    ]  # fmt: skip
    text = capsys.readouterr().out
    assert "images that several files list, joined to one: 2" in text and "has too, kept once: 1" in text
    assert "boxes repeat another" in text  # as the first file has it


def test_equal_boxes_of_integers_and_of_floats_are_one(tmp_path, capsys):
    first = make(tmp_path, "a", {1: "dog"}, [(7, 1), (7, 1, [1, 1, 2]), (8, 1, [1, 1, float("nan"), 2])])
    items = [(7, 1, [1.0, 1.0, 3.0, 3.0]), (7, 1, [1, 1, 2]), (8, 1, [1, 1, float("nan"), 2]), (7, 1, [1, 1, 3, 3.5])]
    data = joined(tmp_path, first, [make(tmp_path, "b", {1: "dog"}, items)[0], first[1]], ["--no-check"])
    assert [str(a["bbox"]) for a in data["annotations"]] == [
        "[1, 1, 3, 3]", "[1, 1, 2]", "[1, 1, nan, 2]", "[1, 1, 3, 3.5]",
    ]  # fmt: skip
    assert "has too, kept once: 3" in capsys.readouterr().out


def test_the_lists_of_lvis_take_the_new_ids_and_are_joined(tmp_path):
    lists = (
        [{"neg_category_ids": [1], "not_exhaustive_category_ids": [2]}, {"neg_category_ids": []}],
        [{"neg_category_ids": [2, 3]}, {"not_exhaustive_category_ids": [1, 99]}],  # 99 is no category
    )
    first = make(tmp_path, "a", {1: "zebra", 2: "apple"}, [(7, 2)])
    second = make(tmp_path, "b", {1: "apple", 2: "cat", 3: "zebra"}, [(7, 1)])
    for pair, listed in zip((first, second), lists, strict=True):
        data = json.loads(open(pair[0]).read())
        data["images"] = [{**image, **own} for image, own in zip(data["images"], listed, strict=True)]
        open(pair[0], "w").write(json.dumps(data))

    def of(data):
        keys = ("neg_category_ids", "not_exhaustive_category_ids")
        return [[image.get(key) for key in keys] for image in data["images"]]

    assert of(joined(tmp_path, first, second)) == [[[1], [2]], [[], None], [[3, 1], None], [None, [2]]]
    assert of(joined(tmp_path, first, [second[0], first[1]])) == [[[1, 3], [2]], [[], [2]]]


def test_differences_of_names_and_supercategories_are_reported(tmp_path, capsys):
    first = make(tmp_path, "a", {1: {"name": "Cat", "supercategory": "animal"}, 2: "dog"}, [(7, 1)])
    second = make(tmp_path, "b", {1: "cat ", 2: {"name": "dog"}, 3: {"name": "Cat", "supercategory": "pet"}}, [(7, 1)])
    assert len(joined(tmp_path, first, second)["categories"]) == 3
    text = capsys.readouterr().out
    assert "'Cat' in" in text and "'cat ' in" in text and "--ignore-case makes one" in text
    assert "supercategory 'animal' in" in text and "'pet'" in text
    second = make(tmp_path, "b", {1: "cat ", 2: "dog"}, [(7, 1)])
    data = joined(tmp_path, first, second, ["--ignore-case"])
    assert [c["name"] for c in data["categories"]] == ["Cat", "dog"]
    assert [a["category_id"] for a in data["annotations"]] == [1, 1] and "--ignore-case" not in capsys.readouterr().out


def test_licenses_infos_and_other_keys(tmp_path, capsys):
    mit, cc = {"name": "MIT", "url": "m"}, {"name": "CC", "url": "c"}
    first = make(tmp_path, "a", {1: "dog"}, [(7, 1)], licenses=[{"id": 3, **mit}, 5], info={"year": 2020})
    second = make(tmp_path, "b", {1: "dog"}, [(7, 1)], licenses=[{"id": 0, **cc}, {"id": 1, **mit}], videos=[])
    for pair, license_ in ((first, 3), (second, 1)):
        data = json.loads(open(pair[0]).read())
        data["images"][0]["license"], data["images"][1]["license"] = license_, 9  # which is not listed
        open(pair[0], "w").write(json.dumps(data))
    data = joined(tmp_path, first, second)
    assert data["licenses"] == [{"id": 1, **mit}, {"id": 2, **cc}]
    assert [image.get("license") for image in data["images"]] == [1, None, 1, None]
    assert data["info"]["year"] == 2020 and data["info"]["joined"][0] == {"file": "a.json", "info": {"year": 2020}}
    assert "its videos are not joined" in capsys.readouterr().out


def test_the_placeholder_of_roboflow_is_left_out(tmp_path, capsys):
    own = {0: {"name": "pets", "supercategory": "none"}, 1: {"name": "dog", "supercategory": "pets"}}
    data = joined(tmp_path, make(tmp_path, "a", own, [(7, 1)]), make(tmp_path, "b", own, [(8, 1)]))
    assert [c["name"] for c in data["categories"]] == ["dog"] and len(data["annotations"]) == 2
    assert "placeholder categories of Roboflow, left out: 2" in capsys.readouterr().out


def fails(capsys, arguments, *words):
    capsys.readouterr()
    assert merge.main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and all(word in error for word in words), error


def test_what_cannot_be_merged_gets_a_sentence(tmp_path, capsys):
    first, second = (make(tmp_path, name, {1: "dog"}, [(7, 1)]) for name in "ab")
    out = tmp_path / "out.json"
    fails(capsys, [*first, out], "two annotation files or more")
    fails(capsys, [*first, second[0], out], "two annotation files or more")
    fails(capsys, [*first, *second, first[0]], "a.json is one of the files to join; give another OUT.json")
    fails(capsys, [*first, *second, first[0], "--overwrite"], "a.json is one of the files to join")
    fails(capsys, [*first, second[0], tmp_path / "x", out], "x is no folder")
    fails(capsys, [*first, second[0], tmp_path, out], "2 of 2 images are not in", "'x.png'")
    fails(capsys, [*first, second[0], "/usr", out], "no folder in common")
    data = json.loads(open(second[0]).read())
    data["images"][0]["width"] = 8
    (tmp_path / "c.json").write_text(json.dumps(data))
    fails(capsys, [*first, tmp_path / "c.json", first[1], out], "c.json", "x.png has another size")
    data["annotations"][0]["image_id"] = 99
    (tmp_path / "c.json").write_text(json.dumps(data))
    fails(capsys, [*first, tmp_path / "c.json", first[1], out], "c.json", "annotation 3", "99")
    assert not out.exists()


@pytest.mark.parametrize("check", [True, False])
def test_the_doctor_runs_unless_it_is_not_wanted(tmp_path, capsys, check):
    first, second = (make(tmp_path, name, {1: "dog"}, [(7, 1)]) for name in "ab")
    joined(tmp_path, first, second, [] if check else ["--no-check"])
    assert ("Fit for training" in capsys.readouterr().out) == check


def test_classes_of_an_exhaustive_file_are_absent_where_it_has_no_box(tmp_path, capsys):
    """Joined with a federated one, its images list what they do not show: a detection of that stays wrong."""
    first = make(tmp_path, "a", {1: "zebra", 2: "apple"}, [(7, 2)])
    data = json.loads(open(first[0]).read())
    data["images"][0]["neg_category_ids"] = [1]
    open(first[0], "w").write(json.dumps(data))
    second = make(tmp_path, "b", {1: "dog", 2: "apple"}, [(7, 1)])
    found = joined(tmp_path, first, second)
    assert [category["name"] for category in found["categories"]] == ["zebra", "apple", "dog"]
    assert [image.get("neg_category_ids") for image in found["images"]] == [[1], None, [2], [2, 3]]
    assert "images that list the classes of their file without a box in neg_category_ids: 2" in capsys.readouterr().out
    both = joined(tmp_path, first, [second[0], first[1]])  # of one image, annotated by both files
    assert [image.get("neg_category_ids") for image in both["images"]] == [[1], [2, 3]]


def test_classes_that_a_file_does_not_have_are_named(tmp_path, capsys):
    """The objects of one set's class in the images of the other would be learned as background."""
    first = make(tmp_path, "a", {1: "cat"}, [(7, 1)])
    second = make(tmp_path, "b", {1: "dog", 2: "cow"}, [(7, 1)])
    joined(tmp_path, first, second)
    text = capsys.readouterr().out
    assert f"{first[0]} has no class dog, cow: such objects in its images, if any, are background now" in text
    assert f"{second[0]} has no class cat: such" in text
    joined(tmp_path, first, make(tmp_path, "c", {3: "cat"}, [(7, 3)]))
    assert "has no class" not in capsys.readouterr().out
