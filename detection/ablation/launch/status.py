"""What lies in the folder of a cell: nothing, its finished run, or what is left of one."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from detection.ablation.plan import Cell
from detection.ablation.run_types import CorruptRun, Kind, StaleRun
from detection.config.differences import differences
from detection.errors import UserError

What = Literal["finished", "absent", "stopped", "damaged", "outdated"]
_RUN_FILES = ("environment.json", "log.jsonl", "checkpoints", "tensorboard")


@dataclass(frozen=True)
class State:
    """What a cell's folder holds.

    Attributes:
        what: `finished`: a whole run of this very config; `absent`: nothing; `stopped`: a run that was not ended;
            `damaged`: one that was, but is not whole; `outdated`: a run of other settings or other data.
        reason: why it is not finished.
        numbers: of a finished run, see `Kind.read`.
    """

    what: What
    reason: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


def inspect(cell: Cell, kind: Kind) -> State:
    """Look into a cell's folder; nothing is changed.

    Raises:
        UserError: it holds something else than a run, which is not ours to replace.
    """
    folder = cell.folder
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return State("absent", f"it left {words}" if (words := _last_words(cell.log)) else "not run yet")
    try:
        plain = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        if not any((folder / name).exists() for name in _RUN_FILES):
            raise UserError(
                f"{folder}: holds something else than a run; move it away, or choose another --output."
            ) from None
        return State("damaged", f"config.json cannot be read ({error.__class__.__name__})")
    if kind.digest(plain) != cell.digest:
        changed = differences(plain, kind.plain(cell.config))
        return State("outdated", f"it was made with {changed[0]}" + (", among others" if len(changed) > 1 else ""))
    if not (folder / "metrics.json").exists():
        told = [kind.progress(folder), _last_words(cell.log)]
        return State("stopped", ", ".join(["it was not ended", *filter(None, told)]))
    try:
        return State("finished", numbers=kind.read(folder))
    except CorruptRun as error:
        return State("damaged", str(error))
    except StaleRun as error:
        return State("outdated", str(error))


def set_aside(cell: Cell, output: Path) -> Path:
    """Move what is left of a cell's run, and its log, out of the way; nothing is ever deleted.

    Returns:
        Where the folder lies now.
    """
    name = cell.name.replace("/", "-")
    aside = output / "set-aside"
    aside.mkdir(parents=True, exist_ok=True)
    place = next(p for n in range(1, 10_000) if not (p := aside / f"{name}-{n}").exists())
    shutil.move(cell.folder, place)
    if cell.log.exists():
        shutil.move(cell.log, place.with_name(f"{place.name}.log"))
    return place


def _last_words(log: Path) -> str:
    """The last line that a run said: why it was refused or broke off; empty where it said nothing."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f"the words “{lines[-1].strip()[:200]}”" if lines else ""
