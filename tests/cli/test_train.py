"""What the command line gives for bad input: one sentence, exit code 2, and nothing written."""

import copy
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from detection.cli import train
from tests.tiny_runs import write_config

pytestmark = pytest.mark.usefixtures("blank_plots")


@pytest.fixture
def workplace(shapes, tmp_path, monkeypatch):
    """A copy of the shapes and a config file for it, in an otherwise empty current folder."""
    folder = tmp_path / "data"
    shutil.copytree(shapes, folder)
    write_config(tmp_path / "config.py", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def refused(capsys, *arguments):
    """Run the command, check that it was refused in one line without a trace on disk, and return the sentence."""
    before = set(Path.cwd().rglob("*"))
    assert train.main([*arguments, "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error
    assert set(Path.cwd().rglob("*")) - before == set()
    return error


def change(folder, edit, name="train.json"):
    path = folder / name
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def set_box(*box):
    return lambda d: d["annotations"][2].update(bbox=list(box))


NAN = float("nan")
ANNOTATIONS = {
    "NaN box": (set_box(1, 1, NAN, 4), ["annotation", "3"]),
    "infinite box": (set_box(1, 1, float("inf"), 4), ["annotation", "3"]),
    "negative size": (set_box(1, 1, -4, 4), ["annotation", "3"]),
    "zero size": (set_box(1, 1, 0, 4), ["annotation", "3", "detection doctor"]),
    "outside the image": (set_box(500, 1, 4, 4), ["annotation", "3"]),
    "no bbox": (lambda d: d["annotations"][2].pop("bbox"), ["bbox"]),
    "no categories": (lambda d: d.pop("categories"), ["categories"]),
    "no width": (lambda d: d["images"][1].pop("width"), ["width"]),
    "unknown image": (lambda d: d["annotations"][2].update(image_id=999), ["999"]),
    "unknown category": (lambda d: d["annotations"][2].update(category_id=77), ["77"]),
    "annotation twice": (lambda d: d["annotations"].append(copy.copy(d["annotations"][2])), ["3"]),
    "image twice": (lambda d: d["images"].append(copy.copy(d["images"][1])), ["2"]),
    "category twice": (lambda d: d["categories"].append(copy.copy(d["categories"][1])), ["2"]),
    "leaves the folder": (lambda d: d["images"][1].update(file_name="../val/000001.png"), ["../val/000001.png"]),
    "absolute": (lambda d: d["images"][1].update(file_name="/etc/passwd"), ["/etc/passwd"]),
    "missing image": (lambda d: d["images"][1].update(file_name="none.png"), ["none.png"]),
    "other category names": (lambda d: d["categories"][0].update(name="blob"), ["blob", "val.json"]),
    "no boxes at all": (lambda d: d.update(annotations=[]), ["empty training set"]),
    "no images": (lambda d: d.update(annotations=[], images=[]), ["lists no images"]),
}


@pytest.mark.parametrize(("edit", "words"), ANNOTATIONS.values(), ids=list(ANNOTATIONS))
def test_bad_annotations(workplace, capsys, edit, words):
    change(workplace, edit)
    error = refused(capsys, "config.py")
    assert "train.json" in error and all(word in error for word in words), error


def test_malformed_json(workplace, capsys):
    (workplace / "train.json").write_text('{"images": [}')
    error = refused(capsys, "config.py")
    assert "train.json" in error and "line 1" in error


def test_symlink_out_of_the_image_folder(workplace, capsys, tmp_path):
    image = workplace / "train" / "000002.png"
    shutil.move(image, tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    assert "000002.png" in refused(capsys, "config.py")


def bad_image(workplace, capsys, write):
    """Images are decoded while training: the run folder is there by then, the sentence and the code are the same."""
    write(workplace / "train" / "000002.png")
    assert train.main(["config.py", "--device=cpu", "--output=run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "000002.png" in error
    assert not list(Path("run").glob("checkpoints/*"))
    return error


def test_zero_byte_image(workplace, capsys):
    bad_image(workplace, capsys, lambda p: p.write_bytes(b""))


def test_truncated_image(workplace, capsys):
    bad_image(workplace, capsys, lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]))


def test_no_image_at_all(workplace, capsys):
    bad_image(workplace, capsys, lambda p: p.write_text("hello"))


def test_size_differing_from_the_json(workplace, capsys):
    error = bad_image(workplace, capsys, lambda p: Image.new("RGB", (60, 64)).save(p))
    assert "60x64" in error and "64x64" in error


def test_a_bad_image_in_a_worker_process_gets_the_same_sentence(workplace, capsys):
    (workplace / "train" / "000002.png").write_bytes(b"")
    assert train.main(["config.py", "data.workers=2", "--device=cpu", "--output=run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "000002.png" in error and "Traceback" not in error


def test_a_box_partly_outside_is_clipped_and_counted(workplace, capsys):
    change(workplace, set_box(50, 50, 40, 40))
    assert train.main(["config.py", "schedule.epochs=1", "--device=cpu", "--output=run"]) == 0
    assert "1 boxes clipped to their image" in capsys.readouterr().out


def test_bad_boxes_can_be_dropped_and_are_counted(workplace, capsys):
    change(workplace, set_box(1, 1, 0, 0))
    arguments = ["config.py", "schedule.epochs=1", "data.train.bad_boxes=drop", "--device=cpu", "--output=run"]
    assert train.main(arguments) == 0
    assert "1 bad boxes dropped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.py"], ["nothing.py: no such file, and no shipped config"]),
        (["config.py", "schedule.epoch=1"], ["did you mean schedule.epochs?"]),
        (["config.py", "schedule.epochs=many"], ["must be of type int"]),
        (["config.py", "freeze.c9=none"], ["freeze.c9", "no such stage", "c2, c3"]),
        (["config.py", "data.train.annotations=none.json"], ["none.json"]),
        (["config.py", "data.train.images=none"], ["data.train.images=none", "no such folder"]),
        (["config.py", "data.val.annotations="], ["data.val.annotations is not set"]),
        (["config.py", "precision=fp16"], ["needs a GPU"]),
        (["config.py", "detector.weights=none.safetensors"], ["none.safetensors", "no such file"]),
        (["config.py", "--resume"], ["--output"]),
        (["--resume", "--output=none"], ["none", "not a run folder"]),
        (["config.py", "--resume", "--output=none"], ["config.py would not be read"]),
    ],
)
def test_bad_arguments(workplace, capsys, arguments, words):
    error = refused(capsys, *arguments)
    assert all(word in error for word in words), error


def test_a_run_folder_that_exists(workplace, capsys):
    Path("run").mkdir()
    (Path("run") / "note.txt").touch()
    error = refused(capsys, "config.py", "--output=run")
    assert "run: exists already and holds no run that could be continued; choose another --output." in error


def test_a_run_without_a_checkpoint_can_be_begun_again_as_its_refusal_says(workplace, capsys):
    Path("run/tensorboard").mkdir(parents=True)
    (Path("run") / "config.json").write_text("{}")
    error = refused(capsys, "config.py", "--output=run")
    assert "run: exists already, a run that was ended before its first checkpoint; begin it again with" in error
    assert train.main(["config.py", "--output=run", "--resume-or-start", "--device=cpu"]) == 0
    error = refused(capsys, "config.py", "--output=run")
    assert "run: exists already; continue it with --resume, or choose another --output." in error


def test_a_loss_that_is_not_finite(workplace, capsys):
    assert train.main(["config.py", "optimizer.lr=1e9", "--device=cpu", "--output=run"]) == 2
    error = capsys.readouterr().err
    assert "training stopped: " in error and "on the images" in error and error.count("\n") == 1
    assert list(Path("run").glob("non_finite_batch_0.pt"))


def test_resume_through_the_command_line(workplace, capsys):
    assert train.main(["config.py", "schedule.epochs=1", "--device=cpu", "--output=run"]) == 0
    assert train.main(["--resume", "--output=run", "--device=cpu", "schedule.epochs=2"]) == 0
    assert "after 1 epochs" in capsys.readouterr().out
    epochs = [json.loads(line)["epoch"] for line in Path("run/log.jsonl").read_text().splitlines()]
    assert epochs == sorted(epochs) and set(epochs) == {0, 1}


def test_scenes_are_drawn_on_first_use(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path / "config.py", tmp_path / "new" / "scenes")
    text = config.read_text() + (
        "\nimport dataclasses\nfrom detection.config import ScenesConfig\n"
        "scenes = ScenesConfig(train=4, val=2, size=64)\n"
        "config = dataclasses.replace(config, data=dataclasses.replace(config.data, scenes=scenes))\n"
    )
    config.write_text(text)
    assert train.main(["config.py", "schedule.epochs=1", "--device=cpu", "--output=run"]) == 0
    assert "drawing 4 + 2 images" in capsys.readouterr().out
    assert len(list((tmp_path / "new/scenes/train").glob("*.png"))) == 4


def test_a_detector_that_cannot_be_built_is_refused_before_images_are_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["quickstart", "detector.context.hidden_channels=60000", "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert "G parameters, more than 2 G" in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_data_without_masks_names_both_ways_to_train(workplace, capsys, monkeypatch):
    """The quick start has a segmentation loss, and most exports have boxes alone."""
    for name in ("train.json", "val.json"):
        change(workplace, lambda data: [item.pop("segmentation") for item in data["annotations"]], name)
    arguments = ["quickstart", "data=data", "schedule.epochs=1", "samples=0", "batch_size=7"]
    error = refused(capsys, *arguments)
    remedies = ("data.masks=boxes", "detector.segmentation=none")
    assert "has no 'segmentation' (and " in error and all(remedy in error for remedy in remedies)
    for remedy in remedies:
        assert train.main([*arguments, remedy, "--device=cpu", f"--output={remedy}"]) == 0
        log = Path(remedy, "log.jsonl").read_text(encoding="utf-8")
        assert ("loss_segmentation" in log) == ("masks" in remedy)
