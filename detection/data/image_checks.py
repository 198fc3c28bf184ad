"""Checks of the image files that an annotation file names: there, inside the folder, readable, of the listed size."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detection.cores import usable_cores
from detection.data.box_readings import Placement
from detection.data.checks import Problem, Tables
from detection.data.format_evidence import EdgeEvidence, sample_images, score_image
from detection.data.image_names import absent_reason
from detection.data.image_paths import leaves_folder, missing_and_escaping
from detection.data.images import LoadedImage, load_image
from detection.errors import UserError

SIZE_KIND = "image size differs"


@dataclass
class ImageFacts:
    """Facts on the readable images of a data set, by their position in the annotation file.

    Attributes:
        sizes: real (width, height), upright.
        orientations: EXIF orientations, 1 … 8.
        depths: bits a pixel of a color, 8 … 16.
        brightest: value of the brightest pixel, 0 … 255.
        plain: images of which all pixels are equal.
        digests: hashes of the pixels, equal for equal images whatever their names and formats.
        edges: agreement of boxes with edges.
    """

    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    orientations: dict[int, int] = field(default_factory=dict)
    depths: dict[int, int] = field(default_factory=dict)
    brightest: dict[int, int] = field(default_factory=dict)
    plain: set[int] = field(default_factory=set)
    digests: dict[int, bytes] = field(default_factory=dict)
    edges: EdgeEvidence = field(default_factory=EdgeEvidence)

    def placement(self, tables: Tables, rows: np.ndarray) -> Placement:
        """Return where the boxes of annotations are: on the real image if it is readable, else on the listed size."""
        listed = np.stack([tables.widths, tables.heights], axis=1)  # (N, 2)
        sizes, orientations = listed.copy(), np.ones(len(listed), dtype=int)
        for row, size in self.sizes.items():
            sizes[row], orientations[row] = size, self.orientations[row]
        images = tables.image_rows[rows]
        return Placement(sizes[images], listed[images], orientations[images])


def examine_images(
    tables: Tables, path: Path, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[Problem], ImageFacts]:
    """Decode every image of an annotation file, calling `progress` with the number of images decoded and their total.

    Returns:
        The problems, and what the readable images are.

    Raises:
        UserError: There is no such folder.
    """
    # `examine` finds names that leave the folder; here, links that do.
    rows = [row for row, name in enumerate(tables.file_names) if not leaves_folder(name)]
    missing, escaping = missing_and_escaping(folder, [tables.file_names[row] for row in rows])
    left_out = {*missing, *escaping}
    readable = [row for position, row in enumerate(rows) if position not in left_out]
    facts, broken = ImageFacts(), {}
    for done, (row, found) in enumerate(_decode(tables, folder, readable), start=1):
        progress(done, len(readable))
        if isinstance(found, str):
            broken[row] = found
            continue
        facts.sizes[row], facts.orientations[row], facts.depths[row] = found.size, found.orientation, found.depth
        facts.brightest[row], facts.digests[row] = found.brightest, found.digest
        if found.is_plain:
            facts.plain.add(row)
        if found.scores is not None:
            facts.edges.scores.append(found.scores)
    names = {position: f"names {tables.file_names[row]}" for position, row in enumerate(rows)}
    absent = {
        rows[p]: f"{names[p]}, {absent_reason(folder, tables.file_names[rows[p]])}: copy it there, or leave it out"
        for p in missing
    }
    linked = {rows[p]: f"{names[p]}, a link out of {folder}: copy the image instead" for p in escaping}
    findings = {"missing image file": absent, "file name leaves the folder": linked, "unreadable image file": broken}
    findings[SIZE_KIND] = _differing(tables, facts)
    return [_problem(tables, path, kind, found) for kind, found in findings.items() if found], facts


def _differing(tables: Tables, facts: ImageFacts) -> dict[int, str]:
    found = {}
    for row, size in facts.sizes.items():
        listed = (int(tables.widths[row]), int(tables.heights[row]))
        if 0 in listed or listed == size:
            continue
        stored = facts.orientations[row] >= 5 and listed == size[::-1]
        why = f"EXIF orientation {facts.orientations[row]} applied" if stored else "EXIF applied"
        found[row] = (
            f"lists {listed[0]}x{listed[1]} pixels for image {tables.image_ids[row]}, but {tables.file_names[row]} has "
            f"{size[0]}x{size[1]} ({why}): correct the sizes, and check that boxes fit"
        )
    return found


class _Found(NamedTuple):
    """One image's facts."""

    size: tuple[int, int]
    orientation: int
    depth: int
    brightest: int
    is_plain: bool
    digest: bytes
    scores: np.ndarray | None


def _decode(tables: Tables, folder: Path, rows: list[int]) -> Iterator[tuple[int, _Found | str]]:
    """Yield each row with what its image is, or with the reason why it cannot be read."""
    order = np.argsort(tables.image_rows, kind="stable")
    usable = order[np.isfinite(tables.boxes[order]).all(axis=1) & ~tables.iscrowd[order]]
    owners = tables.image_rows[usable]
    sampled = set(sample_images(np.intersect1d(rows, owners)).tolist())

    def examined(row: int) -> tuple[int, _Found | str]:
        try:
            image = load_image(Path(folder) / tables.file_names[row])
        except UserError as error:
            return row, f"names an unreadable file: {error}".removesuffix(".")
        scores = None
        boxes = tables.boxes[usable[slice(*np.searchsorted(owners, [row, row + 1]))]]
        if row in sampled and len(boxes):
            listed = (int(tables.widths[row]), int(tables.heights[row]))
            scores = score_image(image.pixels, boxes, listed, image.orientation, row)
        height, width = image.pixels.shape[:2]
        brightest = int(image.pixels.max(initial=0))
        is_plain = _is_plain(image.pixels)
        return row, _Found((width, height), image.orientation, image.depth, brightest, is_plain, _digest(image), scores)

    # Threads are enough: Pillow's decoders release the interpreter's lock.
    with ThreadPoolExecutor(usable_cores()) as threads:
        yield from threads.map(examined, rows)


def _is_plain(pixels: np.ndarray) -> bool:
    # A few pixels first, which settle it for almost all images.
    return all(bool((some == pixels[:1, :1]).all()) for some in (pixels[::16, ::16], pixels))


def _digest(image: LoadedImage) -> bytes:
    digest = hashlib.blake2b(str(image.pixels.shape).encode(), digest_size=16)
    digest.update(image.pixels.data)
    return digest.digest()


def _problem(tables: Tables, path: Path, kind: str, found: dict[int, str]) -> Problem:
    rows = tuple(found)
    more = f" ({len(rows) - 1} more like it)" if len(rows) > 1 else ""
    sentence = f"{path} {next(iter(found.values()))}{more}."
    return Problem(kind, sentence, "images", rows, tuple(int(tables.image_ids[row]) for row in rows))
