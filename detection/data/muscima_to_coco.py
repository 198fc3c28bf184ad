"""Draw COCO data sets from MUSCIMA++ v1 (Hajič jr., Pecina 2017), real handwriting in which context gives the class.

    detection muscima ANNOTATIONS OUT [--set clef] [--split shared]

A note head looks the same under every clef, and is of the class of the clef in force: the last one to the left on its
staff. ANNOTATIONS is the folder `cropobjects_withstaff`. The sets:

- `clef`: one staff an image, a window of 640×256 pixels of the page from 24 pixels left of the staff's first clef.
- `clef2`: two neighboring staves whose first clefs differ in kind, a window of 640×512 pixels.
- `system`: complete systems, of three staves and more or with a change of clef inside of a line.
- `symbols`: the windows of `clef` with the ten commonest kinds of symbols, which show their class themselves.

Images are rendered from the masks of the symbols and averaged 2×2. Heads that no clef stands before, and those of a
staff that the window was not made for, are regions to ignore (`iscrowd` 1). A window without any other box is left out.

Pieces 8, 9, 12, 14 and 15 are for validation. With `--split shared` a writer may be in both splits, with `--split
writers` none is: images that fit neither split are left out, and counted.

MUSCIMA++ is licensed CC BY-NC-SA 4.0, and so is what is drawn from it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detection.atomic_write import atomic_folder, write_json
from detection.data.checks import shortened
from detection.data.muscima import CLEFS, HEADS, Page, Symbol
from detection.errors import UserError
from detection.names import short_line

VALIDATION_PIECES = frozenset({8, 9, 12, 14, 15})
VALIDATION_WRITERS = frozenset(writer for writer in range(1, 51) if writer % 5 in (0, 1))
LEFT = 24
"""Pixels of the page between a window's edge and the first clef."""
NOTES = tuple(f"note-in-{clef}" for clef in CLEFS)
# By their number on all pages, of the kinds that are ink, without the lines of staves.
COMMONEST = (
    "stem", "notehead-full", "ledger_line", "beam", "thin_barline", "slur", "8th_flag", "sharp", "duration-dot",
    "notehead-empty",
)  # fmt: skip


@dataclass(frozen=True)
class Window:
    """A part of a page: its upper left corner and size in pixels of the page, its name and the staves it is for."""

    left: int
    top: int
    width: int
    height: int
    name: str
    staves: frozenset[int]


@dataclass(frozen=True)
class DataSet:
    """A set that can be drawn: its categories, the windows of a page, and what is asked for in a window.

    Attributes:
        categories: names in the order of their ids.
        windows: of a page.
        objects: symbols with a center in the window and the index of their category, None for a region to ignore.
    """

    categories: tuple[str, ...]
    windows: Callable[[Page], Iterator[Window]]
    objects: Callable[[Page, Window], Iterator[tuple[Symbol, int | None]]]


def one_staff(page: Page) -> Iterator[Window]:
    """Yield a window for each staff with a clef, centered on it."""
    for staff in page.staves:
        if clefs := page.clefs[staff.id]:
            top = staff.top + staff.height // 2 - 128
            yield Window(clefs[0].left - LEFT, top, 640, 256, f"s{staff.id}", frozenset({staff.id}))


def two_staves(page: Page) -> Iterator[Window]:
    """Yield a window for each two neighbors whose first clefs differ in kind and stand below each other."""
    for upper, lower in zip(page.staves, page.staves[1:], strict=False):
        clefs = [page.clefs[staff.id][:1] for staff in (upper, lower)]
        if not all(clefs) or lower.top - upper.top > 352:
            continue
        first, second = clefs[0][0], clefs[1][0]
        if first.name != second.name and abs(first.left - second.left) <= 60:
            middle = (upper.top + lower.top + lower.height) // 2
            yield Window(first.left - LEFT, middle - 256, 640, 512, f"s{upper.id}", frozenset({upper.id, lower.id}))


def systems(page: Page) -> Iterator[Window]:
    """Yield a window for each system of three staves or more, or with two clefs on a staff.

    It has the full width of the staves, and 64 pixels of the page above and below them.
    """
    groups = [s for s in page.symbols.values() if s.name == "staff_grouping"]
    inner = {link for group in groups for link in group.links}
    firsts = Counter[int]()
    for group in groups:
        staves = [s for s in page.staves if s.id in group.links]
        clefs = [page.clefs[staff.id] for staff in staves]
        if group.id in inner or not any(clefs) or (len(staves) < 3 and max(map(len, clefs)) < 2):
            continue
        left = min(c.left for some in clefs for c in some) - LEFT
        right = max(staff.left + staff.width for staff in staves)
        top, bottom = staves[0].top - 64, max(staff.top + staff.height for staff in staves) + 64
        width, height = (-(-side // 2) * 2 for side in (right - left, bottom - top))
        firsts[staves[0].id] += 1
        # A brace and a bracket that do not link to each other may begin with the same staff.
        again = f"-{firsts[staves[0].id]}" if firsts[staves[0].id] > 1 else ""
        yield Window(left, top, width, height, f"s{staves[0].id}{again}", frozenset(staff.id for staff in staves))


def _inside(page: Page, window: Window) -> Iterator[Symbol]:
    for symbol in page.symbols.values():
        x, y = symbol.center
        if 0 <= x - window.left < window.width and 0 <= y - window.top < window.height:
            yield symbol


def notes(page: Page, window: Window) -> Iterator[tuple[Symbol, int | None]]:
    """Yield note heads with the index of the clef in force; None where none is, or the staff is not the window's."""
    for symbol in _inside(page, window):
        if symbol.name in HEADS:
            staff, clef = page.staff_of(symbol), page.clef_of(symbol)
            known = clef is not None and staff is not None and staff.id in window.staves
            yield symbol, CLEFS.index(clef.name) if clef is not None and known else None


def symbols(page: Page, window: Window) -> Iterator[tuple[Symbol, int | None]]:
    """Yield symbols of the commonest kinds, with the index of their kind."""
    for symbol in _inside(page, window):
        if symbol.name in COMMONEST:
            yield symbol, COMMONEST.index(symbol.name)


SETS = {
    "clef": DataSet(NOTES, one_staff, notes),
    "clef2": DataSet(NOTES, two_staves, notes),
    "system": DataSet(NOTES, systems, notes),
    "symbols": DataSet(COMMONEST, one_staff, symbols),
}


def render(ink: np.ndarray, window: Window) -> np.ndarray:
    """Return a window's image (height / 2, width / 2), gray, 255 where no ink is; outside of the page is none."""
    return (255 * (1 - _halved(_cut(ink, window.left, window.top, window)))).astype(np.uint8)


def _cut(mask: np.ndarray, left: int, top: int, window: Window) -> np.ndarray:
    """Return booleans (height, width) of a window from a mask, whose pixel (top, left) is the window's first."""
    out = np.zeros((window.height, window.width), bool)
    rows, columns = (slice(max(start, 0), start + side) for start, side in ((top, window.height), (left, window.width)))
    part = mask[rows, columns] if top + window.height > 0 and left + window.width > 0 else mask[:0, :0]
    y, x = max(-top, 0), max(-left, 0)
    out[y : y + part.shape[0], x : x + part.shape[1]] = part
    return out


def _halved(mask: np.ndarray) -> np.ndarray:
    """Return the means (h / 2, w / 2) of 2×2 pixels of booleans (h, w)."""
    rows = mask[::2].view(np.uint8) + mask[1::2]  # (h / 2, w); `mean` over two axes at once takes many times as long
    return (rows[:, ::2] + rows[:, 1::2]) / 4


def _annotation(symbol: Symbol, category: int | None, window: Window) -> dict[str, Any]:
    """Return the COCO annotation without ids: box and mask inside of the window, in pixels of its image."""
    mask = _halved(_cut(symbol.mask, window.left - symbol.left, window.top - symbol.top, window)) > 0
    x0, x1 = (min(max(x - window.left, 0), window.width) / 2 for x in (symbol.left, symbol.left + symbol.width))
    y0, y1 = (min(max(y - window.top, 0), window.height) / 2 for y in (symbol.top, symbol.top + symbol.height))
    return {
        "category_id": 1 if category is None else category + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": float(mask.sum()),
        "iscrowd": int(category is None),
        "segmentation": {"size": list(mask.shape), "counts": _run_lengths(mask)},
    }


def _run_lengths(mask: np.ndarray) -> list[int]:
    """Return COCO's uncompressed run lengths of booleans (h, w): by columns, zeros first."""
    flat = np.concatenate([[False], mask.flatten(order="F"), [not mask.size or not mask[-1, -1]]])  # (1 + h·w + 1,)
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], edges])).tolist()


def split_of(page: Page, split: str) -> str | None:
    """Return `train` or `val`, or None for a page that is in neither."""
    piece, writer = page.piece in VALIDATION_PIECES, page.writer in VALIDATION_WRITERS
    if split == "shared":
        return "val" if piece else "train"
    return None if piece != writer else "val" if piece else "train"


def draw_set(pages: Sequence[Page], name: str, split: str, out: Path) -> str:
    """Write `train.json`, `val.json` and `images/` into a new folder, all of it or nothing, and return the report.

    Raises:
        UserError: a split would be empty.
        OSError: the folder holds something.
    """
    data_set = SETS[name]
    splits = {part: _Split(name, data_set.categories) for part in ("train", "val")}
    unplaced, unused, place = 0, [], out.resolve()
    with atomic_folder(place) as folder:
        (folder / "images").mkdir()
        for page in pages:
            part = split_of(page, split)
            windows = list(data_set.windows(page))
            if not windows:
                unused.append(page)
            for window in windows:
                objects = list(data_set.objects(page, window))
                if part is None:
                    unplaced += any(category is not None for _, category in objects)
                else:
                    splits[part].add(page, window, objects, folder / "images")
        for part, content in splits.items():
            if not content.coco["images"]:
                of_part = [page for page in pages if split_of(page, split) == part]
                raise UserError(f"{out}: nothing to draw for {part}: {_why_nothing(of_part, name)}.")
            write_json(folder / f"{part}.json", content.coco, indent=None)
        if place.is_dir():
            place.rmdir()
    shared = len(splits["train"].writers & splits["val"].writers)
    lines = [short_line(f"{out}: {part} {content.report()}") for part, content in splits.items()]
    lines.append(f"  writers in both splits: {shared}")
    if unplaced:
        lines.append(f"  images left out, as their piece and writer are of different splits: {unplaced}")
    if without := sum(not clefs for page in pages for clefs in page.clefs.values()):
        lines.append(f"  staves that no clef links to, of {sum(len(page.staves) for page in pages)}: {without}")
    if unused:
        names = shortened([page.name for page in unused], 5)
        lines.append(f"  pages of which nothing is drawn, of {len(pages)}: {len(unused)} ({names})")
    return "\n".join(lines)


def _why_nothing(pages: Sequence[Page], name: str) -> str:
    """Return why pages have no window with a box in it, and what to do."""
    if not pages:
        return "no page is of its pieces and writers; give the folder with all pages of MUSCIMA++"
    staves = sum(len(page.staves) for page in pages)
    if not staves:
        return f"none of its {len(pages)} pages has a staff; give the folder cropobjects_withstaff"
    if not any(any(page.clefs.values()) for page in pages):
        return f"no clef ({', '.join(CLEFS)}) links to any of the {staves} staves of its {len(pages)} pages; check them"
    wanted = {
        "clef2": "two neighboring staves whose first clefs differ",
        "system": "a system of three staves or more, or with a change of clef",
    }.get(name, "a note head behind a clef" if name != "symbols" else "a symbol of the ten kinds")
    return f"none of its {len(pages)} pages has {wanted}; give the folder with all pages of MUSCIMA++, or another --set"


class _Split:
    """One split as it is drawn: its COCO data, its writers, and the number of windows left out without a box."""

    def __init__(self, name: str, categories: tuple[str, ...]) -> None:
        entries = [{"id": id_, "name": name} for id_, name in enumerate(categories, 1)]
        info = {"description": f"MUSCIMA++ v1 (Hajič jr., Pecina 2017), {name}", "license": "CC BY-NC-SA 4.0"}
        self.coco: dict[str, Any] = {"info": info, "images": [], "annotations": [], "categories": entries}
        self.writers: set[int] = set()
        self.without_box = 0

    def add(self, page: Page, window: Window, objects: list[tuple[Symbol, int | None]], images: Path) -> None:
        if all(category is None for _, category in objects):
            self.without_box += 1
            return
        file_name = f"{page.name}_{window.name}.png"
        Image.fromarray(render(page.ink, window)).save(images / file_name)
        size = {"width": window.width // 2, "height": window.height // 2}
        image_id = len(self.coco["images"]) + 1
        self.coco["images"].append({"id": image_id, "file_name": file_name, **size})
        for symbol, category in objects:
            ids = {"id": len(self.coco["annotations"]) + 1, "image_id": image_id}
            self.coco["annotations"].append(ids | _annotation(symbol, category, window))
        self.writers.add(page.writer)

    def report(self) -> str:
        """Return a line of what is in the split."""
        boxes = [a for a in self.coco["annotations"] if not a["iscrowd"]]
        counts = Counter(a["category_id"] for a in boxes)
        classes = ", ".join(f"{c['name']} {counts[c['id']]}" for c in self.coco["categories"])
        ignored = len(self.coco["annotations"]) - len(boxes)
        text = f"{len(self.coco['images'])} images, {len(boxes)} boxes ({classes}), {ignored} regions to ignore"
        return text + (f", {self.without_box} windows without a box left out" if self.without_box else "")
