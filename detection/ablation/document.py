"""A report as a list of blocks, which `markdown` and `html_page` write in their own ways."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text; `warning` makes it stand out."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Bullets:
    """Short sentences, one below the other."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of texts under a head; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG file.

    Attributes:
        name: of the file beside the report.
        caption: what it shows; also for those who cannot see it.
        png: its bytes.
    """

    name: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Code:
    """Commands to be pasted, one a line."""

    lines: Sequence[str]


Block = Heading | Paragraph | Bullets | Table | Picture | Code
