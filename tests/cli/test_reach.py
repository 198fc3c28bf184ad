"""`detection reach` on runs and configs: what it measures, prints and writes, and what it refuses."""

import dataclasses
import os
from functools import partial
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from detection.analysis.receptive_field import (
    build_context,
    effective_receptive_field,
    image_inputs,
    random_inputs,
    receptive_field_table,
)
from detection.atomic_write import write_json
from detection.cells import CELLS
from detection.cli import reach
from detection.context import SpatialRNN
from detection.data.coco_index import Category
from detection.data.images import read_image
from detection.detector import build_detector
from detection.pooling import RoIAlign
from detection.runs.checkpoint import save_checkpoint
from detection.runs.folder import config_json, open_run
from tests.tiny_runs import DETECTOR, tiny_config

CONTEXT = partial(SpatialRNN, hidden_channels=8)
CONFIG = """
import dataclasses
from functools import partial
from detection.cells import GRU
from detection.config import Config
from detection.context import ConvStack, SpatialRNN
from tests.tiny_runs import DETECTOR

config = Config(dataclasses.replace(DETECTOR, context={context}, context_source={source!r}))
"""
SMALL = ("--size", "9", "11")


@pytest.fixture
def run(shapes, tmp_path):
    config = tiny_config(shapes)
    pool = partial(RoIAlign, stages=("context",), output_size=3)
    detector = dataclasses.replace(DETECTOR, context=CONTEXT, context_source="c3", pool=pool)
    config = dataclasses.replace(config, detector=detector)
    torch.manual_seed(3)
    folder = tmp_path / "run"
    detector = build_detector(config.detector, 2)
    save_checkpoint(folder / "checkpoints" / "best", detector, (Category(1, "a"), Category(2, "b")), {"epoch": 1})
    write_json(folder / "config.json", config_json(config))
    return folder


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Writes `config.py` into an otherwise empty current folder."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)

    def write(context="partial(SpatialRNN, hidden_channels=8)", source="c3"):
        Path("config.py").write_text(CONFIG.format(context=context, source=source))

    write()
    return write


@pytest.fixture
def quick_figure(monkeypatch):
    """The layout of a panel for each cell takes seconds; the figure itself is tested with its module."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: Path(path).write_bytes(b"a figure"))


@pytest.fixture
def no_figure(monkeypatch):
    """Plotting takes most of the command's time on small maps."""
    monkeypatch.setattr(reach, "save_figure", lambda figure, path: None)


def called(capsys, *arguments):
    code = reach.main([str(a) for a in arguments])
    output = capsys.readouterr()
    return code, output.out, output.err


def rows(text):
    """The names in the table."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("context ")) + 1
    return [line.split("  ")[0] for line in lines[first:-1]]


def test_a_run_is_measured_as_trained_on_its_validation_images(run, capsys, shapes):
    code, out, _ = called(capsys, run)
    assert code == 0 and "feature maps of 3 validation images, 8 x 8 locations of 8 px" in out
    assert rows(out) == ["this run"] and str(run / "plots" / "reach.png") in out
    assert Image.open(run / "plots" / "reach.png").size[0] > 600 and os.listdir(run / "plots") == ["reach.png"]
    detector, _, config = open_run(run)
    images = [torch.from_numpy(read_image(path)).permute(2, 0, 1) for path in sorted((shapes / "val").glob("*.png"))]
    inputs = image_inputs(detector, images)
    expected = effective_receptive_field(detector.context, inputs, draws=2, seed=config.seed)
    assert receptive_field_table({"this run": expected}) in out
    read = []
    detector.context.register_forward_hook(lambda module, args, output: read.extend(args))
    detector([images[0]])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(inputs[0], read, strict=True))


def test_a_run_next_to_every_cell_at_initialization(run, capsys, tmp_path, quick_figure):
    code, out, _ = called(capsys, run, "--cells", "--output", tmp_path / "new" / "a.png")
    assert code == 0 and rows(out) == ["this run", *(cell.__name__ for cell in CELLS)]
    assert (tmp_path / "new" / "a.png").is_file() and not (run / "plots").exists()


@pytest.mark.parametrize("arguments", [SMALL, ("data.val.images=nowhere",), ("data.val.annotations=",)])
def test_a_run_on_normal_input(run, capsys, no_figure, arguments):
    code, out, _ = called(capsys, run, *arguments)
    size = "9 x 11" if arguments is SMALL else "33 x 33"
    assert code == 0 and f"standard normal input, {size} locations of 8 px" in out
    assert ("no validation images: data.val." in out) == (arguments is not SMALL)


def test_a_config_is_measured_with_every_cell(config, capsys, quick_figure):
    code, out, _ = called(capsys, "config.py", *SMALL)
    assert code == 0 and rows(out) == [cell.__name__ for cell in CELLS] and "standard normal input" in out
    assert sorted(os.listdir()) == ["config.py", "reach-config.png"]


def test_a_config_with_its_own_cell_alone(config, capsys, no_figure):
    before = called(capsys, "config.py", "--no-cells", *SMALL)[1]
    assert rows(before) == ["SpatialRNN"]
    assert called(capsys, "config.py", "--no-cells", *SMALL)[1] == before
    fresh = build_context(CONTEXT, 16, seed=1)
    expected = receptive_field_table(
        {"SpatialRNN": effective_receptive_field(fresh, random_inputs(16, 9, 11, 8, 1), seed=1)}
    )
    assert expected in called(capsys, "config.py", "--no-cells", *SMALL, "seed=1")[1] and expected not in before
    config("partial(SpatialRNN, hidden_channels=8, cell=partial(GRU))")
    assert called(capsys, "config.py", "--no-cells", *SMALL)[1] != before


def test_a_config_without_recurrence(config, capsys, no_figure):
    config("partial(ConvStack, hidden_channels=8)")
    code, out, _ = called(capsys, "config.py", *SMALL)
    assert code == 0 and rows(out) == ["ConvStack"]
    assert out.splitlines()[-2].split()[1:] == ["0", "-", "-", "3"]


@pytest.mark.parametrize(
    ("context", "arguments", "sentence"),
    [
        ("None", [], "config.py: has no context"),
        ("partial(ConvStack)", ["--cells"], "--cells: the context is a ConvStack"),
        ("partial(ConvStack)", ["--size", "0", "3"], "--size 0 3: must be 1 or more."),
        ("partial(ConvStack)", ["--output", "a.jpg"], "--output a.jpg: must be a file name that ends in .png."),
        ("partial(ConvStack)", ["--output", "config.py/a.png", *SMALL], "config.py/a.png: cannot be written"),
        ("partial(ConvStack)", ["detector.context.kernel_size=4"], "kernel_size=4"),
        ("partial(ConvStack)", ["detector.context_source=c9"], "context: there is no feature map 'c9'"),
    ],
)
def test_mistakes_get_one_sentence(config, capsys, context, arguments, sentence):
    config(context)
    code, _, err = called(capsys, "config.py", *arguments)
    assert code == 2 and sentence in err and err.count("\n") == 1 and os.listdir() == ["config.py"]


def test_sources_that_are_none(config, capsys, finished_run):
    Path("folder").mkdir()
    assert "nothing.py: no such file, and no shipped config of this name" in called(capsys, "nothing.py")[2]
    assert "folder: not a run folder" in called(capsys, "folder")[2]
    assert "has no context" in called(capsys, finished_run)[2] and not (finished_run / "plots/reach.png").exists()


def test_a_figure_that_cannot_be_written_leaves_the_old_one(config, capsys, monkeypatch):
    def full(self, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    Path("a.png").write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", full)
    code, _, err = called(capsys, "config.py", "--no-cells", *SMALL, "--output", "a.png")
    assert code == 2 and "a.png: cannot be written (No space left on device)" in err
    assert sorted(os.listdir()) == ["a.png", "config.py"] and Path("a.png").read_bytes() == b"old"
