"""`data=FOLDER`: every layout that people have, and what an ambiguous or empty folder gets."""

import json

import pytest

from detection.ablation import Ablation
from detection.ablation.plan import make_plan
from detection.config import base_config, override
from detection.data.folder_layout import data_overrides, find_splits
from detection.errors import UserError
from tests.coco_files import write_image

LAYOUTS = {
    "coco": ("annotations/instances_{split}2017.json", "{split}2017"),
    "flat": ("annotations/{split}.json", "images"),
    "by split": ("annotations/{split}.json", "images/{split}"),
    "split first": ("annotations/instances_{split}.json", "{split}/images"),
    "roboflow": ("{split}/_annotations.coco.json", "{split}"),
    "scenes": ("{split}.json", "{split}"),
    "fiftyone": ("{split}/labels.json", "{split}/data"),
    "mmdetection": ("annotations/my_{split}_set.json", "photos/2024/{split}"),
    "nested": ("{split}/annotations/instances.json", "{split}/images"),
}


def make(root, annotations, images, splits=("train", "val", "test"), names=("x.png",), file_name=None):
    for split in splits:
        path = root / annotations.format(split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        files = [file_name or f"{split}{name}" for name in names]
        entries = [{"id": i, "file_name": name, "width": 8, "height": 8} for i, name in enumerate(files)]
        path.write_text(json.dumps({"info": {}, "images": entries, "annotations": [], "categories": []}))
        for entry in entries:
            write_image(root / images.format(split=split) / entry["file_name"], 8, 8)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train", "valid")])
@pytest.mark.parametrize("file_name", [None, "000001.png"])  # the same in all splits
def test_layouts(tmp_path, name, splits, file_name):
    annotations, images = LAYOUTS[name]
    make(tmp_path, annotations, images, splits, file_name=file_name)
    found = find_splits(tmp_path)
    assert list(found) == ["train", "val", "test"][: len(splits)]
    for split, files in zip(splits, found.values(), strict=True):
        assert files.annotations == tmp_path / annotations.format(split=split)
        assert files.images == tmp_path / images.format(split=split)


def test_a_folder_of_the_splits_name_goes_before_one_of_none(tmp_path):
    """Train's images in `images`, those of val, of the same names, in `val_images`."""
    make(tmp_path, "{split}.json", "images", ("train", "val"), file_name="0.png")
    write_image(tmp_path / "val_images/0.png", 8, 8)
    found = find_splits(tmp_path)
    assert (found["train"].images, found["val"].images) == (tmp_path / "images", tmp_path / "val_images")


def test_names_with_folders_are_relative_to_the_folder(tmp_path):
    make(tmp_path, "annotations/{split}.json", ".", names=("/a.png",))
    assert {files.images for files in find_splits(tmp_path).values()} == {tmp_path}


def test_images_after_long_annotations_are_found(tmp_path, monkeypatch):
    make(tmp_path, "annotations/{split}.json", "images/{split}")
    monkeypatch.setattr("detection.data.folder_layout._HEAD_BYTES", 30)
    for path in (tmp_path / "annotations").iterdir():
        data = json.loads(path.read_text())
        path.write_text(json.dumps({"annotations": [], **{"images": data["images"], "categories": []}}))
    assert find_splits(tmp_path)["val"].images == tmp_path / "images/val"


def test_other_files_are_passed_by(tmp_path):
    make(tmp_path, "annotations/instances_{split}2017.json", "{split}2017")
    for name in ("captions_train2017.json", "person_keypoints_train2017.json", "._instances_train2017.json"):
        (tmp_path / "annotations" / name).write_text('{"images": [], "annotations": []}')
    (tmp_path / "annotations/train_log.json").write_text("[1]")
    (tmp_path / "train_settings.json").write_text('{"lr": 1}')
    assert find_splits(tmp_path)["train"].annotations.name == "instances_train2017.json"


def test_the_override_sets_all_keys_and_later_ones_count(tmp_path):
    make(tmp_path, "annotations/{split}.json", "images", ("train", "val"))
    base = override(base_config("quickstart"), ["data.test.annotations=old.json", "data.test.images=old"])
    config = override(base, [f"data={tmp_path}", "data.val.images=other"])
    assert config.data.scenes is None and config.data.train.annotations == str(tmp_path / "annotations/train.json")
    assert config.data.train.images == str(tmp_path / "images") and config.data.val.images == "other"
    assert not config.data.test.is_given
    assert data_overrides(["epochs=3", "data={}"]) == ["epochs=3", "data={}"]


def fails(folder, *words):
    with pytest.raises(UserError) as error:
        find_splits(folder)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), error.value


def test_folders_without_a_data_set_get_a_sentence(tmp_path):
    fails(tmp_path / "x", "no such folder")
    fails(tmp_path, "no COCO file", "there is: nothing", "_annotations.coco.json")
    (tmp_path / "a.txt").write_text("")
    fails(tmp_path / "a.txt", "is a file")
    fails(tmp_path, "there is: a.txt")


def test_a_missing_split_gets_the_command_that_makes_it(tmp_path):
    make(tmp_path, "annotations/instances.json", "images", ("all",))
    fails(
        tmp_path,
        "names no split",
        f"detection split {tmp_path}/annotations/instances.json --fractions train=0.8 val=0.2",
    )
    make(tmp_path, "annotations/{split}.json", "images", ("train",))
    fails(tmp_path, "no file for val", f"detection split {tmp_path}/annotations/train.json")


def test_a_yolo_folder_gets_the_command_that_converts_it(tmp_path):
    folder = tmp_path / "my set"
    write_image(folder / "train/images/a.png", 8, 8)
    (folder / "data.yaml").write_text("names: [cat]\ntrain: train/images\n")
    (folder / "notes.json").write_text('{"categories": []}')  # as Label Studio has it
    fails(folder, "YOLO", f"`detection convert --from yolo '{folder}'`")


def test_ambiguous_annotations_and_images_are_listed(tmp_path):
    make(tmp_path, "annotations/{split}.json", "images", file_name="a.png")
    make(tmp_path, "annotations/{split}_v2.json", "images", ("train",), file_name="a.png")
    fails(tmp_path, "2 files may be the annotations for train", "train.json, annotations/train_v2.json")
    (tmp_path / "annotations/train_v2.json").unlink()
    (tmp_path / "images").rename(tmp_path / "one")
    write_image(tmp_path / "two/a.png", 8, 8)
    fails(tmp_path, "may be in", "one", "two", "data.train.images=")
    (tmp_path / "two/a.png").unlink()
    (tmp_path / "one/a.png").unlink()
    fails(tmp_path, "'a.png' is in no folder", "data.train.images=")


def test_the_runs_of_an_ablation_have_complete_keys(tmp_path):
    make(tmp_path, "{split}/_annotations.coco.json", "{split}", ("train", "valid"))
    base = tmp_path / "base.py"
    base.write_text("from detection.config import base_config\n\nconfig = base_config('quickstart')\n")
    variants = {"plain": ["batch_size=2"], "more": ["epochs=2"]}
    mine = {"mine": [f"data={tmp_path}"]}
    for overrides, data in (([], mine), (mine["mine"], {"own": []})):
        ablation = Ablation(base=str(base), variants=variants, data=data, seeds=(0,))
        plan = make_plan("it", ablation, base, tmp_path / "runs", overrides)
        for run in plan.runs:
            assert f"data.val.annotations={tmp_path}/valid/_annotations.coco.json" in run.overrides
        assert plan.variants["more"] == ("schedule.epochs=2",)
