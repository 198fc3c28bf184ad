"""Reports written as files: Markdown, HTML and figures."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from detection.atomic_write import atomic_write
from detection.errors import UserError
from detection.reports.document import Block, Figure, to_html, to_markdown
from detection.system_errors import explain

if TYPE_CHECKING:
    import matplotlib.figure


def write_report(output: Path, name: str, blocks: Sequence[Block]) -> list[Path]:
    """Write `NAME.md`, its figures and `NAME.html`.

    Raises:
        UserError: the folder cannot be written.
    """
    files = {block.name: block.png for block in blocks if isinstance(block, Figure)}
    files |= {f"{name}.md": to_markdown(blocks).encode(), f"{name}.html": to_html(blocks).encode()}
    return write_files(output, files)


def write_files(output: Path, files: dict[str, bytes]) -> list[Path]:
    """Write files by name into a folder, which is made if it is missing; a reader never sees half a file.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        for name, content in files.items():
            atomic_write(output / name, lambda path, content=content: path.write_bytes(content))
    except OSError as error:
        reason = explain(error) or f"{error.strerror}."
        raise UserError(f"{output}: its files cannot be written: {reason}") from None
    return [output / name for name in files]


def image_png(image: np.ndarray) -> bytes:
    """Return an image (H, W, 3) uint8 as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def to_png(figure: "matplotlib.figure.Figure") -> bytes:
    """Render a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names in a script that the font lacks: a box is drawn for each character.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
