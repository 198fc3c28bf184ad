"""Files that are there whole or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the file and rename, so that a reader never sees half of it.

    Args:
        path: the file that there will be.
        write: is given another path of the same folder, and writes there.

    Raises:
        OSError: it cannot be written; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write a file of JSON, whole or not at all."""
    text = json.dumps(data, indent=2) + "\n"
    atomic_write(path, lambda temporary: temporary.write_text(text))
