"""Names of categories, files and runs, which strangers choose, made safe for the place where they are shown.

A name may hold control characters, terminal escapes, overrides of the writing direction, half a surrogate pair, a
spreadsheet's formula or ten thousand letters. Data files (JSON) keep names as they are; all else shows them by these.
"""

import re
import sys
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

LONGEST = 40
"""Characters of a name in a table or on an image."""

LONGEST_LINE = 2000
"""Characters of a printed sentence that quotes names."""

_FORMULA = tuple("=+-@＝＋－＠")
_NO_FILE = re.compile(r'[<>:"/\\|?*]')
# Names of devices, which Windows opens whatever the suffix.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_LONGEST_STEM = 160
"""Bytes of a file name without its suffix: file systems take 255, and a number and a suffix are added."""


def visible(text: str) -> str:
    r"""Escape what is not a printable character as Python's `repr` does: `\n`, `\x1b`, `\u202e`, `\ud800`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shorten(text: str, longest: int = LONGEST) -> str:
    """Replace the middle of a text longer than `longest` characters by an ellipsis: names often differ in their end."""
    if len(text) <= longest:
        return text
    tail = (longest - 1) // 3
    return f"{text[: longest - 1 - tail]}…{text[len(text) - tail :]}"


def short_line(text: str) -> str:
    """Return a sentence that quotes names for one line of print: visible, and not longer than `LONGEST_LINE`."""
    return shorten(visible(text), LONGEST_LINE)


def short_name(name: str, longest: int = LONGEST) -> str:
    """Return a name for a table, a title or a label: visible, short, and `''` where it is blank."""
    # What cannot be shown anyway is cut before it is escaped: ten thousand letters take no time.
    return shorten(visible(shorten(name, 2 * longest)), longest) if name.strip() else f"'{visible(name)[:longest]}'"


def short_names(names: Iterable[str], longest: int = LONGEST) -> list[str]:
    """Return `short_name` of each, numbered ` (2)`, ` (3)` … where different names look the same."""
    seen: dict[str, int] = {}
    shown = []
    for name in names:
        short = short_name(name, longest)
        seen[short] = seen.get(short, 0) + 1
        shown.append(short if seen[short] == 1 else f"{short} ({seen[short]})")
    return shown


def plot_name(name: str, longest: int = 24) -> str:
    r"""Return a name for matplotlib: no mathtext, no label hidden by `_`, characters without a glyph escaped."""
    glyphs = _glyphs()
    shown = "".join(c if ord(c) in glyphs else ascii(c)[1:-1] for c in short_name(name, longest))
    shown = shorten(shown, longest)
    # matplotlib leaves a label that begins with _ out of a legend, and takes what is between two $ for a formula.
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")


def csv_name(name: str) -> str:
    """Return a name as a spreadsheet's cell: visible, and after an apostrophe where it would be read as a formula."""
    shown = visible(name)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


def file_stem(name: str) -> str:
    """Return a name as a file name without suffix that every file system takes; two names may become one."""
    plain = unicodedata.normalize("NFC", _NO_FILE.sub("_", name))
    plain = "".join(c if c.isprintable() else "_" for c in plain)
    plain = plain.encode("utf-8", "replace")[:_LONGEST_STEM].decode("utf-8", "ignore").rstrip(" .") or "_"
    return f"_{plain.lstrip('.-')}" if plain[0] in ".-" or _RESERVED.match(plain) else plain


def unique_stems(paths: Iterable[str | Path], taken: Iterable[str] = ()) -> list[str]:
    """`file_stem` of each path's name, numbered `-2`, `-3` … where they repeat, or are taken (in any mix of cases)."""
    taken = {name.casefold() for name in taken}
    numbers: dict[str, int] = {}
    stems = []
    for path in paths:
        own = stem = file_stem(Path(path).stem)
        while stem.casefold() in taken:
            numbers[own] = numbers.get(own, 1) + 1
            stem = f"{own}-{numbers[own]}"
        stems.append(stem)
        taken.add(stem.casefold())
    return stems


def printable_streams() -> None:
    """Let what is printed never fail: characters that the terminal's encoding lacks are escaped."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


@cache
def _glyphs() -> frozenset[int]:
    """Code points of matplotlib's font."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())
