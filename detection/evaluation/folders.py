"""Folders that evaluations are written to: checked before anything is detected, and one for each kind of evaluation."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from detection.atomic_write import make_folders, numbered
from detection.errors import UserError


def require_writable(folder: Path) -> None:
    """Check that files can be written into a folder, which is not left behind if it is missing.

    Raises:
        UserError: it cannot be made or written.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        try:
            make_folders(folder)
            probe = folder / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        finally:
            for path in missing:
                with suppress(OSError):  # another process may be writing there
                    path.rmdir()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); choose another --output.") from None


def folder_of(base: Path, record: dict[str, Any]) -> Path:
    """Return the first of `base`, `base-2`, `base-3` … that holds no evaluation but one of the same `evaluation.json`.

    Checkpoint None, the best there is, is the same as `best`.
    """
    wanted = _comparable(json.loads(json.dumps(record)))  # as it is read from a file: tuples become lists
    return next(folder for folder in numbered(base) if _recorded(folder) in (None, wanted))


def _recorded(folder: Path) -> Any:
    """Return the content of a folder's `evaluation.json`; None where it has none, as after an interruption."""
    try:
        return _comparable(json.loads((folder / "evaluation.json").read_bytes()))
    except (OSError, ValueError):
        return None


def _comparable(record: Any) -> Any:
    return {**record, "checkpoint": record.get("checkpoint") or "best"} if isinstance(record, dict) else record
