"""Every task's chance level is the one that the docs state."""

import re
from fractions import Fraction
from pathlib import Path

from detection.scenes.tasks import TASKS

DOCS = Path(__file__).parents[2] / "docs" / "context_scenes.md"


def test_chance_is_as_documented():
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| ([\d/]+|–) \|", DOCS.read_text(), re.MULTILINE)
    assert {name for name, _ in rows} <= set(TASKS) and len(rows) > 8
    for name, text in rows:
        assert TASKS[name].chance == (None if text == "–" else float(Fraction(text))), name
