"""Config files: Python that is run, with one sentence for the mistakes in it; shipped ones by name."""

import difflib
import os
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detection.errors import UserError

_homes: dict[str, str] = {}
"""Modules that configs imported from their own folder: its path by the module's name."""


def run_file(path: Path, what: str, reason: Callable[[Exception], str] = str) -> dict[str, Any]:
    """Run a file of settings.

    Args:
        path: the file.
        what: it is, for the message.
        reason: what an error in it means.

    Returns:
        Its names and their values.

    Raises:
        UserError: no such file, or an error in it, with its line.
    """
    if not path.is_file():
        near = _similar_files(path)
        raise UserError(f"{path}: no such {what}" + (f"; did you mean {near[0]}?" if near else "."))
    # A config is the user's own Python: modules in its folder, such as their contexts, are importable while it runs.
    folder = str(path.resolve().parent)
    _forget_others_modules(folder)
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        return runpy.run_path(str(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:
        raise UserError(f"{path}: {_line(error, path)}{type(error).__name__}: {reason(error)}.") from None
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder + os.sep):
                _homes[name] = folder


def _forget_others_modules(folder: str) -> None:
    """Let a config import the modules in its folder, where one of another folder had modules of the same names."""
    for name, home in list(_homes.items()):
        place = Path(folder, name.partition(".")[0])
        if home != folder and (place.is_dir() or place.with_suffix(".py").is_file()):
            sys.modules.pop(name, None)
            del _homes[name]


def find_config(name: str | Path) -> Path:
    """Return the file of a config: a path, else a shipped config's name such as `finetune` or `ablations/smoke`.

    Raises:
        UserError: neither a file nor a name.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    wanted = path.with_suffix("").as_posix() if path.name else str(name)  # `.` and `/` have no name
    matches = [file for known, file in shipped.items() if wanted in (known, known.rpartition("/")[2])]
    if matches:
        return matches[0]
    names = [*shipped, *(known.rpartition("/")[2] for known in shipped)]
    near = [*_similar_files(path), *difflib.get_close_matches(wanted, names, n=1)]
    hint = f"did you mean {near[0]}?" if near else "`detection configs` lists the names."
    raise UserError(f"{name}: no such file, and no shipped config of this name; {hint}")


def shipped_configs() -> dict[str, Path]:
    """Return the shipped configs by name: those of the checkout that holds the package, else those in the package."""
    package = Path(__file__).resolve().parents[1]
    folder = next(
        (f for f in (package.parent / "configs", package / "configs") if (f / "quickstart.py").is_file()), None
    )
    if folder is None:
        return {}
    files = sorted(folder.rglob("*.py"), key=lambda file: (len(file.parts), file))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files if file.name != "__init__.py"}


def _similar_files(path: Path) -> list[Path]:
    """The Python file of the most similar name in the same folder, if there is one."""
    names = [file.name for file in path.parent.glob("*.py")]
    return [path.parent / name for name in difflib.get_close_matches(path.name, names, n=1)]


def _line(error: Exception, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return "" if line is None else f"line {line}: "
