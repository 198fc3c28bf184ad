"""Python examples of Markdown files, run as they stand."""

import re
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks(path: Path) -> list[tuple[int, str]]:
    """Return the ```python blocks of a file, each with the number of its first line."""
    text = path.read_text()
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in _BLOCK.finditer(text)]


def run_python_blocks(path: Path) -> dict[str, Any]:
    """Run the blocks of a file one after another in the current folder, and return their names and values.

    A traceback names the line of the Markdown file.
    """
    names: dict[str, Any] = {"__name__": "__example__"}
    for line, block in python_blocks(path):
        exec(compile("\n" * (line - 1) + block, str(path), "exec"), names)
    return names
