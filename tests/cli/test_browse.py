"""The sheet of what the detector sees, and the sizes that are printed with it."""

import json
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image

from detection.analysis.anchor_fit import input_boxes
from detection.analysis.visualize import distinct_colors
from detection.atomic_write import write_json
from detection.cli import browse
from detection.config import override, to_plain
from detection.data.transforms import Transform
from detection.runs.folder import CONFIG_FORMAT, config_json
from detection.training.data import open_data
from tests.coco_files import small, write
from tests.tiny_runs import tiny_config, write_config


@pytest.fixture
def config_file(shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_config(tmp_path / "tiny.py", shapes)


def _main(capsys, *arguments):
    code = browse.main([str(a) for a in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_numbers_are_at_the_detectors_input(tmp_path, monkeypatch, capsys):
    """SMALL's boxes by hand: image 20 is 40x30 and becomes 80x60, image 10 is 20x50 and becomes 32x80."""
    monkeypatch.chdir(tmp_path)
    annotations = write(tmp_path, small())
    config = override(tiny_config(tmp_path), ["detector.min_size=60", "detector.max_size=80"])
    config = override(config, [f"data.train.annotations={annotations}", f"data.train.images={tmp_path / 'images'}"])
    write_json(tmp_path / "config.json", config_json(config))
    _, images = browse.open_source(str(tmp_path), [], "train")
    # The crowd region is no object, and the box 30.5 … 50.5 ends with its image at 40.
    expected = [[9.5 * 2, 5 * 2], [3 * 1.6, 4 * 1.6], [20 * 1.6, 50 * 1.6]]
    boxes = input_boxes(images.index, config)
    np.testing.assert_allclose(sorted(boxes.tolist()), sorted(expected), rtol=1e-6)
    code, out, err = _main(capsys, tmp_path)
    assert (code, err) == (0, "")
    assert "3 images, 3 boxes" in out and "shorter side 60, longer side at most 80 px" in out
    rows = [line.split() for line in out.splitlines()]
    assert ["cat", "1", "50.6", "px"] in rows and ["dog", "2", "9.7", "px"] in rows
    assert "small: 1 under 8 px, 2 under 16 px, 2 under 32 px" in out
    assert "anchors now: c3 12/24 px" in out


def test_the_augmented_sheet_shows_what_training_gets(config_file, shapes, capsys):
    settings = ["data.augmentation.jitter=1", "data.augmentation.photometric=1"]
    code, _, err = _main(capsys, config_file, "--augmented", "--count", 3, "--epoch", 5, *settings)
    assert (code, err) == (0, "")
    sheet = np.array(Image.open("browse.png"))
    config = tiny_config(shapes, *settings)
    data = open_data(config, Accelerator(cpu=True))
    cell, gap = 512, 8
    line = (sheet.shape[0] - gap) // 3 - cell - gap
    assert sheet.shape[1] == 5 * (cell + gap) + gap and 10 < line < 40
    colors = np.array(list(distinct_colors([c.name for c in data.train.categories]).values()))
    plain = Transform(None, 64, 64)
    for row, position in enumerate([0, 3, 6]):
        for column in range(5):
            data.train.transform = plain if column == 0 else Transform(config.data.augmentation, 64, 64)
            image, target = data.train[(4 + column, position)]
            y, x = gap + line + row * (cell + line + gap), gap + column * (cell + gap)
            seen = sheet[y + 4 : y + cell : 8, x + 4 : x + cell : 8]
            same = (seen == image.permute(1, 2, 0).numpy()).all(2)
            assert same.mean() > 0.5, (row, column)
            shown = (sheet[y : y + cell, x : x + cell, None] == colors).all(3).any((0, 1))
            assert shown[target["labels"].numpy() - 1].all(), (row, column)


def test_the_plain_sheet_and_a_run(config_file, shapes, capsys, tmp_path):
    write_json(tmp_path / "config.json", config_json(tiny_config(shapes)))
    assert _main(capsys, config_file, "--split", "val", "--output", "new/a.png")[0] == 0
    code, out, _ = _main(capsys, tmp_path, "--split", "val", "--output", "b.png", "--count", 99)
    assert code == 0 and "val       3 images" in out
    first, second = Path("new/a.png").read_bytes(), Path("b.png").read_bytes()
    assert first == second and Image.open("b.png").width == 3 * 520 + 8
    assert [p.name for p in Path("new").iterdir()] == ["a.png"]


def test_large_inputs_are_shrunk_together_with_their_boxes(config_file, capsys):
    big = ["detector.min_size=1024", "detector.max_size=1024"]
    for name, settings in (("a.png", []), ("b.png", big)):
        assert _main(capsys, config_file, "--count", 1, "--output", name, *settings)[0] == 0
    small_sheet, big_sheet = (np.array(Image.open(name)).astype(int) for name in ("a.png", "b.png"))
    assert small_sheet.shape == big_sheet.shape
    # Titles and interpolation differ, boxes must not.
    assert (np.abs(small_sheet - big_sheet).max(2) > 96).mean() < 0.02


def test_the_sheet_follows_the_seed_and_no_augmentation_is_reported(config_file, capsys):
    for name, setting in (("a.png", "seed=0"), ("b.png", "seed=1"), ("c.png", "seed=0")):
        _main(capsys, config_file, "--augmented", "--output", name, setting, "data.augmentation.jitter=1")
    assert Path("a.png").read_bytes() == Path("c.png").read_bytes() != Path("b.png").read_bytes()
    code, out, _ = _main(capsys, config_file, "--augmented", "data.augmentation=None")
    assert code == 0 and "every epoch gets the same images" in out


def test_images_left_out_of_training_are_not_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    annotations = write(tmp_path, small())
    config = override(tiny_config(tmp_path), ["data.train.empty_images=drop"])
    config = override(config, [f"data.train.annotations={annotations}", f"data.train.images={tmp_path / 'images'}"])
    write_json(tmp_path / "config.json", config_json(config))
    _, images = browse.open_source(str(tmp_path), [], "train")
    _, titles = browse.draw_images(images, config, 8, range(2))
    assert [t.split(",")[0] for t in titles] == ["a.png", "epoch 0", "epoch 1", "b.png", "epoch 0", "epoch 1"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--count", "0"], "--count 0: must be 1 or more."),
        (["--augmented", "--split", "val"], "only training images are augmented"),
        (["--epoch", "1"], "only with --augmented"),
        (["--augmented", "--epoch", "-1"], "--epoch -1: a number from 0 on"),
        (["--output", "a.jpg"], "--output a.jpg: must be a file name that ends in .png."),
        (["data.train.images=gone"], "data.train.images=gone: no such folder."),
        (["data.train.annotations="], "data.train.annotations is not set"),
        (["data.train.annotations=none.json"], "none.json"),
        (["data.augmentation.flip=1"], "unknown config key"),
    ],
)
def test_mistakes_get_one_sentence(config_file, capsys, arguments, sentence):
    code, _, err = _main(capsys, config_file, *arguments)
    assert code == 2 and sentence in err and err.count("\n") == 1
    assert not list(Path().glob("*.png"))


def test_no_such_config(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "tiny.py: no such file, and no shipped config" in _main(capsys, "tiny.py")[2]
    assert "not a run folder" in _main(capsys, tmp_path)[2]


def test_scenes_are_drawn_when_they_are_not_there(config_file, shapes, tmp_path, capsys):
    folder = tmp_path / "scenes"
    config = to_plain(tiny_config(folder))
    config["data"]["scenes"] = {"task": "shapes", "train": 3, "val": 1, "size": 64, "seed": 0}
    (tmp_path / "config.json").write_text(json.dumps({"format": CONFIG_FORMAT, **config}))
    code, out, err = _main(capsys, tmp_path)
    assert (code, err) == (0, "") and "drawing 3 + 1 images" in out and (folder / "train.json").is_file()
    assert "drawing" not in _main(capsys, tmp_path)[1]
