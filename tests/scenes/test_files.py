"""ContextScenes: the files are valid COCO, repeat to the byte, and give the class away by nothing but the shape."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from detection.cli import scenes as scenes_command
from detection.scenes import drawing
from detection.scenes import files as scene_files
from detection.scenes.tasks import draw_scene

SIZE = 128


def make(out: Path, *options: str) -> int:
    return scenes_command.main([str(out), *options])


def tree_hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "shapes"
    assert make(out, "--train", "250", "--val", "40", "--test", "10") == 0
    return out


@pytest.fixture(scope="module")
def train(data_set) -> dict:
    return json.loads((data_set / "train.json").read_text())


@pytest.mark.parametrize("split, count", [("train", 250), ("val", 40), ("test", 10)])
def test_files_are_complete_coco(data_set, split, count):
    coco = COCO(data_set / f"{split}.json")
    assert sorted(path.name for path in data_set.iterdir()) == sorted(
        name for name in ("train", "val", "test") for name in (name, f"{name}.json")
    )
    assert len(coco.imgs) == count == len(list((data_set / split).iterdir()))
    assert [coco.cats[i]["name"] for i in range(1, 7)] == ["circle", "cross", "half-disc", "square", "star", "triangle"]
    assert coco.dataset["info"]["task"] == "shapes" and coco.dataset["info"]["version"] == scene_files.VERSION
    assert len({item["id"] for item in coco.dataset["annotations"]}) == len(coco.dataset["annotations"])
    for entry in coco.imgs.values():
        with Image.open(data_set / split / entry["file_name"]) as image:
            assert image.size == (entry["width"], entry["height"]) == (SIZE, SIZE) and image.mode == "RGB"
        assert 1 <= len(coco.getAnnIds(imgIds=[entry["id"]])) <= 9


def test_mask_box_and_area_agree_with_the_annotation(data_set):
    """The mask is made eight times finer than the image: a pixel's center misses the sharp tips of a star."""
    coco = COCO(data_set / "val.json")
    for item in coco.dataset["annotations"]:
        assert item["iscrowd"] == 0
        polygon = (8 * np.array(item["segmentation"][0])).tolist()
        runs = mask_api.merge(mask_api.frPyObjects([polygon], 8 * SIZE, 8 * SIZE))
        x, y, width, height = item["bbox"]
        np.testing.assert_allclose(mask_api.toBbox(runs) / 8, [x, y, width, height], atol=0.4)
        assert mask_api.area(runs) / 64 == pytest.approx(item["area"], rel=0.03)


def test_boxes_lie_inside_and_hardly_overlap(train):
    by_image: dict[int, list[np.ndarray]] = {}
    for item in train["annotations"]:
        x, y, width, height = item["bbox"]
        assert x >= 0.9 and y >= 0.9 and x + width <= SIZE - 0.9 and y + height <= SIZE - 0.9
        assert 11.5 <= np.sqrt(width * height) <= 48.5
        by_image.setdefault(item["image_id"], []).append(np.array([x, y, x + width, y + height]))
    for boxes in by_image.values():
        for index, a in enumerate(boxes):
            for b in boxes[:index]:
                wide, high = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
                smaller = min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod())
                assert wide * high <= 0.11 * smaller


def test_the_image_shows_each_object_at_its_polygon():
    """Painted in one known color on another, the bright pixels are the polygon's mask and its area is kept."""
    for name, shape in drawing.SHAPES.items():
        outline = drawing.pose(shape, 40, 0.7, 1.2) + [20.3, 31.6]
        canvas = np.zeros((SIZE, SIZE, 3), np.uint8)
        drawing.fill(canvas, outline, np.array([255.0, 255.0, 255.0]))
        coverage = canvas[:, :, 0] / 255
        area = scene_files.annotation(name, outline, (name,))["area"]
        assert coverage.sum() == pytest.approx(area, rel=0.03)
        ys, xs = np.nonzero(coverage > 0.02)
        x0, y0, x1, y1 = drawing.outline_box(outline)
        np.testing.assert_allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], [x0, y0, x1, y1], atol=1.2)
        center = (coverage[:, :, None] * np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), -1)).sum((0, 1))
        np.testing.assert_allclose(center / coverage.sum() + 0.5, centroid(outline), atol=0.1)


def centroid(outline: np.ndarray) -> np.ndarray:
    x, y = outline.T
    following_x, following_y = np.roll(x, -1), np.roll(y, -1)
    cross = x * following_y - following_x * y
    return np.array([((x + following_x) * cross).sum(), ((y + following_y) * cross).sum()]) / (3 * cross.sum())


def test_classes_are_balanced(train):
    counts = np.bincount([item["category_id"] for item in train["annotations"]], minlength=7)[1:]
    assert len(counts) == 6 and counts.min() >= 0.7 * counts.mean() and counts.max() <= 1.3 * counts.mean()


def test_size_place_and_color_do_not_tell_the_class(data_set, train):
    """Between-class differences of each property stay within what chance gives (p about 1e-4 a property)."""
    images = {}
    rows, classes = [], []
    for item in train["annotations"]:
        x, y, width, height = item["bbox"]
        name = f"{item['image_id']:06d}.png"
        if name not in images:
            images[name] = np.asarray(Image.open(data_set / "train" / name), np.float64)
        center = np.mean(np.reshape(item["segmentation"][0], (-1, 2)), 0).astype(int)
        color = images[name][center[1] - 1 : center[1] + 2, center[0] - 1 : center[0] + 2].mean((0, 1))
        rows.append([np.log(width * height), x + width / 2, y + height / 2, *color])
        classes.append(item["category_id"])
    properties, labels = np.array(rows), np.array(classes)
    groups = [properties[labels == index] for index in range(1, 7)]
    between = sum(len(group) * (group.mean(0) - properties.mean(0)) ** 2 for group in groups) / 5
    within = sum(((group - group.mean(0)) ** 2).sum(0) for group in groups) / (len(labels) - 6)
    assert (between / within < 5.2).all(), between / within


def test_no_two_images_are_alike(data_set):
    images = [hash_ for name, hash_ in tree_hashes(data_set).items() if name.endswith(".png")]
    assert len(images) == 300 == len(set(images))


def test_same_seed_gives_the_same_bytes_whatever_else_is_made(data_set, tmp_path):
    assert make(tmp_path / "a", "--train", "12", "--val", "40") == 0
    again, first = tree_hashes(tmp_path / "a"), tree_hashes(data_set)
    assert len(again) == 12 + 40 + 2
    assert {name for name in again if again[name] != first[name]} == {"train.json"}
    assert make(tmp_path / "b", "--train", "12", "--val", "40", "--seed", "1") == 0
    assert not set(tree_hashes(tmp_path / "b").values()) & set(again.values())


def test_a_scene_depends_on_its_arguments_only():
    np.random.seed(1)
    a = draw_scene("shapes", 3, "val", 7, 96)
    draw_scene("shapes", 3, "val", 8, 96)
    np.random.seed(2)
    b = draw_scene("shapes", 3, "val", 7, 96)
    assert a.image.shape == (96, 96, 3) and a.image.dtype == np.uint8
    np.testing.assert_array_equal(a.image, b.image)
    other = draw_scene("shapes", 3, "train", 7, 96)
    assert not np.array_equal(a.image, other.image)


def test_an_existing_set_is_left_replaced_or_refused(tmp_path, capsys):
    out = tmp_path / "deep" / "set"
    small = ("--train", "2", "--val", "1")
    assert make(out, *small) == 0
    before = tree_hashes(out)
    stamp = (out / "train.json").stat().st_mtime_ns
    assert make(out, *small) == 0
    assert "already there" in capsys.readouterr().out
    assert (out / "train.json").stat().st_mtime_ns == stamp

    assert make(out, *small, "--seed", "5") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and str(out) in error and "--overwrite" in error
    assert tree_hashes(out) == before

    (out / "train" / "000002.png").unlink()
    assert make(out, *small) == 2
    assert make(out, *small, "--overwrite") == 0
    assert tree_hashes(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["set"]


def test_a_folder_of_other_files_is_never_replaced(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("important")
    assert make(tmp_path, "--overwrite") == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "important"


@pytest.mark.parametrize("info", [None, [], {"task": "shapes"}, {"task": "mine", "description": "ContextScenes"}])
def test_a_user_s_data_set_of_the_same_file_names_is_never_replaced(tmp_path, capsys, info):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.png").write_text("important")
        data = {"images": [], "annotations": [], "categories": []} | ({} if info is None else {"info": info})
        (tmp_path / f"{split}.json").write_text(json.dumps(data))
    before = tree_hashes(tmp_path)
    for options in ((), ("--overwrite",)):
        assert make(tmp_path, "--train", "1", "--val", "1", *options) == 2
        error = capsys.readouterr().err
        assert "holds a data set that is no ContextScenes (train); choose another OUT folder\n" in error
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").unlink()
    assert make(tmp_path, "--train", "1", "--val", "1", "--overwrite") == 2  # images alone
    assert {name: hash_ for name, hash_ in before.items() if name.endswith("png")} == tree_hashes(tmp_path)


def test_a_split_that_a_kill_left_without_annotations_is_replaced(tmp_path, capsys):
    assert make(tmp_path, "--train", "2", "--val", "1") == 0
    (tmp_path / "val.json").unlink()
    assert make(tmp_path, "--train", "2", "--val", "1", "--overwrite") == 0
    assert (tmp_path / "val.json").exists() and (tmp_path / "val/000001.png").exists()
    (tmp_path / "val.json").unlink()
    (tmp_path / "val/mine.png").touch()
    assert make(tmp_path, "--train", "2", "--val", "1", "--overwrite") == 2
    assert "holds a data set that is no ContextScenes (val)" in capsys.readouterr().err


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(scene_files, "annotation", interrupt)
    assert make(tmp_path / "set") == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, words",
    [
        (["--size", "8"], "--size 8"),
        (["--seed", "-1"], "--seed -1"),
        (["--train", "-3"], "--train -3"),
        (["--train", "0", "--val", "0"], "no images"),
    ],
)
def test_bad_numbers_are_reported_in_one_sentence(tmp_path, capsys, options, words):
    assert make(tmp_path / "set", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_task_is_refused(tmp_path):
    with pytest.raises(SystemExit) as exit_:
        make(tmp_path / "set", "--task", "no-such-task")
    assert exit_.value.code == 2


def test_scenes_are_drawn_without_torch(tmp_path):
    code = (
        "import sys; from detection.cli import scenes;"
        "assert scenes.main(['set', '--train', '1', '--val', '0']) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert (tmp_path / "set" / "train" / "000001.png").is_file()


def test_a_missing_split_is_drawn_into_a_set_of_the_same_parameters(tmp_path, capsys):
    out, small = tmp_path / "set", ("--train", "2", "--val", "1", "--test", "1")
    assert make(tmp_path / "all", *small) == 0
    assert make(out, "--train", "0", "--val", "1") == 0
    stamp = (out / "val.json").stat().st_mtime_ns
    assert make(out, *small, "--seed", "1") == make(out, "--train", "2", "--val", "0", "--size", "96") == 2
    assert make(out, "--train", "2", "--val", "3") == 2
    assert capsys.readouterr().err.count("holds ContextScenes of other parameters") == 3
    assert make(out, *small) == 0
    assert tree_hashes(out) == tree_hashes(tmp_path / "all") and (out / "val.json").stat().st_mtime_ns == stamp
    assert make(out, "--train", "2", "--val", "0") == 0
    assert "already there" in capsys.readouterr().out and tree_hashes(out) == tree_hashes(tmp_path / "all")


def test_an_interrupted_split_leaves_the_others(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    assert make(tmp_path / "set", "--train", "0", "--val", "1") == 0
    before = tree_hashes(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(scene_files, "annotation", interrupt)
        assert make(tmp_path / "set", "--train", "2", "--val", "1") == 130
    assert tree_hashes(tmp_path) == before and not list(tmp_path.glob("**/.*"))
    assert make(tmp_path / "set", "--train", "2", "--val", "1") == 0
