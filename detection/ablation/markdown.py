"""A document as Markdown, with its pictures beside it."""

from collections.abc import Sequence

from detection.ablation.document import Block, Bullets, Code, Heading, Paragraph, Picture, Table


def to_markdown(blocks: Sequence[Block]) -> str:
    """The text of a `.md` file."""
    return "\n\n".join(_text(block) for block in blocks) + "\n"


def _text(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Paragraph(text, warning):
            return f"**{text}**" if warning else text
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case Table(head, rows):
            return _table(head, rows)
        case Picture(name, caption, _):
            return f"![{caption}]({name})"
        case Code(lines):
            return "\n".join(f"    {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
