"""File names that are not in the image folder as they are written, matched with the files that they must mean."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from detection.data.image_paths import IMAGE_SUFFIXES, leaves_folder, missing_and_escaping


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()


def _decoded(name: str) -> str:
    return _folded(unquote(name)).strip()


def _without_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(_decoded(name))
    return stem if suffix in IMAGE_SUFFIXES else stem + suffix


def _unpadded(name: str) -> str:
    return re.sub(r"(?<![\d.])0+(?=\d)", "", name)


# Tried in this order. File systems of macOS may decompose accents, and those of Windows do not heed case.
_FORMS = (
    ("", str),
    ("another Unicode form", _composed),
    ("another case", _folded),
    ("spaces around it or percent-encoding", _decoded),
    ("zeros in front of a number", lambda name: _unpadded(_decoded(name))),
    ("another suffix", _without_suffix),
    ("zeros in front of a number, another suffix", lambda name: _unpadded(_without_suffix(name))),
)


@dataclass(frozen=True)
class NameMatch:
    """The file of the folder that a name must mean, and in a few words how the name differs."""

    name: str
    difference: str


def match_names(folder: Path, file_names: Sequence[str], rows: Sequence[int]) -> dict[int, NameMatch]:
    """Match names that lead to no file of a folder with its files.

    A match is unique: only one file fits, no other image has that file, and no two names fit the same one. A name whose
    folder is there matches no file of another folder, which would be another image of the same name.

    Args:
        folder: The image folder.
        file_names: Names of all images.
        rows: Positions of those to match.

    Returns:
        The matches by position; without those for which there is none.
    """
    if not rows:
        return {}
    files = _files(folder)
    tables = [(difference, form, _unique(files, form)) for difference, form in _FORMS]
    bases = [
        (difference, form, _unique(files, lambda file, form=form: form(file.rpartition("/")[2])))
        for difference, form in _FORMS
    ]
    matched = {row: match for row in rows if (match := _match(file_names[row], tables, bases)) is not None}
    folders = folder_names(folder) if matched else set()
    found = {row: match for row, match in matched.items() if may_mean(file_names[row], match.name, folders)}
    left = set(rows)
    taken = {os.path.normpath(name) for row, name in enumerate(file_names) if row not in left and name}
    times = Counter(match.name for match in found.values())
    unique = {row: m for row, m in found.items() if times[m.name] == 1 and os.path.normpath(m.name) not in taken}
    # What is found must be usable: a file, not a pipe or a link out of the folder.
    order = list(unique)
    missing, escaping = missing_and_escaping(folder, [unique[row].name for row in order])
    for position in {*missing, *escaping}:
        del unique[order[position]]
    return unique


def folder_names(folder: Path) -> set[str]:
    """Return the names of all folders below a folder, in the form that `may_mean` compares."""
    return {_folded(name) for _, names, _ in os.walk(folder) for name in names}


def may_mean(written: str, file: str, folders: Collection[str]) -> bool:
    """Return whether a name may mean a file, by the folders that both are in.

    Args:
        written: The name.
        file: The file, relative to the image folder.
        folders: Those of `folder_names`.
    """
    own = _parent(_plain(written)[0])
    return own not in folders or own in {_folded(name) for name in file.split("/")[:-1]}


def _parent(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return _folded(parts[-2]) if len(parts) > 1 else ""


def _files(folder: Path) -> list[str]:
    paths = (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return sorted(os.path.relpath(path, folder).replace(os.sep, "/") for path in paths)


def _unique(files: list[str], form: Callable[[str], str]) -> dict[str, str | None]:
    table: dict[str, str | None] = {}
    for file in files:
        key = form(file)
        table[key] = None if key in table else file
    return table


def _match(written: str, tables: list, bases: list) -> NameMatch | None:
    name, differences = _plain(written)
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        ending = "/".join(parts[start:])
        for difference, form, table in tables:
            if file := table.get(form(ending)):
                prefix = ["a folder in front"] if start and not differences & {"a URL"} else []
                return NameMatch(file, _joined([*differences, *prefix, difference]))
    for difference, form, table in bases if parts else []:
        if file := table.get(form(parts[-1])):
            return NameMatch(file, _joined([*differences, "another folder", difference]))
    return None


def _plain(written: str) -> tuple[str, set[str]]:
    """Return a name as a relative path with slashes, and how it differed."""
    if "://" in written:
        try:
            return unquote(urlsplit(written).path), {"a URL"}
        except ValueError:
            return written, {"a URL"}
    if "\\" in written:
        name = written.replace("\\", "/")
        return (name[2:] if name[1:2] == ":" else name), {"backslashes"}
    return written, {"an absolute path"} if os.path.isabs(written) else set()


def _joined(differences: list[str]) -> str:
    return ", ".join(difference for difference in differences if difference)


def absent_reason(folder: Path, name: str) -> str:
    """Return why a name leads to no file: it is a folder or a pipe, or not there."""
    path = folder / name
    try:
        if not leaves_folder(name) and path.exists():
            what = "a folder" if path.is_dir() else "a pipe or device"
            return f"which is {what} in {folder}, not a file"
    except OSError:
        pass
    return f"which is not in {folder}"
