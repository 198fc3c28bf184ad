"""XML files of annotations, in any encoding."""

import codecs
import re
import xml.etree.ElementTree as ElementTree
from argparse import ArgumentTypeError
from pathlib import Path

from detection.errors import UserError

_DECLARED = re.compile(rb"<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")
_DECLARATION = re.compile(r"<\?xml.*?\?>", re.DOTALL)


def parse_xml(path: Path, encoding: str | None = None) -> ElementTree.Element:
    """Parse a file.

    Args:
        path: the file.
        encoding: of its text; None: by its byte order mark, or as it declares, else UTF-8.

    Returns:
        Its root element.

    Raises:
        UserError: it cannot be read or decoded, or is no XML.
    """
    text = _decoded(path, encoding)
    try:
        return ElementTree.fromstring(_DECLARATION.sub("", text.lstrip("\ufeff").lstrip(), count=1))
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path} is no valid XML ({error}); repair or remove the file") from error


def _decoded(path: Path, encoding: str | None) -> str:
    # Python's codecs, for expat knows few encodings, and none of several bytes but UTF-8 and UTF-16.
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or device" if path.exists() else "not there"
        raise UserError(f"{path} is {what}, not an XML file; move it out of the folder")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); change its permissions or remove it") from error
    if content.startswith(b"PK\x03\x04"):
        raise UserError(f"{path} is a zip archive; unpack it, and give what was in it")
    if encoding is None:
        starts = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
        unmarked = ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))
        declared = _DECLARED.match(content.lstrip())
        known = next((name for start, name in starts + unmarked if content.startswith(start)), None)
        encoding = known or (declared[1].decode("ascii") if declared else "utf-8")
    for name in (str(encoding), "utf-8"):
        try:
            return content.decode(name)
        except (UnicodeError, LookupError):
            continue
    raise UserError(f"{path} is not encoded in {encoding}; give its encoding, such as --encoding cp1252 or gbk")


def encoding_argument(name: str) -> str:
    """Return Python's name of an encoding that was typed; argparse's error for one that it does not know."""
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise ArgumentTypeError(f"Python knows no encoding {name!r}; try utf-8, cp1252, gbk or shift_jis") from None
