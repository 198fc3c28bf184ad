"""Reports written as files, Markdown, HTML and figures, all of them or none."""

from collections.abc import Sequence
from pathlib import Path

from detection.atomic_write import atomic_write
from detection.errors import UserError
from detection.reports.document import Block, Picture, to_html, to_markdown


def write_report(output: Path, name: str, blocks: Sequence[Block]) -> list[Path]:
    """Write `NAME.md`, its images and `NAME.html`; each file appears whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    images = [block for block in blocks if isinstance(block, Picture)]
    files: dict[str, bytes] = {image.name: image.png for image in images}
    files |= {f"{name}.md": to_markdown(blocks).encode(), f"{name}.html": to_html(blocks).encode()}
    return write_files(output, files)


def write_files(output: Path, files: dict[str, bytes]) -> list[Path]:
    """Write files by name into a folder.

    Raises:
        UserError: it cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            atomic_write(output / name, lambda path, content=content: path.write_bytes(content))
    except OSError as error:
        raise UserError(f"{output}: the report cannot be written there ({error.strerror}).") from None
    return [output / name for name in files]
