"""A document as one self-contained HTML page: pictures are in it, nothing is fetched, and nothing in it runs."""

import base64
from collections.abc import Sequence
from html import escape

from detection.ablation.document import Block, Bullets, Code, Heading, Paragraph, Picture, Table

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
    """The text of an `.html` file."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "report")
    body = "\n".join(_element(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _element(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text, warning):
            return f'<p class="warning">{escape(text)}</p>' if warning else f"<p>{escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Table(head, rows):
            return _table(head, rows)
        case Picture(_, caption, png):
            source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            below = f"<figcaption>{escape(caption)}</figcaption>"
            return f'<figure><img alt="{escape(caption)}" src="{source}">{below}</figure>'
        case Code(lines):
            return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'
