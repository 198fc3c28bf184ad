"""A JSON object in a file of any size, read piece after piece: its lists are cut between their elements.

A piece that is valid JSON between brackets ends where an element ends, whatever is in its texts; so a cut is tried
where elements seem to meet and, where that fails, found by counting brackets outside texts.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

PIECE_BYTES = 1 << 22

_BRACKET, _QUOTE, _BACKSLASH = 0x7B, 0x22, 0x5C  # "[" is "{" without the bit 0x20, and "]" is "}" without it
_MEETING = re.compile(rb"\}[ \t\n\r]*,[ \t\n\r]*\{")
_SCALAR = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\s,\]}"]+', re.DOTALL)
_SPACE = b" \t\n\r"

Decode = Callable[[str, bytes], Any]


@dataclass(frozen=True)
class Piece:
    """Some elements of a list of the object, or a value that is no list.

    Attributes:
        key: of the list in the object.
        value: what `decode` made of the piece.
        offset: where its text begins in the file, in bytes.
        length: of its text, in bytes.
        is_list: whether it is a part of a list; else it is the value itself.
        is_first: whether the list begins with it, again where a key is repeated.
    """

    key: str
    value: Any
    offset: int
    length: int
    is_list: bool = True
    is_first: bool = True


class BrokenJson(Exception):
    """The file is no JSON; `message` and the (byte) `offset` are those that `json.loads` would give."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.message, self.offset = message, offset


class BrokenText(Exception):
    """The file is not UTF-8: its first `byte` that is not, and the `offset` of that."""

    def __init__(self, byte: int, offset: int) -> None:
        super().__init__(f"byte {byte:#x} at {offset}")
        self.byte, self.offset = byte, offset


def read_pieces(path: Path, decode: Decode, piece_bytes: int = PIECE_BYTES) -> Iterator[Piece]:
    """Yield the lists of an object in pieces of about this size, in the order of the file.

    Args:
        path: a UTF-8 file that begins with "{".
        decode: gets a key and the text of a list or value; raises `ValueError` where it is not valid JSON.
        piece_bytes: wanted length of a piece; an element longer than that is a piece of its own.

    Raises:
        BrokenJson: the file is no JSON object.
        BrokenText: it is not UTF-8.
    """
    with path.open("rb") as file:
        window = _Window(file, piece_bytes)
        if window.data.startswith(b"\xef\xbb\xbf"):
            window.advance(3)
        window.expect(b"{", "Expecting value")
        if window.peek() == b"}":
            window.advance(1)
        else:
            while True:
                yield from _member(window, decode)
                if window.peek() != b",":
                    window.expect(b"}", "Expecting ',' delimiter")
                    break
                window.advance(1)
        if window.peek():
            raise BrokenJson("Extra data", window.offset)


@dataclass
class _Window:
    """The part of a file from `offset` on that has been read."""

    file: BufferedReader
    piece_bytes: int
    data: bytes = b""
    offset: int = 0
    ended: bool = False

    def __post_init__(self) -> None:
        self.fill(4)

    def fill(self, size: int) -> None:
        """Read on until the window has `size` bytes or the file ends."""
        if len(self.data) < size and not self.ended:
            more = self.file.read(max(size - len(self.data), self.piece_bytes))
            self.ended = len(self.data) + len(more) < size
            self.data += more

    def advance(self, count: int) -> None:
        self.data = self.data[count:]
        self.offset += count

    def peek(self) -> bytes:
        """Return the next byte that is no white space, and advance to it; empty at the end."""
        while True:
            self.fill(1)
            stripped = self.data.lstrip(_SPACE)
            self.advance(len(self.data) - len(stripped))
            if stripped or self.ended:
                return stripped[:1]

    def expect(self, token: bytes, message: str) -> None:
        if self.peek() != token:
            raise BrokenJson(message, self.offset)
        self.advance(1)


def _member(window: _Window, decode: Decode) -> Iterator[Piece]:
    if window.peek() != b'"':
        raise BrokenJson("Expecting property name enclosed in double quotes", window.offset)
    key = _decoded(window, _value_text(window), lambda _, text: json.loads(text), "")
    window.expect(b":", "Expecting ':' delimiter")
    if window.peek() != b"[":
        offset, text = window.offset, _value_text(window)
        yield Piece(key, _decoded(window, text, decode, key, offset), offset, len(text), is_list=False)
        return
    window.advance(1)
    first = True
    while True:
        if window.peek() == b"]":
            if not first:
                raise BrokenJson("Expecting value", window.offset)
            window.advance(1)
            yield Piece(key, _decoded(window, b"[]", decode, key), window.offset, 0)
            return
        offset = window.offset
        value, length = _elements(window, decode, key)
        yield Piece(key, value, offset, length, is_first=first)
        first = False
        if window.peek() != b",":
            window.expect(b"]", "Expecting ',' delimiter")
            return
        window.advance(1)


def _elements(window: _Window, decode: Decode, key: str) -> tuple[Any, int]:
    """Decode elements of a list up to the end of one; return what they are and the length of their text."""
    size = window.piece_bytes
    window.fill(size)
    meeting = None
    # The last place in the piece where two elements seem to meet; looked for in its last 64 KiB only, to be fast.
    for meeting in _MEETING.finditer(window.data, max(0, size - 65536), size):  # noqa: B007
        pass
    if meeting is not None:
        try:
            value = decode(key, b"[%b]" % window.data[: meeting.start() + 1])
        except ValueError:
            pass  # the brackets are nested in an element or in a text, or the list ends before
        else:
            window.advance(meeting.start() + 1)
            return value, meeting.start() + 1
    while True:
        window.fill(size)
        length = _complete_elements(window.data[:size])
        if length is not None or (window.ended and size >= len(window.data)):
            break
        size *= 2
    if length is None:  # cut off within an element
        text, closing = window.data, b""
    else:
        text, closing = window.data[:length], b"]"
    # From one byte before: of the bracket that is put in front of the text.
    value = _decoded(window, b"[%b%b" % (text, closing), decode, key, window.offset - 1)
    window.advance(len(text))
    return value, len(text)


def _complete_elements(text: bytes) -> int | None:
    """Return the length of the complete elements that the inside of a list begins with; None if there is none."""
    at, depth = _nesting(text)
    ends = np.flatnonzero(depth < 0)
    if len(ends):
        return int(at[ends[0]])
    complete = np.flatnonzero(depth == 0)
    return int(at[complete[-1]]) + 1 if len(complete) else None


def _nesting(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of brackets outside of texts, and how deep it is after each."""
    codes = np.frombuffer(text, np.uint8)
    folded = codes | 0x20
    at = np.flatnonzero((folded == _BRACKET) | (folded == _BRACKET + 2))
    quotes = np.flatnonzero(codes == _QUOTE)
    escaped = [i for i, q in enumerate(quotes.tolist()) if _follows_odd_backslashes(text, q)] if b"\\" in text else []
    quotes = np.delete(quotes, escaped)
    # Outside of texts an even number of quotes comes before.
    at = at[np.searchsorted(quotes, at) % 2 == 0]
    return at, np.cumsum(np.where(folded[at] == _BRACKET, 1, -1))


def _follows_odd_backslashes(text: bytes, position: int) -> bool:
    start = position
    while start and text[start - 1] == _BACKSLASH:
        start -= 1
    return (position - start) % 2 == 1


def _value_text(window: _Window) -> bytes:
    """Return the text of the next value, which is no list, and advance beyond it."""
    size = window.piece_bytes
    while True:
        window.fill(size)
        if window.data[:1] == b"{":
            at, depth = _nesting(window.data)
            ends = at[depth <= 0]
            length = int(ends[0]) + 1 if len(ends) else None
        else:
            found = _SCALAR.match(window.data)
            length = found.end() if found and (found.end() < len(window.data) or window.ended) else None
        if length is not None or window.ended:
            break
        size = 2 * len(window.data)
    text = window.data if length is None else window.data[:length]
    if not text or length == 0:
        raise BrokenJson("Expecting value", window.offset)
    window.advance(len(text))
    return text


def _decoded(window: _Window, text: bytes, decode: Decode, key: str, offset: int | None = None) -> Any:
    """Decode a text that is a complete value unless the file is broken, and then raise what `json` finds first."""
    offset = window.offset - len(text) if offset is None else offset
    try:
        return decode(key, text)
    except UnicodeDecodeError as error:
        raise BrokenText(error.object[error.start], offset + error.start) from None
    except json.JSONDecodeError as error:
        before = len(error.doc[: error.pos].encode("utf-8", "surrogatepass"))
        raise BrokenJson(error.msg, offset + before) from None


def line_and_column(path: Path, offset: int) -> tuple[int, int]:
    """Return the line and column, from 1 and in characters, of a byte of a UTF-8 file."""
    line, begin, position = 1, 0, 0
    with path.open("rb") as file:
        while position < offset and (block := file.read(min(1 << 20, offset - position))):
            line += block.count(b"\n")
            last = block.rfind(b"\n")
            begin = begin if last < 0 else position + last + 1
            position += len(block)
        file.seek(begin)
        text = file.read(offset - begin).decode("utf-8-sig" if begin == 0 else "utf-8", "replace")
    return line, len(text) + 1
