"""`detection explain` on a run and images: what is written, and mistakes."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from detection.atomic_write import write_json
from detection.cli import explain
from detection.config import Config, override
from detection.data.coco_index import Category
from detection.detector import build_detector
from detection.heads import SequenceHead
from detection.runs import logs
from detection.runs.checkpoint import save_checkpoint
from detection.runs.folder import config_json
from tests.coco_files import write_image
from tests.tiny_runs import DETECTOR

CATEGORIES = (Category(3, "cat"), Category(9, "\x1b[1mdog"))


def write_run(folder, config=DETECTOR):
    torch.manual_seed(0)
    save_checkpoint(folder / "checkpoints" / "best", build_detector(config, 2), CATEGORIES, {"epoch": 1})
    write_json(folder / "config.json", config_json(Config(config)))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(Path("a.png"), 60, 40, 1)
    write_image(Path("b/a.png"), 40, 60, 2)


def test_each_image_has_a_drawing_and_the_numbers(run, capsys):
    assert explain.main([str(run), "a.png", "b", "--score=0.01", "--top=20", "--patch=1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("a.png: ") > 4 and "written to explanations\n" in printed
    assert all(line.isprintable() for line in printed.splitlines()) and r"\x1b[1mdog" in printed
    files = sorted(path.name for path in Path("explanations").iterdir())
    assert files == ["a-2.json", "a-2.png", "a.json", "a.png", "mean.json", "mean.png"], "equal stems stay apart"
    described = json.loads(Path("explanations/a.json").read_text())
    assert described["patch_side"] == pytest.approx(8 / (64 / 60))
    first = next(entry for entry in described["detections"] if "far_patch" in entry)
    assert first["class"] in [category.name for category in CATEGORIES] and 0 <= first["probability"] <= 1
    x0, y0, x1, y1 = first["far_patch"]
    assert (x1 - x0, y1 - y0) == pytest.approx((7.5, 7.5), rel=0.02) and 0 <= x0 < 60 and 0 <= y0 < 60
    assert Image.open("explanations/a.png").width > 2 * 384
    total = sum(
        len(json.loads(Path(f"explanations/{name}").read_text())["detections"]) for name in ("a.json", "a-2.json")
    )
    assert json.loads(Path("explanations/mean.json").read_text())["detections"] == total
    assert f"mean of {total} detections: " in printed
    assert explain.main([str(run), "a.png", "--score=0.01", "--top=1"]) == 0
    assert sorted(path.name for path in Path("explanations-2").iterdir()) == ["a.json", "a.png"], "no mean of one image"


def test_without_images_those_of_the_validation_split(finished_run, capsys):
    assert explain.main([str(finished_run), "--score=0.01", "--top=1", "--patch=4"]) == 0
    drawn = {path.stem for path in Path("explanations").glob("*.png")}
    files = json.loads((finished_run / "config.json").read_text())["data"]["val"]["annotations"]
    names = {Path(image["file_name"]).stem for image in json.loads(Path(files).read_text())["images"]}
    assert drawn == names | {"mean"} and len(names) == 3


def test_an_image_called_mean_keeps_its_drawing(run):
    write_image(Path("mean.png"), 60, 40, 1)
    assert explain.main([str(run), "mean.png", "b", "--score=0.01", "--top=1"]) == 0
    assert {path.name for path in Path("explanations").glob("*.png")} == {"mean-2.png", "a.png", "mean.png"}


def test_what_a_plain_detector_prints_is_no_patch(run, capsys, monkeypatch):
    """At random weights nothing far from a box changes its class by 0.01; the covered images have a progress bar."""
    monkeypatch.setattr(logs, "_SECONDS_BETWEEN_LINES", 0)
    assert explain.main([str(run), "a.png", "--score=0.01", "--top=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in lines if line.startswith("a.png")] == (
        ["no patch far from it lowers that by 0.01"] * 2
    )
    assert any(line.startswith("covering a") for line in lines)


def test_an_image_without_detections_is_named(run, capsys):
    assert explain.main([str(run), "a.png", "--score=1"]) == 0
    text = capsys.readouterr().out
    assert "a.png: nothing found with a score of 1 or more" in text
    assert "nothing is written: lower --score" in text and not Path("explanations").exists()


def test_images_may_follow_options(run):
    assert explain.main([str(run), "--score=0.01", "--top=1", "--output=mine", "a.png"]) == 0
    assert Path("mine/a.json").is_file()


def test_an_output_that_is_not_free_is_refused_first(run, capsys):
    Path("full").mkdir()
    Path("full/mine").write_text("mine")
    for output in ("full", "full/mine"):
        assert explain.main([str(run), "a.png", f"--output={output}"]) == 2
        printed = capsys.readouterr()
        assert not printed.out and f"{output}: exists already and is not an empty folder" in printed.err


def test_mistakes_are_a_sentence_and_leave_nothing(run, tmp_path, capsys):
    sequence = override(Config(DETECTOR), []).detector
    other = write_run(tmp_path / "other", sequence.__class__(**{**vars(sequence), "head": partial(SequenceHead)}))
    Path("broken.png").write_bytes(b"x")
    write_image(Path("thin.png"), 400, 1, 3)
    for arguments, sentence in (
        ([run, "a.png", "--top=0"], "--top 0: must be 1 or more"),
        ([run, "a.png", "--score=2"], "between 0 and 1"),
        ([other, "a.png"], "does not classify given boxes"),
        ([run, "broken.png"], "broken.png"),
        ([run, "none.png"], "none.png"),
        ([run], "data.val.annotations is not set"),
        ([run, "a.png", "thin.png"], "thin.png of 400x1 pixels is too thin"),
    ):
        assert explain.main([str(a) for a in arguments]) == 2
        assert sentence in capsys.readouterr().err
        assert not Path("explanations").exists()
