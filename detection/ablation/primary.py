"""Primary comparisons: the few that an ablation names before it runs, and that alone carry a verdict at 95 %.

Of many comparisons some come out by luck, and one that is chosen after it was seen proves nothing. `ablation.json`
therefore keeps those that were named before the first run: what the file names later, or no longer, is reported.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple


class Primary(NamedTuple):
    """One comparison.

    Attributes:
        variant: the variant that is compared.
        against: the variant that it is compared with.
        metric: a metric of the run type.
        data: name of the data set.
    """

    variant: str
    against: str
    metric: str
    data: str

    def __str__(self) -> str:
        return f"{self.metric} of {self.variant} against {self.against} on {self.data}"


def registered(output: Path, named: Iterable[Primary]) -> tuple[Primary, ...]:
    """Find the comparisons that were named before the first run.

    Args:
        output: the ablation's folder.
        named: those of its file now, which count as long as no run exists.
    """
    if not any((output / "runs").glob("*/*/*/")):
        return tuple(named)
    try:
        plain: Any = json.loads((output / "ablation.json").read_text(encoding="utf-8"))
        return tuple(Primary(*map(str, names)) for names in plain.get("primary", ()))
    except (OSError, ValueError, TypeError, AttributeError):
        return ()


def changes(named: Iterable[Primary], before: Iterable[Primary]) -> list[str]:
    """List what the file names otherwise than before the first run, as sentences."""
    named, before = list(named), list(before)
    late = [f"{one}: named after runs existed; it counts as one of the others." for one in named if one not in before]
    gone = [f"{one}: named before the first run, and no longer in the file." for one in before if one not in named]
    return [*late, *gone]
