"""The Python of docs/recipes.md as it stands."""

from pathlib import Path

import pytest
from PIL import Image

from tests.coco_files import write_image
from tests.markdown import python_blocks, run_python_blocks

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"


@pytest.mark.filterwarnings("ignore")
def test_recipes_run(finished_run, shapes, tmp_path, monkeypatch, capsys):
    pytest.importorskip("supervision")
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/mine").symlink_to(finished_run)
    write_image(Path("photos/street.jpg"), 80, 60, 0)
    Path("mine.py").write_text(
        "from pathlib import Path\nfrom tests.tiny_runs import tiny_config\n"
        f"config = tiny_config(Path({str(shapes)!r}))\n"
    )
    names = run_python_blocks(PAGE)
    assert len(python_blocks(PAGE)) == 2
    assert Image.open("street_drawn.png").size == (80, 60)
    assert len(names["study"].trials) == 2 and Path("runs/search-1/metrics.json").exists()
