"""A report as a list of blocks, written as Markdown or HTML."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from detection.names import shorten, visible

LONGEST_CELL = 300
"""Characters of a table's cell."""
LONGEST_TEXT = 4000
"""Characters of a heading, a paragraph, a bullet or a caption."""


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
class Figure:
    """A figure as a PNG file.

    Attributes:
        name: of the file next to the report.
        caption: what it shows, and its alternative text.
        png: the file's bytes.
    """

    name: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Code:
    """Commands to be pasted, one a line."""

    lines: Sequence[str]


Block = Heading | Paragraph | Bullets | Table | Figure | Code


def to_markdown(blocks: Sequence[Block]) -> str:
    """Return the text of a `.md` file."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_shown(text)}"
        case Paragraph(text, warning):
            return f"**{_shown(text)}**" if warning else _shown(text)
        case Bullets(items):
            return "\n".join(f"- {_shown(item)}" for item in items)
        case Table(head, rows):
            return markdown_table(head, rows)
        case Figure(name, caption, _):
            return f"![{_shown(caption)}]({name})"
        case Code(lines):
            return "\n".join(f"    {visible(line)}" for line in lines)


def _shown(text: str) -> str:
    """Return running text, which may quote names: nothing in it is invisible, and it ends somewhere."""
    return shorten(visible(text), LONGEST_TEXT)


def _cell(text: str) -> str:
    return shorten(visible(text), LONGEST_CELL)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table with columns padded to one width; the first is aligned left, the others right."""
    lines = [[_cell(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: break-word; }
h1, h2, h3 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
thead th { border-bottom: 2px solid #888; }
figure { margin: 1.5rem 0; overflow-x: auto; }
figcaption { position: sticky; left: 0; }
img { max-width: 100%; min-width: min(36rem, 200vw); height: auto; }
figcaption { font-size: 0.9rem; color: #444; }
pre { overflow-x: auto; background: #f4f4f4; padding: 0.75rem; font-size: 0.8rem; }
.warning { border-left: 4px solid #c60; background: #fff4e5; padding: 0.5rem 0.75rem; font-weight: 600; }
@media print {
  body { font-size: 9pt; max-width: none; padding: 0; }
  h1, h2, h3 { break-after: avoid; }
  figure, tr, .warning { break-inside: avoid; }
  .scroll, pre, figure { overflow: visible; }
  img { min-width: 0; }
  table { font-size: 7.5pt; }
  th, td { padding: 0.1rem 0.3rem; white-space: normal; }
  pre { white-space: pre-wrap; word-break: break-all; }
}
"""


def to_html(blocks: Sequence[Block]) -> str:
    """Return the text of an `.html` file, which holds its figures and style itself."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "report")
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(_shown(title))}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(_shown(text))}</h{level}>"
        case Paragraph(text, warning):
            return f'<p class="warning">{escape(_shown(text))}</p>' if warning else f"<p>{escape(_shown(text))}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(_shown(item))}</li>" for item in items) + "</ul>"
        case Table(head, rows):
            return _html_table(head, rows)
        case Figure(_, caption, png):
            source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            text = escape(_shown(caption))
            return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'
        case Code(lines):
            return f"<pre>{escape(chr(10).join(map(visible, lines)))}</pre>"


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(_cell(cell))}</th>' for cell in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{escape(_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'
