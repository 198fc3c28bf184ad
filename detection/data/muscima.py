"""Pages of MUSCIMA++ v1 (Hajič jr., Pecina 2017): handwritten music as objects with classes, masks and links.

A page is an XML file of `CropObject`s: a class, a box in pixels of the page, a mask as run lengths by rows, and ids of
the objects that it links to. A note head and a clef link to their staff; the clef that is in force for a head is the
last one to its left on its staff.
"""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from detection.errors import UserError

CLEFS = ("g-clef", "f-clef", "c-clef")
HEADS = ("notehead-full", "notehead-empty", "grace-notehead-full")
_NO_INK = {"staff_space", "staff", "staff_grouping", "measure_separator", "key_signature", "time_signature"}
_NO_INK |= {"repeat", "tuple", "ornament(s)"}
_BOX = ("Top", "Left", "Width", "Height")
_FIELDS = ("Id", "ClassName", *_BOX)
_LARGEST = 20_000
"""Pixels; a page has some 3500 × 2500."""


@dataclass(frozen=True)
class Symbol:
    """One object of a page.

    Attributes:
        id: on its page.
        name: its class.
        top, left, height, width: its box in pixels of the page.
        runs: the mask as in the file, `value:count` by rows.
        links: ids of the objects that it links to.
        source: file and id, for messages.
    """

    id: int
    name: str
    top: int
    left: int
    height: int
    width: int
    runs: str
    links: tuple[int, ...]
    source: str

    @property
    def center(self) -> tuple[float, float]:
        """Middle of the box (x, y)."""
        return self.left + self.width / 2, self.top + self.height / 2

    @property
    def is_ink(self) -> bool:
        """Whether the mask is drawn: groups of other objects and empty spaces are not."""
        return self.name not in _NO_INK and not self.name.endswith("_text")

    @cached_property
    def mask(self) -> np.ndarray:
        """Booleans (height, width).

        Raises:
            UserError: runs that are none, or do not fill the box.
        """
        try:
            runs = np.array([run.split(":") for run in self.runs.split()], np.int64).reshape(-1, 2)  # (runs, 2)
        except (ValueError, OverflowError):
            raise UserError(f"{self.source}: Mask: is not run lengths such as 0:14 1:2.") from None
        if (pixels := sum(runs[:, 1].clip(0).tolist())) != self.height * self.width:
            raise UserError(
                f"{self.source}: Mask: its runs have {pixels} pixels, and Width × Height is {self.width} × "
                f"{self.height}; download the file again, or correct one."
            )
        return np.repeat(runs[:, 0] > 0, runs[:, 1].clip(0)).reshape(self.height, self.width)


@dataclass(frozen=True)
class Page:
    """A page with its writer (`W-01`) and piece (`N-10`), and its symbols by id."""

    writer: int
    piece: int
    symbols: dict[int, Symbol]

    @property
    def name(self) -> str:
        """Writer and piece, as in the file's name."""
        return f"W-{self.writer:02d}_N-{self.piece:02d}"

    @cached_property
    def staves(self) -> list[Symbol]:
        """Staves from top to bottom."""
        return sorted((s for s in self.symbols.values() if s.name == "staff"), key=lambda s: (s.top, s.id))

    def staff_of(self, symbol: Symbol) -> Symbol | None:
        """Return the staff that a symbol links to."""
        linked = (self.symbols.get(link) for link in symbol.links)
        return next((s for s in linked if s is not None and s.name == "staff"), None)

    @cached_property
    def clefs(self) -> dict[int, list[Symbol]]:
        """Clefs from left to right of each staff, by the staff's id."""
        found: dict[int, list[Symbol]] = {staff.id: [] for staff in self.staves}
        for symbol in self.symbols.values():
            if symbol.name in CLEFS and (staff := self.staff_of(symbol)) is not None:
                found[staff.id].append(symbol)
        return {staff: sorted(clefs, key=lambda c: (c.left, c.id)) for staff, clefs in found.items()}

    def clef_of(self, head: Symbol) -> Symbol | None:
        """Return the clef that is in force for a note head; None where its staff has none to its left."""
        staff = self.staff_of(head)
        left = [] if staff is None else [c for c in self.clefs[staff.id] if c.left <= head.center[0]]
        return left[-1] if left else None

    @cached_property
    def ink(self) -> np.ndarray:
        """Booleans (height, width) of the page's part that holds symbols."""
        drawn = [s for s in self.symbols.values() if s.is_ink]
        bottom, right = (
            max((a + b for a, b in sides), default=0)
            for sides in ([(s.top, s.height) for s in drawn], [(s.left, s.width) for s in drawn])
        )
        ink = np.zeros((bottom, right), bool)
        for s in drawn:
            ink[s.top : s.top + s.height, s.left : s.left + s.width] |= s.mask
        return ink


def read_pages(folder: Path) -> list[Page]:
    """Read all pages of a folder, in order of writers and pieces.

    Raises:
        UserError: no page there, one that cannot be read, or two files of one page.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder; give the one that holds MUSCIMA++'s CropObject files (*.xml).")
    files = sorted(path for path in folder.rglob("*.xml") if path.is_file())
    if not files:
        raise UserError(f"{folder}: holds no .xml file; give the folder of MUSCIMA++'s CropObject files.")
    pages: dict[tuple[int, int], Page] = {}
    for path in files:
        page = read_page(path)
        if (page.writer, page.piece) in pages:
            raise UserError(
                f"{path}: is a second file of writer {page.writer}, piece {page.piece}; give a folder with one file of "
                "each page, such as cropobjects_withstaff."
            )
        pages[page.writer, page.piece] = page
    return [pages[key] for key in sorted(pages)]


def read_page(path: Path) -> Page:
    """Read one page, named such as `CVC-MUSCIMA_W-01_N-10_D-ideal.xml`.

    Raises:
        UserError: another name, or no such file.
    """
    name = re.search(r"W-(\d+)_N-(\d+)", path.name)
    if name is None:
        raise UserError(f"{path}: the name gives no writer and piece, such as W-01_N-10; move the file elsewhere.")
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, LookupError, ValueError) as error:
        raise UserError(f"{path}: is no readable XML ({error}); download it again.") from None
    symbols: dict[int, Symbol] = {}
    for number, item in enumerate(root.iter("CropObject")):
        symbol = _read_symbol(item, path, number)
        if symbol.id in symbols:
            raise UserError(f"{path}: two objects have the Id {symbol.id}; correct one.")
        symbols[symbol.id] = symbol
    if not symbols:
        raise UserError(f"{path}: holds no CropObject; give MUSCIMA++'s files of CropObjects only.")
    return Page(int(name[1]), int(name[2]), symbols)


def _read_symbol(item: ElementTree.Element, path: Path, number: int) -> Symbol:
    texts = {key: (item.findtext(key) or "").strip() for key in (*_FIELDS, "Mask", "Outlinks")}
    source = f"{path}, Id {texts['Id']}" if texts["Id"] else f"{path}, CropObject {number} (from 0)"
    if missing := [key for key in (*_FIELDS, "Mask") if not texts[key]]:
        raise UserError(f"{source}: has no {missing[0]}; download the file again, or remove the object.")
    id_, top, left, width, height = (_integer(texts[key], source, key) for key in ("Id", *_BOX))
    links = tuple(_integer(link, source, "Outlinks") for link in texts["Outlinks"].split())
    if min(top, left) < 0 or not (0 < width <= _LARGEST and 0 < height <= _LARGEST) or max(top, left) > _LARGEST:
        raise UserError(
            f"{source}: its box has Top {top}, Left {left}, Width {width}, Height {height}: Top and Left must be from "
            f"0, Width and Height from 1, all to {_LARGEST}; correct it, or remove the object."
        )
    return Symbol(id_, texts["ClassName"], top, left, height, width, texts["Mask"], links, source)


def _integer(text: str, source: str, key: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(
            f"{source}: {key}: {text[:20]!r} is no integer; download the file again, or correct it."
        ) from None
