"""JSON files that people give: what is wrong with one is a sentence."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detection.data.stand_ins import START, stand_in
from detection.errors import UserError

SECTIONS = ("images", "annotations", "categories")
"""The lists of a COCO file."""

_PACKED = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"PK\x03\x04", "a zip archive", "unzip"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
)


def unreadable(path: Path, error: OSError) -> UserError:
    """Return the error of a file that cannot be read."""
    reason = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror or error)
    return UserError(f"cannot read the annotation file {path} ({reason}): check the path.")


def require_file(path: Path) -> None:
    """Refuse what is no file, such as a pipe, whose reader would wait for ever; a missing one is left to its reader."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is a pipe or device, but annotations are read more than once: save them as a file.")


def read_json(path: Path) -> Any:
    """Parse an annotation file; a `UserError` if it is missing, empty or not JSON (names line and column)."""
    try:
        require_file(path)
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None
    if not content.strip():
        raise UserError(f"{path} is empty: copy or convert the annotation file again.")
    try:
        data = json.loads(content)
        repeated = _repeated_sections(content) if isinstance(data, dict) else []
    except json.JSONDecodeError as error:
        raise invalid_json(path, error.msg, error.lineno, error.colno) from None
    except UnicodeDecodeError as error:
        raise not_utf8(path, error.object[error.start], error.start) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): convert the annotations again.") from None
    require_once(path, repeated)
    return data


def _repeated_sections(content: bytes) -> list[str]:
    """Return the lists of a COCO file that an object has more than once, of which `json` would keep the last."""
    # Parsing with a hook takes several times as long: only where a name is there twice, as that of a category may be.
    if all(content.count(f'"{key}"'.encode()) < 2 for key in SECTIONS):
        return []
    keys: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> dict:
        keys[:] = [key for key, _ in pairs]  # those of the outermost object come last
        return dict(pairs)

    json.loads(content, object_pairs_hook=note)
    return [key for key in SECTIONS if keys.count(key) > 1]


def require_once(path: Path, repeated: Iterable[str]) -> None:
    """Raise a `UserError` if a file has lists more than once: the entries of all but the last would be lost."""
    if names := " and ".join(f"'{key}'" for key in SECTIONS if key in repeated):
        raise UserError(f"{path} has {names} more than once, and only the last would be read: join the lists.")


def invalid_json(path: Path, message: str, line: int, column: int) -> UserError:
    """Return the error of a file that is not JSON, with what `json` finds wrong and where."""
    where = f"line {line}, column {column}"
    return other_kind(path) or UserError(
        f"{path} is not valid JSON: {message} at {where}; the file may be cut short, so copy or convert it again."
    )


def not_utf8(path: Path, byte: int, position: int) -> UserError:
    """Return the error of a file with a byte that is not UTF-8."""
    where = f"byte {byte:#x} at position {position}"
    return other_kind(path) or UserError(
        f"{path} is not valid JSON: it is not encoded in UTF-8 ({where}); save it as UTF-8."
    )


def other_kind(path: Path) -> UserError | None:
    """Return the error of a file that is packed, stands for another, or has one object a line; None if it is none."""
    with path.open("rb") as file:
        start = file.read(1 << 20)
    if (error := packed_or_stand_in(path)) is not None:
        return error
    lines = start.split(b"\n", 3)[:2]
    try:
        ndjson = len(lines) == 2 and all(isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        ndjson = False
    if not ndjson:
        return None
    return UserError(
        f"{path} has one JSON object a line (ndjson), but a COCO annotation file is one object with images, "
        "annotations and categories: convert it."
    )


def packed_or_stand_in(path: Path) -> UserError | None:
    """Return the error of a packed file, or one that stands for another, by its first bytes; None if it is neither."""
    with path.open("rb") as file:
        start = file.read(START)
    if (instead := stand_in(start)) is not None:
        return UserError(f"{path} {instead}.")
    for magic, kind, program in _PACKED:
        if start.startswith(magic):
            return UserError(f"{path}: this is {kind}: unpack it ({program}).")
    return None
