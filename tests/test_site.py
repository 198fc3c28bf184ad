"""The documentation site builds without a warning, and has what it should."""

import subprocess
import sys
from pathlib import Path

import pytest

from detection import __all__ as public
from detection.cli.main import commands

ROOT = Path(__file__).parents[1]


def test_the_site_builds_without_a_warning(tmp_path):
    for module in ("sphinx", "furo", "myst_parser", "sphinx-mathjax-offline"):
        pytest.importorskip(module)
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-d", tmp_path / "trees"]
    built = subprocess.run([*command, ROOT / "docs", tmp_path / "site"], capture_output=True, text=True, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert not built.stderr
    lines = (tmp_path / "site/command_line.html").read_text(encoding="utf-8")
    assert all(f"usage: detection {name}" in lines for name in commands())
    notebook = (tmp_path / "site/notebooks/context.html").read_text(encoding="utf-8")
    assert "highlight-python" in notebook and "cell_type" not in notebook
    api = (tmp_path / "site/api/index.html").read_text(encoding="utf-8")
    assert not [name for name in public if f'.{name}"' not in api]


def test_every_page_is_in_the_table_of_contents():
    files = (path for pattern in ("*.md", "*.ipynb") for path in ROOT.glob(f"docs/**/{pattern}"))
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in files}
    listed = set()
    for path in ROOT.glob("docs/**/index.md"):
        folder = path.parent.relative_to(ROOT / "docs").as_posix()
        text = path.read_text(encoding="utf-8")
        for block in text.split("```{toctree}")[1:]:
            for line in block.split("```")[0].split():
                name = line if folder == "." else f"{folder}/{line}"
                listed.add(name.replace("results/../", ""))
    assert pages - listed == {"index"}
