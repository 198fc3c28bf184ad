"""`detection export` on a run: what is written and printed, and mistakes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from detection.atomic_write import atomic_write
from detection.cli import export
from tests.coco_files import write_image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def error(arguments, capsys):
    assert export.main([str(argument) for argument in arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1
    return text


def test_a_run_is_exported_and_compared(finished_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write_image(Path(f"images/{number}.png"), 60, 40, number)
    arguments = [finished_run, "--images", "images", "--output", "a/x.onnx", "--dynamic"]
    assert export.main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"compared    \d+ detections on 6 images of --images\n", printed)
    assert re.search(r"an image    [\d.]+ ms by torch, [\d.]+ ms by ONNX Runtime", printed)
    assert "batches of any size" in printed and sorted(os.listdir("a")) == ["predict_onnx.py", "x.onnx"]
    assert "exists already" in error(arguments, capsys)
    Path("a/predict_onnx.py").write_text("mine")
    assert "predict_onnx.py: is another file" in error([*arguments[:4], "a/y.onnx"], capsys)
    assert Path("a/predict_onnx.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "64", "64", "--dynamic"], "--size is for a file of one size"),
        (["--size", "64", "8"], "--size 64 8: both must be 32 or more"),
        (["--opset", "9"], "--opset 9: must be between 17 and 20"),
        (["--images", "nothing"], "nothing"),
        (["--output", "predict_onnx.py"], "is the name of the script beside the model; give it another, such as"),
        (["head=1.5"], "head"),
    ],
)
def test_mistakes_are_one_sentence(finished_run, tmp_path, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in error([finished_run, "--output", tmp_path / "out" / "x.onnx", *arguments], capsys)
    assert not (tmp_path / "out").exists()


def test_without_the_validation_set_images_are_drawn(finished_run, capsys):
    from detection.runs.folder import open_config

    images, origin = export.comparison_images(None, open_config(finished_run, ["data.val.images=nowhere"]))
    assert "drawn" in origin and len(images) == export.COMPARED
    images, origin = export.comparison_images(None, open_config(finished_run))
    assert origin == "of the validation set" and len(images) == 3


def test_images_in_folders_below_the_validation_sets_are_compared_on(finished_run, tmp_path):
    from detection.runs.folder import open_config

    split = open_config(finished_run).data.val
    data = json.loads(Path(split.annotations).read_text())
    folder = tmp_path / "images"
    shutil.copytree(split.images, folder / "below")
    (folder / "of_another_set.png").touch()
    for image in data["images"]:
        image["file_name"] = f"below/{image['file_name']}"
    (tmp_path / "val.json").write_text(json.dumps(data))
    keys = [f"data.val.annotations={tmp_path / 'val.json'}", f"data.val.images={folder}"]
    images, origin = export.comparison_images(None, open_config(finished_run, keys))
    assert origin == "of the validation set" and len(images) == 3


def test_a_signal_leaves_no_half_file(finished_run, tmp_path, monkeypatch, capsys):
    def ended(detector, categories, output, *more):
        atomic_write(output, lambda path: path.write_bytes(b"half") and os.kill(os.getpid(), signal.SIGTERM))

    monkeypatch.setattr("detection.export.export.export", ended)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert export.main([str(finished_run), "--output", str(tmp_path / "a.onnx")]) == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert capsys.readouterr().err == "interrupted by SIGTERM\n" and not list(tmp_path.iterdir())


def test_without_onnxruntime():
    """Nothing of it is imported before the sentence."""
    code = "import sys; sys.modules['onnxruntime'] = None; from detection.cli.export import main; sys.exit(main(['a']))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    sentence = "error: onnxruntime is not installed: pip install 'context-detection[onnx]'.\n"
    assert (ended.returncode, ended.stderr) == (2, sentence)
