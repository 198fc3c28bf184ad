"""`detection split`: fractions, groups that stay together, rare classes in each part, and what is refused."""

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.cli import split
from detection.data.splitting import Group, _Plan, assign, group_names, make_groups

FRACTIONS = ["--fractions", "train=0.8", "val=0.1", "test=0.1"]
PARTS = ("train", "val", "test")
SHARES = dict(zip(PARTS, (0.8, 0.1, 0.1), strict=True))


def make(folder, labels, **more):
    """Write a file with an image for each list of classes; image 7 is film3_7.png."""
    images = [
        {"id": 100 - n, "file_name": f"film{n // 2}_{n}.png", "width": 9, "height": 9, "patient": n // 3}
        for n in range(len(labels))
    ]
    pairs = [(image["id"], label) for image, own in zip(images, labels, strict=True) for label in own]
    annotations = [
        {"id": n, "image_id": image, "category_id": label, "bbox": [1, 1, 3, 3], "area": 9, "iscrowd": 0}
        for n, (image, label) in enumerate(pairs, 5)
    ]
    categories = [{"id": label, "name": f"c{label}"} for label in sorted({label for own in labels for label in own})]
    data = {"info": {"year": 1}, "licenses": [{"id": 1}], "images": images, "annotations": annotations}
    path = folder / "all.json"
    path.write_text(json.dumps({**data, "categories": categories, **more}))
    return path


def read(folder):
    return {
        part: json.loads((folder / f"{part}.json").read_text()) for part in PARTS if (folder / f"{part}.json").exists()
    }


def classes(data):
    return {item["category_id"] for item in data["annotations"]}


def test_every_image_is_in_one_part_with_its_annotations(tmp_path, capsys):
    path = make(tmp_path, [[1, 1], [1], [], [2], [1, 2]] * 8)
    assert split.main([str(path), *FRACTIONS]) == 0
    complete, parts = json.loads(path.read_text()), read(tmp_path)
    assert [len(parts[part]["images"]) for part in PARTS] == [32, 4, 4]
    for section in ("images", "annotations"):
        entries = [entry for part in parts.values() for entry in part[section]]
        assert sorted(entries, key=lambda e: e["id"]) == sorted(complete[section], key=lambda e: e["id"])
    for data in parts.values():
        assert {item["image_id"] for item in data["annotations"]} <= {image["id"] for image in data["images"]}
        assert data["categories"] == complete["categories"] and data["info"] == {"year": 1} and data["licenses"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("40 images, split with seed 0")
    assert lines[2].split() == list(PARTS) and lines[3].split() == ["images", "32", "4", "4"]
    assert [sum(map(int, line.split()[1:])) for line in lines[4:6]] == [32, 16]


def test_the_seed_decides(tmp_path):
    path = make(tmp_path, [[1]] * 40)
    seen = []
    for seed in (0, 0, 1):
        assert (
            split.main([str(path), *FRACTIONS, f"--seed={seed}", "--output", str(tmp_path / "out"), "--overwrite"]) == 0
        )
        seen.append([image["id"] for image in read(tmp_path / "out")["val"]["images"]])
    assert seen[0] == seen[1] != seen[2]


def test_rare_classes_are_in_every_part_and_common_ones_by_the_fractions(tmp_path):
    labels = [
        [1, *([2] if n < 3 else []), *([3] if 10 <= n < 30 else []), *([4] if n == 50 else [])] for n in range(100)
    ]
    random.Random(3).shuffle(labels)
    path = make(tmp_path, labels)
    assert split.main([str(path), *FRACTIONS, "--stratify"]) == 0
    parts = read(tmp_path)
    for part, share in zip(PARTS, (80, 10, 10), strict=True):
        counts = Counter(item["category_id"] for item in parts[part]["annotations"])
        assert len(parts[part]["images"]) == pytest.approx(share, abs=2)
        assert counts[2] == 1 and counts[3] == pytest.approx(share / 5, abs=1)


def test_what_a_part_lacks_is_printed(tmp_path, capsys):
    assert split.main([str(make(tmp_path, [[1, 2]] + [[1]] * 9)), *FRACTIONS, "--stratify"]) == 0
    assert "val has no box of c2" in (text := capsys.readouterr().out) and "test has no box of c2" in text


@pytest.mark.parametrize(("by", "group"), [("patient", lambda n: n // 3), (r"^(film\d+)_", lambda n: n // 2)])
@pytest.mark.parametrize("stratify", [[], ["--stratify"]])
def test_no_group_is_in_two_parts(tmp_path, by, group, stratify, capsys):
    path = make(tmp_path, [[n % 4 + 1] for n in range(60)])
    assert split.main([str(path), *FRACTIONS, "--group", by, *stratify]) == 0
    owners = [{group(100 - image["id"]) for image in data["images"]} for data in read(tmp_path).values()]
    assert sum(map(len, owners)) == len(set().union(*owners)) and all(owners)
    assert f"in {60 // (3 if by == 'patient' else 2)} groups" in capsys.readouterr().out


@given(st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=3, max_size=40), st.integers(0, 9), st.booleans())
@settings(max_examples=60, deadline=None)
def test_parts_have_about_their_share(labels, seed, stratify):
    groups = [Group([row], Counter(set(own))) for row, own in enumerate(labels)]
    fractions = {"a": 0.5, "b": 0.3, "c": 0.2}
    parts = assign(groups, fractions, seed, stratify)
    assert sorted(sum(parts.values(), [])) == list(range(len(labels)))
    for class_, images in sum((group.classes for group in groups), Counter()).items():
        having = [any(class_ in labels[row] for row in rows) for rows in parts.values()]
        assert not stratify or images < 12 or all(having)
        # Where a class is on its own in its images, as many of them as parts are enough.
        alone = sum(set(own) == {class_} for own in labels)
        assert not stratify or alone < 2 * len(fractions) or all(having)
    if not stratify:
        assert all(abs(len(rows) - fractions[part] * len(labels)) < 1 for part, rows in parts.items())


def fails(capsys, arguments, *words):
    capsys.readouterr()
    assert split.main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and all(word in error for word in words), error


@pytest.mark.parametrize(
    "fractions, words",
    [
        (["train=0.8", "val=0.1"], "make 0.9"),
        (["train=1"], "such as train=0.8"),
        (["train=0.5", "train=0.5"], "given twice"),
        (["train", "val=0.5"], "write NAME=FRACTION"),
        (["../x=0.5", "val=0.5"], "write NAME=FRACTION"),
        (["train=nan", "val=0.5"], "write NAME=FRACTION"),
        (["train=-0.5", "val=1.5"], "write NAME=FRACTION"),
    ],
)
def test_fractions_must_make_one(tmp_path, capsys, fractions, words):
    fails(capsys, [make(tmp_path, [[1]] * 9), "--fractions", *fractions], words)


def test_nothing_is_written_where_something_is_wrong(tmp_path, capsys):
    path = make(tmp_path, [[1]] * 4)
    fails(capsys, [path, *FRACTIONS], "no image is left for test", "4 images in 4 groups")
    path = make(tmp_path, [[1]] * 20)
    fails(
        capsys,
        [path, *FRACTIONS, "--group", "file_name"][:5] + ["--group", "x(y"],
        "neither a key",
        "regular expression",
    )
    fails(capsys, [path, *FRACTIONS, "--group", "film1"], "do", "not match", "18 of 20 images")
    fails(capsys, [path, *FRACTIONS, "--group", "."], "no image is left", "in 1 groups")
    assert not read(tmp_path)
    (tmp_path / "val.json").write_text("mine")
    fails(capsys, [path, *FRACTIONS], "val.json is there already", "--overwrite")
    assert (tmp_path / "val.json").read_text() == "mine" and not (tmp_path / "train.json").exists()
    fails(capsys, [path, "--fractions", "all=0.5", "val=0.5"], "is the file to split")
    path.write_text("[1]")
    fails(capsys, [path, *FRACTIONS, "--overwrite"], "all.json", "COCO")
    path = make(tmp_path, [[1]] * 20, categories=[])
    fails(capsys, [path, *FRACTIONS, "--overwrite"], "lists no categories")


def test_a_key_that_some_images_lack_is_refused():
    with pytest.raises(Exception, match="1 of 2 images have no site"):
        group_names([{"id": 1, "site": "a"}, {"id": 2}], "site")


def test_each_part_has_each_class_that_enough_images_have():
    """Random sets of labels, of some of which the assignment alone gave a part none of a class of a third of them."""
    numbers = random.Random(0)
    for _ in range(1500):
        images, chances = numbers.randint(15, 40), [numbers.random() / 2 for _ in range(numbers.randint(2, 5))]
        labels = [{c for c, chance in enumerate(chances) if numbers.random() < chance} for _ in range(images)]
        parts = assign([Group([row], Counter(own)) for row, own in enumerate(labels)], SHARES, 0, True)
        assert sorted(sum(parts.values(), [])) == list(range(images))
        for class_ in range(len(chances)):
            having = [any(class_ in labels[row] for row in rows) for rows in parts.values()]
            assert all(having) or sum(class_ in own for own in labels) < 4


def test_classes_are_counted_by_images_and_not_by_boxes_or_groups():
    film, other = make_groups(["film", "film", "other"], [0, 0, 0, 1, 2], [5, 5, 6, 5, 5])
    assert (film.classes, other.classes) == (Counter({5: 2, 6: 1}), Counter({5: 1}))
    sizes = [8, *[1] * 8]
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    groups = [Group(list(range(a, a + n)), Counter({5: n})) for a, n in zip(starts, sizes, strict=True)]
    for seed in range(5):
        assert {len(rows) for rows in assign(groups, {"a": 0.5, "b": 0.5}, seed, True).values()} == {8}


def test_an_exchange_is_against_a_group_of_about_as_many_images():
    plan = _Plan({"a": 0.5, "b": 0.5}, 14, Counter({0: 14, 7: 2}))
    for part, groups in (("a", [[0], [1], [2, 3, 4, 5, 6]]), ("b", [[7], [8], [9, 10, 11, 12, 13]])):
        for images in groups:
            plan.give(Group(images, Counter({0: len(images)} | ({7: 1} if images in ([0], [1]) else {}))), part)
    plan.complete()
    assert all(plan.has[part][7] == 1 for part in "ab")
    assert [sum(len(group.images) for group in plan.given[part]) for part in "ab"] == [7, 7]


def test_entries_of_one_file_are_in_one_part(tmp_path, capsys):
    path = make(tmp_path, [[1], [2]] * 20)
    data = json.loads(path.read_text())
    twice = [{**image, "id": image["id"] + 1000, "file_name": f"./{image['file_name']}"} for image in data["images"]]
    path.write_text(json.dumps({**data, "images": [*data["images"], *twice]}))
    for more in ([], ["--stratify"], ["--group", r"_(\d+)\.png"], ["--group", "id"]):
        assert split.main([str(path), *FRACTIONS, *more, "--overwrite"]) == 0
        files = [{i["file_name"].removeprefix("./") for i in part["images"]} for part in read(tmp_path).values()]
        assert sum(map(len, files)) == len(set().union(*files)) == 40
    assert "80 images of 40 files, split with seed 0" in capsys.readouterr().out
