"""Checks of the image files that an annotation file names: there, inside the folder, readable, of the listed size."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detection.data.checks import Problem, Tables
from detection.data.image_paths import leaves_folder, missing_and_escaping
from detection.data.images import read_image
from detection.errors import UserError

SIZE_KIND = "image size differs"


def examine_images(
    tables: Tables, path: Path, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[Problem], dict[int, tuple[int, int]]]:
    """Decode every image of an annotation file, calling `progress` with the number of images decoded and their total.

    Returns:
        The problems, and the real (width, height) of every readable image by its position in the file.

    Raises:
        UserError: There is no such folder.
    """
    # `examine` finds names that leave the folder; here, links that do.
    rows = [row for row, name in enumerate(tables.file_names) if not leaves_folder(name)]
    missing, escaping = missing_and_escaping(folder, [tables.file_names[row] for row in rows])
    left_out = {*missing, *escaping}
    readable = [row for position, row in enumerate(rows) if position not in left_out]
    sizes: dict[int, tuple[int, int]] = {}
    broken: dict[int, str] = {}
    for done, (row, found) in enumerate(_decode(tables, folder, readable), start=1):
        progress(done, len(readable))
        if isinstance(found, str):
            broken[row] = found
        else:
            sizes[row] = found
    differing = {
        row: f"lists {tables.widths[row]}x{tables.heights[row]} pixels for image {tables.image_ids[row]}, but "
        f"{tables.file_names[row]} has {size[0]}x{size[1]} (EXIF applied): correct the sizes, and check that boxes fit"
        for row, size in sizes.items()
        if tables.widths[row] > 0 and tables.heights[row] > 0 and size != (tables.widths[row], tables.heights[row])
    }
    names = {position: f"names {tables.file_names[row]}" for position, row in enumerate(rows)}
    absent = {rows[p]: f"{names[p]}, which is not in {folder}: copy it there, or leave it out" for p in missing}
    linked = {rows[p]: f"{names[p]}, a link out of {folder}: copy the image instead" for p in escaping}
    findings = {"missing image file": absent, "file name leaves the folder": linked, "unreadable image file": broken}
    findings[SIZE_KIND] = differing
    return [_problem(tables, path, kind, found) for kind, found in findings.items() if found], sizes


def _decode(tables: Tables, folder: Path, rows: list[int]) -> Iterator[tuple[int, tuple[int, int] | str]]:
    """Yield each row with its image's (width, height), or with the reason why it cannot be read."""

    def size(row: int) -> tuple[int, tuple[int, int] | str]:
        try:
            height, width = read_image(Path(folder) / tables.file_names[row]).shape[:2]
            return row, (width, height)
        except UserError as error:
            return row, f"names an unreadable file: {error}".removesuffix(".")

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from threads.map(size, rows)


def _problem(tables: Tables, path: Path, kind: str, found: dict[int, str]) -> Problem:
    rows = tuple(found)
    more = f" ({len(rows) - 1} more like it)" if len(rows) > 1 else ""
    sentence = f"{path} {next(iter(found.values()))}{more}."
    return Problem(kind, sentence, "images", rows, tuple(int(tables.image_ids[row]) for row in rows))
