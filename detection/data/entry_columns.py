"""Columns of the images or annotations of a COCO file, grown piece by piece from entries that are as they should be.

An entry of another shape gets a placeholder, and its row is kept as odd: `detection.data.checks` names what is wrong.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from detection.data.checks import require_coco
from detection.data.json_files import SECTIONS, invalid_json, not_utf8, require_once
from detection.data.json_pieces import BrokenJson, BrokenText, Piece, line_and_column, read_pieces
from detection.errors import UserError

_Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


# gc=False: entries hold no containers that refer back to them, and Python's collector need not look at millions.
class ImageEntry(msgspec.Struct, gc=False):
    """The part of an entry of `images` that is read."""

    id: _Id
    file_name: str
    width: _Id
    height: _Id


class AnnotationEntry(msgspec.Struct, gc=False):
    """The part of an entry of `annotations` that is read; an area that is missing is NaN."""

    id: _Id
    image_id: _Id
    category_id: _Id
    bbox: tuple[float, float, float, float]
    area: float = np.nan
    iscrowd: bool | _Id = 0


Entry = ImageEntry | AnnotationEntry

_TYPES: dict[str, type[Entry]] = {"images": ImageEntry, "annotations": AnnotationEntry}
# A `SystemError` is what msgspec before 0.22 raises for an integer that no float holds.
_UNFIT = (msgspec.ValidationError, OverflowError, SystemError, TypeError)
_DECODERS = {key: msgspec.json.Decoder(list[type_]) for key, type_ in _TYPES.items()}
_PLACEHOLDERS: dict[str, Entry] = {
    "images": ImageEntry(0, "", 0, 0),
    "annotations": AnnotationEntry(0, 0, 0, (np.nan, np.nan, np.nan, np.nan)),
}


def decode_entries(key: str, text: bytes) -> Any:
    """Decode a list of entries, all of them typed or none; a `ValueError` where it is not valid JSON."""
    if not text.isascii():
        text.decode("utf-8", "surrogatepass")  # what is passed over is not decoded otherwise
    if key in _DECODERS:
        with suppress(msgspec.DecodeError, RecursionError):
            return _DECODERS[key].decode(text)
    return json.loads(text.decode("utf-8", "surrogatepass"))


def _typed_entries(key: str, entries: list[dict]) -> tuple[list[Entry], list[int]]:
    """Return entries with their types, and the positions of those that are odd."""
    type_, typed, odd = _TYPES[key], [], []
    for position, entry in enumerate(entries):
        try:
            if isinstance(entry.get("area"), float) and not np.isfinite(entry["area"]):
                raise OverflowError  # odd: msgspec takes it, and NaN stands for a missing area
            typed.append(msgspec.convert(entry, type_))
        except _UNFIT:
            typed.append(_patched(entry, _PLACEHOLDERS[key]))
            odd.append(position)
    return typed, odd


def _patched(entry: dict, placeholder: Entry) -> Entry:
    """Return a typed entry with the values that are as they should be."""
    values = {}
    for field in msgspec.structs.fields(placeholder):
        with suppress(KeyError, *_UNFIT):
            values[field.name] = msgspec.convert(entry[field.name], field.type)
    return msgspec.structs.replace(placeholder, **values)


class GrowingArray:
    """An array that is appended to, with a quarter of spare room; `array` is what it has."""

    def __init__(self, dtype: str, width: int = 0) -> None:
        self._room = np.empty((0, width) if width else 0, dtype)
        self._length = 0

    def append(self, values: np.ndarray) -> None:
        """Append rows."""
        end = self._length + len(values)
        if end > len(self._room):
            # In place, which moves pages instead of copying what they hold.
            self._room.resize((end + end // 4, *self._room.shape[1:]), refcheck=False)
        self._room[self._length : end] = values
        self._length = end

    def take(self) -> np.ndarray:
        """Return the array and be empty."""
        self._room.resize((self._length, *self._room.shape[1:]), refcheck=False)
        array, self._room, self._length = self._room, self._room[:0].copy(), 0
        return array


class ImageColumns:
    """Columns of `images`; see `Tables`."""

    def __init__(self) -> None:
        self.ids, self.widths, self.heights = (GrowingArray("int64") for _ in range(3))
        self.names: list[str] = []

    def append(self, entries: list) -> None:
        """Append typed entries."""
        for array, name in ((self.ids, "id"), (self.widths, "width"), (self.heights, "height")):
            array.append(_column(entries, name, np.int64))
        self.names += map(attrgetter("file_name"), entries)


class AnnotationColumns:
    """Columns of `annotations`; see `Tables`. An area that is missing is NaN; `iscrowd` is 0, 1, or 2 for others."""

    def __init__(self) -> None:
        self.ids, self.image_ids, self.category_ids = (GrowingArray("int64") for _ in range(3))
        self.boxes, self.areas = GrowingArray("float64", 4), GrowingArray("float64")
        self.iscrowd = GrowingArray("uint8")

    def append(self, entries: list) -> None:
        """Append typed entries."""
        for array, name in ((self.ids, "id"), (self.image_ids, "image_id"), (self.category_ids, "category_id")):
            array.append(_column(entries, name, np.int64))
        numbers = chain.from_iterable(map(attrgetter("bbox"), entries))
        self.boxes.append(np.fromiter(numbers, np.float64, 4 * len(entries)).reshape(-1, 4))  # (n, 4)
        self.areas.append(_column(entries, "area", np.float64))
        flags = _column(entries, "iscrowd", np.int64)
        self.iscrowd.append(np.where((flags == 0) | (flags == 1), flags, 2))


def _column(entries: Iterable, name: str, dtype: type) -> np.ndarray:
    return np.array(list(map(attrgetter(name), entries)), dtype=dtype)


class Sections:
    """The content of a COCO file as columns; made by `read_sections`.

    Attributes:
        images: columns.
        annotations: columns.
        categories: the entries themselves.
        odd: rows of odd entries of each section.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images, self.annotations = ImageColumns(), AnnotationColumns()
        self.categories: list[dict] = []
        self.odd: dict[str, list[int]] = {}
        self._outline: dict[str, Any] = {}  # of the file, for the check of its outer shape
        self._pieces: dict[str, list[tuple[int, int, int]]] = {}  # first row, place in the file and length of each
        self._lengths: dict[str, int] = {}
        self._repeated: set[str] = set()

    def add(self, piece: Piece) -> None:
        """Add a piece."""
        key = piece.key
        if key in self._outline and piece.is_first:
            self._repeated.add(key)
        if key not in SECTIONS or not piece.is_list:
            self._outline[key] = piece.value if key in SECTIONS else None
            return
        if piece.is_first:
            self._outline[key], self.odd[key], self._pieces[key], self._lengths[key] = [], [], [], 0
            setattr(self, key, {"images": ImageColumns, "annotations": AnnotationColumns}.get(key, list)())
        first, entries = self._lengths[key], piece.value
        self._pieces[key].append((first, piece.offset, piece.length))
        self._lengths[key] += len(entries)
        if key in _TYPES and entries and isinstance(entries[0], Entry):
            getattr(self, key).append(entries)
            return
        strange = next((i for i, entry in enumerate(entries) if type(entry) is not dict), None)
        if strange is not None:  # with as many objects before it, for the sentence
            self._outline[key] = self._outline[key] or [{}] * (first + strange) + [entries[strange]]
        elif key == "categories":
            self.categories += entries
        else:
            typed, odd = _typed_entries(key, entries)
            getattr(self, key).append(typed)
            self.odd[key] += [first + position for position in odd]

    def require_coco(self) -> None:
        """Raise a `UserError` unless the file has the outer shape of COCO annotations."""
        require_once(self.path, self._repeated)
        require_coco(self._outline, self.path)

    def entries(self, section: str, rows: np.ndarray) -> list[dict]:
        """Read the entries of some rows, in ascending order, again."""
        places = self._pieces[section]
        pieces = np.searchsorted([first for first, _, _ in places], rows, side="right") - 1
        found = []
        with self.path.open("rb") as file:
            for piece in np.unique(pieces).tolist():
                first, offset, length = places[piece]
                file.seek(offset)
                entries = json.loads(f"[{file.read(length).decode('utf-8', 'surrogatepass')}]")
                found += [entries[row] for row in (rows[pieces == piece] - first).tolist()]
        return found


def read_sections(path: Path, piece_bytes: int) -> Sections:
    """Read a file that begins with "{"; a `UserError` where it is no JSON or no COCO annotation file."""
    sections = Sections(path)
    try:
        for piece in read_pieces(path, decode_entries, piece_bytes):
            sections.add(piece)
    except BrokenJson as error:
        raise invalid_json(path, error.message, *line_and_column(path, error.offset)) from None
    except BrokenText as error:
        raise not_utf8(path, error.byte, error.offset) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): convert the annotations again.") from None
    sections.require_coco()
    return sections
