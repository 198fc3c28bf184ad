"""Status of a run's folder: empty, finished, or the remains of a run."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from detection.ablation.plan import Run
from detection.ablation.run_types import CorruptRun, RunType, StaleRun, read_json
from detection.config.differences import differences
from detection.errors import UserError
from detection.runs.lock import LOCK, find_holder

# The first is what a power cut leaves of the second.
_RUN_FILES = (".environment.json.*", "environment.json", "log.jsonl", "checkpoints", "tensorboard")


@dataclass(frozen=True)
class RunStatus:
    """Status of a run.

    Attributes:
        state: `finished`: complete, with this very config; `absent`: no folder, or nothing but a lock in it; `stopped`:
            did not end; `corrupt`: ended, but files are missing or contradict each other; `stale`: other settings or
            other data; `blocked`: something other than a run, or a run whose data cannot be read or that another
            process trains, which must not be replaced.
        reason: why it is not finished.
        metrics: of a finished run, see `RunType.read`.
    """

    state: Literal["finished", "absent", "stopped", "corrupt", "stale", "blocked"]
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


def inspect_run(run: Run, run_type: RunType) -> RunStatus:
    """Read the status of a run; nothing is changed."""
    try:
        status = _inspect_run(run, run_type)
        if status.state != "finished" and (holder := find_holder(run.folder)) is not None:
            named = f" ({holder})" * bool(holder)
            raise UserError(f"{run.folder}: another process{named} is training there; wait for it, or end it.")
        return status
    except UserError as error:
        return RunStatus("blocked", str(error))


def _inspect_run(run: Run, run_type: RunType) -> RunStatus:
    folder = run.folder
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return RunStatus("absent", f"it ended with {line}" if (line := _last_line(run.log)) else "not run yet")
    # A training locks its folder, then opens its data, and only then writes there.
    if folder.is_dir() and [path.name for path in folder.iterdir()] == [LOCK]:
        details = ["it did not begin to train", _last_line(run.log)]
        return RunStatus("absent", ", ".join(filter(None, details)))
    try:
        plain = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if not any(any(folder.glob(pattern)) for pattern in _RUN_FILES):
            raise UserError(
                f"{folder}: holds something other than a run; move it away, or choose another --output."
            ) from None
        return RunStatus("corrupt", f"config.json cannot be read ({error.__class__.__name__})")
    if not isinstance(plain, dict):
        return RunStatus("corrupt", "config.json holds no settings")
    if run_type.digest(plain) != run.digest:
        changed = differences(plain, run_type.plain(run.config))
        return RunStatus("stale", f"it was made with {changed[0]}" + (", among others" if len(changed) > 1 else ""))
    if not (folder / "metrics.json").exists():
        details = [run_type.progress(folder), _last_line(run.log)]
        return RunStatus("stopped", ", ".join(["it did not end", *filter(None, details)]))
    try:
        return RunStatus("finished", metrics=run_type.read(folder))
    except CorruptRun as error:
        return RunStatus("corrupt", str(error))
    except StaleRun as error:
        return RunStatus("stale", str(error))


def inspect_evaluation(run: Run, run_type: RunType, trained: RunStatus) -> RunStatus:
    """Read the status of an evaluation of a run with status `trained`; nothing is changed."""
    if trained.state != "finished":
        return RunStatus("absent", f"its training is {trained.state}")
    try:
        plain = read_json(run.folder / "evaluation.json", dict).get("config")
        if not isinstance(plain, dict):
            raise CorruptRun("evaluation.json holds no settings")
        if run_type.digest(plain) != run.digest:
            changed = differences(plain, run_type.plain(run.config))
            return RunStatus("stale", f"it was evaluated with {changed[0] if changed else 'another config'}")
        return RunStatus("finished", metrics=run_type.read_evaluation(run.folder))
    except CorruptRun as error:
        line = "" if (run.folder / "evaluation.json").exists() else _last_line(run.log)
        return RunStatus("absent", f"it ended with {line}" if line else str(error))
    except StaleRun as error:
        return RunStatus("stale", str(error))
    except UserError as error:
        return RunStatus("blocked", str(error))


def set_aside(run: Run, output: Path) -> Path:
    """Move what is left of a run, and its log, out of the way; nothing is ever deleted.

    Returns:
        The folder's new path.
    """
    name = run.name.replace("/", "-")
    aside = output / "set-aside"
    aside.mkdir(parents=True, exist_ok=True)
    place = next(p for n in range(1, 10_000) if not (p := aside / f"{name}-{n}").exists())
    shutil.move(run.folder, place)
    if run.log.exists():
        shutil.move(run.log, place.with_name(f"{place.name}.log"))
    return place


def _last_line(log: Path) -> str:
    """The last line of a log, in quotes: why the run was refused or crashed; empty where there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f"“{lines[-1].strip()[:200]}”" if lines else ""
