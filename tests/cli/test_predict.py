"""Prediction on files: which images are found, what is written, and what happens to a broken one."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from detection.analysis.visualize import distinct_colors
from detection.atomic_write import write_json
from detection.cli import predict
from detection.config import Config
from detection.context import AttentionLSTM
from detection.data.coco_index import Category
from detection.data.images import read_image
from detection.detector import build_detector
from detection.errors import UserError
from detection.predictor import Detections, Predictor
from detection.runs.checkpoint import save_checkpoint
from detection.runs.folder import config_json, open_run
from detection.runs.image_files import find_images
from detection.runs.prediction import ImageFile, ImageFiles, detect, image_batches
from detection.tiles import Tiles
from detection.training.engine import coco_results
from detection.training.loaders import DataLoader
from detection.training.preemption import outlive_signals
from tests.coco_files import write_image
from tests.hostile_names import KINDS, hostile_names
from tests.tiny_runs import DETECTOR
from tests.video.films import write_film

CATEGORIES = (Category(3, "cat"), Category(9, "dog"))


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    torch.manual_seed(0)
    save_checkpoint(folder / "checkpoints" / "best", build_detector(DETECTOR, 2), CATEGORIES, {"epoch": 1})
    write_json(folder / "config.json", config_json(Config(DETECTOR)))
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_image(Path("photos/b.png"), 60, 40, 1)
    write_image(Path("photos/a.PNG"), 40, 60, 2)
    write_image(Path("photos/sub/a.png"), 30, 30, 3)
    Path("photos/notes.txt").write_text("no image")
    Path("photos/.hidden.png").write_bytes(b"")
    return Path("photos")


def _main(capsys, *arguments):
    code = predict.main([str(a) for a in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def _written(folder):
    images = json.loads((folder / "images.json").read_text())
    with open(folder / "detections.csv", newline="") as file:
        return images, json.loads((folder / "results.json").read_text()), list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["photos"], ["a.PNG", "b.png"]),
        (["photos/b.png", "photos"], ["b.png", "a.PNG"]),
        (["photos/./b.png", "photos/sub/../b.png"], ["b.png"]),
        (["photos/*.png"], ["b.png"]),
        (["photos/**"], ["a.PNG", "b.png", "sub/a.png"]),
        (["photos/*"], ["a.PNG", "b.png", "sub/a.png"]),
        (["photos/[ab].*", "photos/.hidden.png"], ["a.PNG", "b.png", ".hidden.png"]),
    ],
)
def test_files_folders_and_patterns_are_found_in_order_and_once(photos, arguments, names):
    assert [os.path.normpath(p) for p in find_images(arguments).paths] == [f"photos/{name}" for name in names]


def test_a_file_with_brackets_in_its_name_is_no_pattern(photos):
    write_image(photos / "c[1].png", 9, 9)
    assert find_images(["photos/c[1].png"]).paths == [photos / "c[1].png"]


@pytest.mark.parametrize("argument", ["photos/none.png", "photos/*.gif", "photos/*.txt", "empty"])
def test_an_argument_without_images_is_named(photos, argument):
    Path("empty").mkdir()
    with pytest.raises(UserError, match=argument.replace("*", r"\*")):
        find_images(["photos", argument])


def _one_box(images, batch_size):
    """A predictor that finds a box as large as the image, of score 1 / the number of images in its batch."""
    assert len(images) <= batch_size
    boxes = [torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]]) for image in images]
    score = torch.tensor([1 / max(1, len(images))])
    return [Detections(box, score, torch.tensor([2]), (5, int(box[0, 2])), CATEGORIES) for box in boxes]


def _image(width):
    return ImageFile(Path(f"{width}.png"), torch.zeros(3, 5, width, dtype=torch.uint8))


def test_detect_keeps_images_and_detections_together_and_passes_broken_ones_by():
    broken = ImageFile(Path("broken.png"), None, "it is broken.")
    batches = [[_image(1), broken, _image(3)], [broken], [_image(4)]]
    found = list(detect(_one_box, batches))
    assert [p for p, _ in found] == [p for batch in batches for p in batch]
    widths = [None if d is None else (d.boxes[0, 2].item(), d.scores.item()) for _, d in found]
    assert widths == [(1, 0.5), None, (3, 0.5), None, (4, 1.0)]


def test_workers_change_nothing(photos):
    for number in range(14):
        write_image(photos / f"{number}.png", 20 + number, 20, number)
    files = ImageFiles(find_images(["photos"]).paths, 64, 64)
    assert len(files) == 16
    batches = list(image_batches(files, 3))
    assert [len(batch) for batch in batches] == [3, 3, 3, 3, 3, 1]
    for position, image in enumerate(p for batch in batches for p in batch):
        expected = read_image(files.paths[position])
        assert image.path == files.paths[position]
        np.testing.assert_array_equal(image.image.permute(1, 2, 0).numpy(), expected)


def test_everything_is_written_and_agrees(run, photos, capsys):
    code, out, err = _main(capsys, run, "photos", "photos/sub", "--score", 0.3, "--device", "cpu", "--output", "o/p")
    assert (code, err) == (0, "")
    images, results, table = _written(Path("o/p"))
    assert [i["file_name"] for i in images["images"]] == ["photos/a.PNG", "photos/b.png", "photos/sub/a.png"]
    assert [(i["id"], i["width"], i["height"]) for i in images["images"]] == [(1, 40, 60), (2, 60, 40), (3, 30, 30)]
    assert sorted(os.listdir("o/p/images")) == ["a-2.png", "a.png", "b.png"]
    assert sorted(os.listdir("o/p")) == ["detections.csv", "images", "images.json", "results.json"]
    assert os.listdir("o") == ["p"]

    detector, categories, config = open_run(run)
    expected = []
    with torch.no_grad():
        for pair in ([1, 2], [3]):
            paths = [images["images"][i - 1]["file_name"] for i in pair]
            detections = detector([torch.from_numpy(read_image(p)).permute(2, 0, 1) for p in paths])
            for image_id, detection in zip(pair, detections, strict=True):
                expected += [r for r in coco_results(detection, image_id, categories) if r["score"] >= 0.3]
    assert results == expected and len(results) > 3

    files = {i["id"]: i["file_name"] for i in images["images"]}
    names = {c["id"]: c["name"] for c in images["categories"]}
    for row, result in zip(table, results, strict=True):
        assert (row["file"], row["label"]) == (files[result["image_id"]], names[result["category_id"]])
        x1, y1, x2, y2 = (float(row[k]) for k in ("x1", "y1", "x2", "y2"))
        np.testing.assert_allclose([x1, y1, x2 - x1, y2 - y1], result["bbox"], atol=0.002)
    assert f"detections  {len(results)}\n" in out and "images      3\n" in out and "from 0.3, as asked for" in out
    dogs = sum(r["category_id"] == 9 for r in results)
    assert f"dog  {dogs}\n" in out


def test_images_json_and_results_json_open_in_pycocotools(run, photos, capsys):
    assert _main(capsys, run, "photos", "--score", 0.3)[0] == 0
    with redirect_stdout(StringIO()):
        results = COCO("predictions/images.json").loadRes("predictions/results.json")
    assert results.getImgIds() == [1, 2] and len(results.getAnnIds()) > 0


def test_drawn_images_show_the_image_and_its_boxes(run, photos, capsys):
    assert _main(capsys, run, "photos/b.png", "--score", 0.3)[0] == 0
    drawn = np.array(Image.open("predictions/images/b.png"))
    factor = drawn.shape[0] // 40
    assert drawn.shape == (40 * factor, 60 * factor, 3) and min(drawn.shape[:2]) >= 384
    colors = distinct_colors(["cat", "dog"])
    for label in {row["label"] for row in _written(Path("predictions"))[2]}:
        assert (drawn == colors[label]).all(2).sum() > 100
    assert _main(capsys, run, "photos/b.png", "--score", 1, "--output", "none")[0] == 0
    plain = np.array(Image.open("none/images/b.png"))
    np.testing.assert_array_equal(plain[::factor, ::factor], read_image("photos/b.png"))
    assert plain.shape == drawn.shape and (plain != drawn).any()


def test_a_thin_image_is_not_enlarged_beyond_reason(run, photos, capsys):
    write_image(Path("thin.png"), 120, 2)
    assert _main(capsys, run, "thin.png")[0] == 0
    assert Image.open("predictions/images/thin.png").size == (120 * 17, 2 * 17)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ('{"best_f1": {"score": 0.4321}}', "from 0.432, of the best F1"),
        ('{"best_f1": {"score": -1.0}}', "from 0.5, the best F1"),
        ("{", "from 0.5, there is no best F1"),
        ("[" * 5000, "from 0.5, there is no best F1"),
        ('{"best_f1": {"score": NaN}}', "from 0.5, the score of the best F1"),
        (None, "from 0.5, there is no best F1"),
    ],
)
def test_the_score_comes_from_the_best_f1(run, photos, capsys, tmp_path, metrics, said):
    copy = shutil.copytree(run, tmp_path / "copy")
    if metrics is not None:
        (copy / "metrics.json").write_text(metrics)
    code, out, _ = _main(capsys, copy, "photos")
    assert code == 0 and said in out
    scores = [r["score"] for r in _written(Path("predictions"))[1]]
    least = float(said.split(",")[0].removeprefix("from "))
    assert all(score >= least for score in scores)


def test_broken_images_are_named_and_the_rest_is_done(run, photos, capsys):
    (photos / "aa.jpg").write_bytes(b"")
    (photos / "ab.png").write_bytes((photos / "b.png").read_bytes()[:200])
    write_image(photos / "ac.png", 300, 1)
    code, out, err = _main(capsys, run, "photos", "--batch-size", 2)
    assert code == 1
    assert [line.split()[2] for line in err.splitlines()] == ["photos/aa.jpg", "photos/ab.png", "photos/ac.png"]
    assert "300x1 pixels is too thin" in err
    assert "images      2; 3 of 5 could not be read" in out
    images, results, _ = _written(Path("predictions"))
    assert [(i["id"], i["drawn"]) for i in images["images"]] == [(1, "images/a.png"), (2, "images/b.png")]
    assert {r["image_id"] for r in results} <= {1, 2}


def test_nothing_is_written_where_nothing_can_be_read(run, photos, capsys):
    Path("x.png").write_bytes(b"")
    code, _, err = _main(capsys, run, "x.png", "photos/.hidden.png")
    assert code == 2 and "x.png is empty" in err and "(and 1 more that cannot be read either)" in err
    assert sorted(os.listdir()) == ["photos", "x.png"]


def test_nothing_is_left_after_a_failure_halfway(run, photos, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("disk")

    monkeypatch.setattr("detection.predictor.Detections.draw", fail)
    with pytest.raises(RuntimeError, match="disk"):
        predict.main([str(run), "photos"])
    assert os.listdir() == ["photos"]


def test_an_existing_output_is_left_alone(run, photos, capsys):
    for name in ("full", "empty"):
        Path(name).mkdir()
    Path("full/mine.txt").write_text("mine")
    Path("file").write_text("mine")
    for name in ("full", "file"):
        code, _, err = _main(capsys, run, "photos", "--output", name)
        assert code == 2 and err.startswith(f"error: {name}: exists already")
    assert os.listdir("full") == ["mine.txt"] and Path("file").read_text() == "mine"
    assert _main(capsys, run, "photos", "--output", "empty")[0] == 0
    assert Path("empty/results.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["photos", "--score", "1.5"], "--score 1.5: must be between 0 and 1."),
        (["photos", "--batch-size", "0"], "--batch-size 0: must be 1 or more."),
        (["photos/*.gif"], "photos/*.gif: no image matches"),
        (["photos", "--output", "photos/b.png/x"], "photos/b.png/x: cannot be written"),
    ],
)
def test_mistakes_get_one_sentence(run, photos, capsys, arguments, sentence):
    code, _, err = _main(capsys, run, *arguments)
    assert code == 2 and sentence in err and err.count("\n") == 1 and not Path("predictions").exists()


def test_a_folder_that_is_no_run(photos, capsys):
    code, _, err = _main(capsys, "photos", "photos")
    assert code == 2 and "photos: not a run folder" in err and os.listdir() == ["photos"]


def test_an_fp16_run_predicts_on_a_cpu(run, photos, capsys, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    write_json(copy / "config.json", config_json(Config(DETECTOR, precision="fp16")))
    assert _main(capsys, copy, "photos", "--device", "cpu")[0] == 0


def test_attention_is_drawn_for_every_image_that_can_be_read(photos, tmp_path, capsys):
    torch.manual_seed(0)
    parts = {"context": partial(AttentionLSTM, hidden_channels=4), "context_source": "c3"}
    config = dataclasses.replace(DETECTOR, pool=partial(DETECTOR.pool, stages=("context",)), **parts)
    save_checkpoint(tmp_path / "run/checkpoints/best", build_detector(config, 2), CATEGORIES, {"epoch": 1})
    write_json(tmp_path / "run/config.json", config_json(Config(config)))
    code, out, _ = _main(capsys, tmp_path / "run", "photos/**", "photos/.hidden.png", "--attention", "--score", 0)
    assert code == 1 and "attention/" in out
    written = [{path.name for path in Path("predictions", kind).iterdir()} for kind in ("images", "attention")]
    assert written[0] == written[1] == {"a.png", "b.png", "a-2.png"}


def test_attention_of_a_run_that_has_none_writes_nothing(run, photos, capsys):
    code, _, err = _main(capsys, run, "photos", "--attention")
    assert (
        code == 2 and err.startswith("error: --attention: the run has no context") and not Path("predictions").exists()
    )


def test_what_a_folder_holds_besides_images_is_counted(photos):
    for name in ("IMG_1.HEIC", "clip.mp4", "clip2.mp4", "list.csv", "data.bin", "README"):
        (photos / name).write_bytes(b"x")
    (photos / "gone.png").symlink_to("nowhere.png")
    (photos / "sub2").mkdir()
    found = find_images(["photos"])
    assert [path.name for path in found.paths] == ["a.PNG", "b.png"]
    kinds = {note.partition(":")[0] for note in found.notes}
    assert kinds == {
        "2 folders", "2 .mp4", "1 .heic", "1 .csv", "1 .txt", "1 .bin", "1 file without suffix", "1 hidden file",
        "1 broken link or pipe",
    }  # fmt: skip
    (heic,) = (note for note in found.notes if "heic" in note)
    assert "pillow-heif" in heic
    assert not any("images in them" in note for note in find_images(["photos/**"]).notes)


def test_what_was_not_taken_is_printed(run, photos, capsys):
    (photos / "IMG_1.HEIC").write_bytes(b"x")
    code, out, _ = _main(capsys, run, "photos")
    assert code == 0 and "not taken " in out and "1 .heic: needs the package pillow-heif" in out
    assert "1 folder: images in them" in out


@pytest.mark.parametrize("suffix", ["jfif", "avif", "jp2", "ppm", "tga"])
def test_every_format_of_pillow_is_taken(photos, suffix):
    if f".{suffix}" not in Image.registered_extensions():
        pytest.skip(f"this Pillow writes no .{suffix}")
    Image.new("RGB", (8, 8), "red").save(photos / f"x.{suffix}", "JPEG" if suffix == "jfif" else None)
    (path,) = (path for path in find_images(["photos"]).paths if path.name.startswith("x."))
    assert read_image(path).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("https://example.org/a.jpg", "is a URL"),
        ("-", "standard input is not read"),
        ("0", "cameras are not read"),
        ("clip.mp4", "is a video"),
        ("x.avi", "is a video"),
        ("list.txt", "is a text file"),
        ("photo.heic", "is HEIC, which needs the package pillow-heif"),
        ("paper.pdf", "is a PDF"),
        ("photos.zip", "is an archive"),
        ("drawing.svg", "is an SVG drawing"),
        ("n" * 300, "no such file or folder"),
        ("nul\0byte", "no such file or folder"),
    ],
)
def test_what_is_no_image_is_named(run, photos, capsys, argument, sentence):
    Path("clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(64))
    Path("x.avi").write_bytes(b"RIFF\0\0\0\0AVI LIST")
    Path("list.txt").write_text("photos/a.PNG\nphotos/b.png\n")
    Path("photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    Path("paper.pdf").write_bytes(b"%PDF-1.7\n")
    Path("photos.zip").write_bytes(b"PK\3\4")
    Path("drawing.svg").write_text('<?xml version="1.0"?><svg/>')
    code, _, err = _main(capsys, run, "photos", argument)
    assert code == 2 and sentence in err and err.count("\n") == 1 and not Path("predictions").exists()


def test_a_video_among_images_is_named_for_what_it_is(run, photos, capsys):
    (photos / "c.png").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(64))
    code, _, err = _main(capsys, run, "photos")
    assert code == 1 and "image photos/c.png is a video" in err and len(err.splitlines()) == 1


def test_a_second_run_takes_the_next_folder(run, photos, capsys):
    Path("predictions-2").write_text("mine")
    for expected in ("predictions", "predictions-3", "predictions-4"):
        code, out, _ = _main(capsys, run, "photos/b.png")
        assert code == 0 and f"written to  {expected}: " in out and Path(expected, "results.json").is_file()
    assert Path("predictions-2").read_text() == "mine"
    (photos / "x.png").write_bytes(b"")
    assert _main(capsys, run, "photos/x.png")[0] == 2 and not Path("predictions-5").exists()


@pytest.mark.parametrize("name", ["checkpoints/best", "checkpoints", "checkpoints/best/model.safetensors"])
def test_a_checkpoint_stands_for_its_run(run, photos, capsys, tmp_path, name):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "metrics.json").write_text('{"best_f1": {"score": 0.4321}}')
    code, out, err = _main(capsys, copy / name, "photos/b.png")
    assert (code, err) == (0, "") and "from 0.432, of the best F1" in out


def test_images_that_shrink_a_lot_are_reported(run, photos, capsys, monkeypatch):
    monkeypatch.setattr("detection.runs.prediction.LARGEST_DRAWN", 500)
    write_image(photos / "large.png", 1280, 640)
    code, out, _ = _main(capsys, run, "photos", "--score", 0.3)
    assert code == 0 and "shrunk      1 of them a lot for the detector, photos/large.png to 1/20 of the width" in out
    assert Image.open("predictions/images/large.png").size == (500 * 2, 250 * 2)
    (entry,) = (i for i in _written(Path("predictions"))[0]["images"] if i["file_name"].endswith("large.png"))
    assert (entry["width"], entry["height"]) == (1280, 640)


def test_a_large_image_is_read(run, photos, capsys):
    Image.new("1", (10_000, 9_500)).save("large.png")  # above Pillow's own limit for a warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image("large.png").shape == (9_500, 10_000, 3)


def test_an_image_beyond_the_limit_is_refused_for_its_size(run, photos, capsys, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    code, _, err = _main(capsys, run, "photos/b.png")
    assert code == 2 and "million pixels: cut it into tiles" in err and "damaged" not in err


def test_hostile_names_of_files_and_classes(photos, capsys, tmp_path):
    names = hostile_names(len(KINDS))
    categories = tuple(Category(i, name) for i, name in enumerate(names, start=1))
    torch.manual_seed(0)
    config = dataclasses.replace(DETECTOR, head=partial(DETECTOR.head, score_threshold=0.001))
    save_checkpoint(tmp_path / "run/checkpoints/best", build_detector(config, len(names)), categories, {"epoch": 1})
    write_json(tmp_path / "run/config.json", config_json(Config(config)))
    files = [os.fsdecode(os.fsencode(name.replace("/", "_"))[:200]) for name in names if _is_file_name(name)]
    for name in files:
        write_image(Path("in") / f"{name}.png", 20, 20)
    code, out, err = _main(capsys, tmp_path / "run", "in", "--score", 0)
    hidden = sum(name.startswith(".") for name in files)
    assert (code, err) == (0, "") and all(line.isprintable() for line in out.splitlines())
    images, results, _ = _written(Path("predictions"))
    assert {i["file_name"] for i in images["images"]} == {f"in/{n}.png" for n in files if not n.startswith(".")}
    assert [c["name"] for c in images["categories"]] == names
    drawn = {path.name for path in Path("predictions/images").iterdir()}
    assert len(drawn) == len(files) - hidden and all(name.isprintable() for name in drawn)
    text = Path("predictions/detections.csv").read_text(encoding="utf-8")
    assert len(text.splitlines()) == len(results) + 1 and len(results) > 20
    for row in csv.reader(text.splitlines()):
        assert not any(cell.lstrip().startswith(("=", "+", "@")) for cell in row) and all(map(str.isprintable, row))


def _is_file_name(name):
    try:
        return bool(name) and "\0" not in name and bool(os.fsencode(name))
    except UnicodeEncodeError:
        return False


def test_a_film_is_drawn_and_tabled(run, photos, capsys):
    write_film(Path("film.mp4"), 5, 64, 48)
    code, out, err = _main(capsys, run, "film.mp4", "--score", 0.3, "--device", "cpu", "--batch-size", 2)
    assert (code, err) == (0, "") and "frames      5 of 5 announced, all drawn in videos/film.mp4" in out
    assert sorted(os.listdir("predictions")) == ["detections.csv", "videos"]
    with open("predictions/detections.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert f"detections  {len(rows)}\n" in out and {row["frame"] for row in rows} <= {"0", "1", "2", "3", "4"}
    short = Path("film.mp4").read_bytes()[:-100]
    Path("short.mp4").write_bytes(short)
    code, out, err = _main(capsys, run, "*.mp4", "--score", 0.3, "--output", "o")
    assert code == 1 and "1; 1 of 2 could not be read" in out and "short.mp4 is cut short" in err
    code, _, err = _main(capsys, run, "short.mp4", "--output", "o2")
    assert code == 2 and "short.mp4 is cut short" in err and err.count("\n") == 1 and not Path("o2").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos", "film.mp4"], "film.mp4 is a video, photos is none"),
        (["film.mp4", "--attention"], "--attention: is drawn in images alone"),
        (["photos", "--tiles", "64", "--attention"], "leave out --tiles"),
        (["photos", "--overlap", "0.3"], "give their size, too: --tiles 640"),
        (["photos", "--tiles", "8"], "tiles of 8 pixels"),
        (["photos", "--tiles", "64", "--overlap", "1"], "overlap=1.0: must be between 0 and 0.9"),
    ],
)
def test_what_does_not_go_together_is_named(run, photos, capsys, arguments, words):
    write_film(Path("film.mp4"), 2, 64, 48)
    code, _, err = _main(capsys, run, *arguments)
    assert code == 2 and words in err and err.count("\n") == 1 and not Path("predictions").exists()


@pytest.mark.parametrize("more", [["--tiles-only"], []])
def test_an_image_too_thin_for_the_detector_is_detected_in_by_tiles(run, photos, capsys, more):
    write_image(Path("long/a.png"), 2000, 20, 3)
    arguments = (run, "long", "--score", 0.05, "--device", "cpu", "--tiles", 640)
    code, out, err = _main(capsys, *arguments, *more, "--output", "o")
    assert code == 0 and "images      1\n" in out, err
    found = Predictor(run, "cpu", 0.05)("long/a.png", tiles=Tiles(640))
    assert json.loads(Path("o/results.json").read_text()) == found.to_coco(1)
    code, _, err = _main(capsys, *arguments[:-2])
    words = "2000x20 pixels is too thin to detect anything in at once: detect in tiles (--tiles 640), crop it or leave"
    assert code == 2 and words in err
    write_image(Path("long/a.png"), 2000, 1, 3)
    code, _, err = _main(capsys, *arguments, *more)
    assert code == 2 and "a tile of image long/a.png of 640x1 pixels is too thin" in err


def test_a_video_too_thin_for_the_detector_is_detected_in_by_tiles(run, photos, capsys):
    write_film(Path("thin.mp4"), 2, 2000, 20)
    arguments = (run, "thin.mp4", "--score", 0.05, "--device", "cpu")
    code, out, err = _main(capsys, *arguments, "--tiles", 640, "--output", "o")
    assert code == 0 and Path("o/detections.csv").is_file(), err
    code, _, err = _main(capsys, *arguments, "--output", "p")
    words = "video thin.mp4: a frame of 2000x20 pixels is too thin to detect anything in at once: detect in tiles"
    assert code == 2 and words in err


def test_a_folder_that_a_link_leads_back_to_is_taken_once(photos):
    Path("photos/again").symlink_to(".")
    assert find_images(["photos/**"]).paths == find_images(["photos", "photos/again/sub", "photos/sub"]).paths
    assert find_images(["photos", "photos/again"]).paths == find_images(["photos"]).paths


def test_tiles_are_detected_in_and_merged(run, photos, capsys):
    write_image(Path("large/a.png"), 600, 300, 3)
    code, out, _ = _main(capsys, run, "large", "--score", 0.3, "--device", "cpu", "--tiles", 100, "--output", "o")
    assert code == 0 and "shrunk" not in out
    _, results, table = _written(Path("o"))
    found = Predictor(run, "cpu", 0.3)("large/a.png", tiles=100)
    assert len(results) == len(table) == len(found) > 0
    assert found.to_coco(1) == results
    code, out, _ = _main(capsys, run, "large", "--device", "cpu", "--output", "o2")
    assert "--tiles 640" in out  # a hint, where small objects are lost


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (BrokenPipeError(32, "Broken pipe"), BrokenPipeError),
        (OSError(5, "Input/output error", "photos/a.png"), OSError),
        (OSError(28, "No space left on device", "out/images"), UserError),
        (OSError(28, "No space left on device", ".out.7/detections.csv"), UserError),
        (OSError(13, "Permission denied", "."), UserError),
    ],
)
def test_only_what_cannot_be_written_is_said_of_the_output(tmp_path, monkeypatch, error, raised):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(raised) as found, predict._written(Path("out")):
        raise error
    assert found.type is raised and not list(tmp_path.iterdir())


def test_images_are_loaded_by_processes_that_outlive_signals(photos):
    batches = image_batches(ImageFiles([Path("photos/a.png")] * 16, 64, 64), 2)
    assert type(batches) is DataLoader and batches.worker_init_fn is outlive_signals


def test_sigterm_leaves_nothing_behind(run, photos):
    """A signal ends a film that is at work, and its hidden folder goes with it."""
    write_film(Path("film.mp4"), 3000, 64, 48)
    command = [sys.executable, "-m", "detection.cli.predict", run, "film.mp4", "--device", "cpu", "--batch-size", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(Path().glob(".predictions.*/videos/.writing*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and err == "interrupted by SIGTERM\n"
    assert sorted(os.listdir()) == ["film.mp4", "photos"]
