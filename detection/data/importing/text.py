"""Text files of annotations, one entry a line, and where an error in them is."""

import math
from pathlib import Path

from detection.errors import UserError


def read_lines(path: Path, what: str) -> list[str]:
    r"""Return a file's lines, without byte order mark and `\r`; it may be UTF-8 or marked UTF-16.

    Args:
        path: the file.
        what: it is, for the message.

    Raises:
        UserError: it cannot be read, or is in another encoding.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file, but must be {what}; move it away")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); it must be {what}") from None
    if content.startswith(b"PK\x03\x04"):
        raise UserError(f"{path} is a zip archive; unpack it, and give what was in it")
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not encoded in UTF-8 (byte {error.start}); save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def finite_number(word: str, where: str, name: str = "", remedy: str = "correct or remove the line") -> float:
    """Return a finite number; a `UserError` for anything else: `where`, the number's name, and the remedy."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        what = f"{name} is {word[:40]!r}, not a number" if name else f"{word[:40]!r} is not a number"
        raise UserError(f"{where}: {what}; {remedy}")
    return value
