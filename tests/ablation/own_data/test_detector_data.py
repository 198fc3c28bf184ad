"""What is found in a detector's data before an ablation: leaks, overlaps, and how much a run does."""

import json
import shutil

import pytest

from detection.ablation.own_data.detector_data import detector_effort, leaks_and_remarks, overlapping_objects
from detection.config import SplitConfig
from detection.errors import UserError
from tests.tiny_runs import draw_shapes, tiny_config


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def folder(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "data")


def test_sizes_and_no_leak(folder):
    texts = leaks_and_remarks(tiny_config(folder))
    assert texts[0].startswith("train: 7 images, ") and "objects of 6 classes in" in texts[0]
    assert texts[1].startswith("val: 3 images, ") and texts[2].startswith("test: none is given")
    assert "no image of val is in train too, by its bytes" in texts


def test_images_with_equal_bytes_are_a_leak_whatever_their_name(folder):
    content = json.loads((folder / "val.json").read_text())
    shutil.copy(folder / "train" / json.loads((folder / "train.json").read_text())["images"][2]["file_name"],
                folder / "val" / content["images"][1]["file_name"])  # fmt: skip
    shutil.copytree(folder / "val", folder / "test")
    tests = [f"data.test.annotations={folder / 'val.json'}", f"data.test.images={folder / 'test'}"]
    texts = "\n".join(leaks_and_remarks(tiny_config(folder, *tests)))
    leak = f"leak: 1 of 3 images of val are in train too, byte by byte (id {content['images'][1]['id']})"
    assert leak in texts and "leak: 3 of 3 images of test are in val too" in texts and "none is given" not in texts


def test_what_training_would_refuse_is_refused(folder):
    name = json.loads((folder / "val.json").read_text())["images"][0]["file_name"]
    (folder / "val" / name).unlink()
    with pytest.raises(UserError, match=name):
        leaks_and_remarks(tiny_config(folder))
    with pytest.raises(UserError, match="data.train.annotations is not set"):
        leaks_and_remarks(tiny_config(folder, "data.train.annotations="))


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_an_object_is_refused(folder, split):
    path = folder / f"{split}.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"data.{split} has no object, but for \d+ regions to ignore"):
        leaks_and_remarks(tiny_config(folder))
    path.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(UserError, match=rf"data.{split} has no object; give annotations"):
        leaks_and_remarks(tiny_config(folder))


def test_boxes_that_are_clipped_are_named(folder):
    data = json.loads((folder / "val.json").read_text())
    before = leaks_and_remarks(tiny_config(folder))
    data["annotations"][0]["bbox"][0] = -3.0
    (folder / "val.json").write_text(json.dumps(data))
    new = set(leaks_and_remarks(tiny_config(folder))) - set(before)
    sentence = f"{folder / 'val.json'}: 1 boxes reach outside their image and are clipped; `detection doctor "
    assert any(text.startswith(sentence) for text in new)


def test_one_class_is_remarked_on(folder):
    for split in ("train", "val"):
        content = json.loads((folder / f"{split}.json").read_text())
        content["categories"] = content["categories"][:1]
        for annotation in content["annotations"]:
            annotation["category_id"] = content["categories"][0]["id"]
        (folder / f"{split}.json").write_text(json.dumps(content))
    assert any(text.startswith("one class: context cannot change") for text in leaks_and_remarks(tiny_config(folder)))


def test_overlaps_are_of_one_class_and_image(tmp_path):
    def box(number, image, category, x, crowd=0):
        return {"id": number, "image_id": image, "category_id": category, "bbox": [x, 0, 20, 20], "area": 400,
                "iscrowd": crowd}  # fmt: skip

    boxes = [box(1, 1, 1, 0), box(2, 1, 1, 5), box(3, 1, 2, 0), box(4, 2, 1, 0), box(5, 1, 1, 40), box(6, 1, 1, 40, 1)]
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in (1, 2)]
    categories = [{"id": i, "name": str(i)} for i in (1, 2)]
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    assert overlapping_objects(SplitConfig(str(path), str(tmp_path))) == (2, 5)


def test_steps_and_evaluations_are_counted(folder):
    effort = detector_effort(tiny_config(folder, "schedule.epochs=5", "evaluate_every=2"))
    assert (effort.epochs, effort.steps, effort.evaluated, effort.batch_size) == (5, 20, 9, 2)
    assert 0 < effort.load_s < 5
    test = [f"data.test.annotations={folder}/val.json", f"data.test.images={folder}/val"]
    assert detector_effort(tiny_config(folder, "batch_size=7", *test)).evaluated == 9
    assert detector_effort(tiny_config(folder, "validation_loss=true")).evaluated == 12


def test_passes_for_the_validation_loss_are_counted(folder):
    """It is computed at each evaluation, that of the last epoch included, and where the best is chosen by it."""
    epochs = "schedule.epochs=5", "evaluate_every=2"
    assert detector_effort(tiny_config(folder, *epochs, "validation_loss=true")).evaluated == 18
    assert detector_effort(tiny_config(folder, *epochs, "best_metric=val_loss")).evaluated == 18
