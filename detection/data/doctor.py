"""Everything wrong with a COCO-style data set, in one report, and a repaired copy."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.atomic_write import write_json
from detection.data.box_readings import AS_GIVEN, fits
from detection.data.category_repair import shifted_ids
from detection.data.checks import Problem, Tables, examine, read_annotations, repeated, shortened
from detection.data.data_set_remarks import data_set_remarks, format_finding, upright_by_content
from detection.data.format_evidence import RAW, Finding
from detection.data.image_checks import ImageFacts, examine_images
from detection.data.image_names import NameMatch, match_names
from detection.data.image_paths import missing_and_escaping
from detection.data.mask_boxes import with_boxes_of_masks
from detection.data.mask_checks import examine_masks
from detection.data.readable_values import Changes, read_values
from detection.data.repair import Notes, RepairOptions, repair
from detection.data.split_checks import ExaminedSplit, split_problems, split_remarks
from detection.errors import UserError
from detection.names import short_line, short_names

_NO_OPTIONS = RepairOptions()


@dataclass(frozen=True)
class Examined:
    """A data set as it was examined.

    Attributes:
        path: the annotation file.
        images: the folder of its images.
        data: the file with all readable values and file names read as what they mean, and boxes taken from masks.
        changes: kinds of values that had to be read so.
        of_masks: positions of the annotations whose boxes were taken from their masks.
        tables: columns of `data`.
        facts: what the images are.
        image_problems: of the image files.
        faults: the lines on each thing that would break training, the format of boxes aside.
        finding: the reading for which there is evidence, if it is not the one given.
    """

    path: Path
    images: Path
    data: dict
    changes: Changes
    of_masks: tuple[int, ...]
    tables: Tables
    facts: ImageFacts
    image_problems: list[Problem]
    faults: list[list[str]]
    finding: Finding | None


def diagnose(
    sets: Sequence[tuple[Path, Path]],
    *,
    masks: bool = False,
    fix: Path | None = None,
    options: RepairOptions = _NO_OPTIONS,
) -> bool:
    """Print a report on the splits of a data set, and return whether they are fit for training.

    Args:
        sets: a COCO JSON file each, and the folder that its file names are relative to; trained on is the first.
        masks: check the masks, too.
        fix: where a repaired copy of the first goes; None for none.
        options: decisions of a person, about what the boxes mean and about the repair.

    Raises:
        UserError: it cannot be examined, or not repaired.
    """
    examined = []
    for path, images in sets:
        found = examine_set(path, images, masks, options)
        examined.append(found)
        report(found)
    is_fit = not any(found.faults or found.finding for found in examined)
    if len(sets) > 1:
        splits = [ExaminedSplit(found.path, found.tables, found.facts) for found in examined]
        problems = split_problems(splits)
        print("All splits\n")
        print_list("Would break training", problems)
        print_list("Worth checking", split_remarks(splits))
        is_fit = is_fit and not problems
    print("Fit for training." if is_fit else "NOT fit for training.")
    if fix is not None:
        _write_copy(examined[0], fix, options)
    return is_fit


def examine_set(path: Path, images: Path, masks: bool, options: RepairOptions) -> Examined:
    """Examine a data set: as training reads it, and as it can be read."""
    data = read_annotations(path)
    tables, problems = examine(data, path)
    readable, changes = read_values(data)
    readable, matches = _with_matched_names(readable, changes, images)
    unread, masked = tables, with_boxes_of_masks(readable)
    readable = masked.data
    tables, _ = examine(readable, path)
    image_problems, facts = examine_images(tables, path, images, _progress)
    found = problems + _shared_names(tables, path)
    found += ([_renamed(unread, matches, path, images)] if matches else []) + image_problems
    found += _examine_masks(data["annotations"], unread, path) if masks else []
    faults = [_listed(problem, path) for problem in found]
    faults += [[masked.fault]] if masked.fault else []
    faults += [[shifted]] if (shifted := shifted_ids(readable)) else []
    faults += [["no image has a box"]] * bool(tables.iscrowd.all())
    # A person who states the reading knows better.
    finding = format_finding(tables, facts) if options.reading is None else None
    return Examined(path, images, readable, changes, masked.rows, tables, facts, image_problems, faults, finding)


def report(found: Examined) -> None:
    """Print the report on a data set."""
    print(short_line(f"{found.path}, images in {found.images}") + "\n")
    _print_statistics(found.tables)
    print_list("Would break training", found.faults)
    if found.finding is not None:
        advice = f"--fix OUT.json --boxes {quoted(found.finding)} converts them, --boxes {AS_GIVEN.name} keeps them"
        print_list("Would be learned wrong", [f"{found.finding.sentence}; {advice}"])
    print_list("Worth checking", data_set_remarks(found.data, found.tables, found.facts, found.images, found.finding))


def _write_copy(found: Examined, fix: Path, options: RepairOptions) -> None:
    if found.finding is not None:
        raise UserError(
            f"{found.path}: {found.finding.sentence}; decide it for --fix: --boxes {quoted(found.finding)} "
            f"converts them, --boxes {AS_GIVEN.name} keeps them."
        )
    if options.reading is None and (undecided := _resized(found)):
        raise UserError(
            f"{found.path} lists another size of the same shape for {undecided} images, and the boxes may belong to "
            f"either: decide it for --fix: --boxes scaled scales them with the image, --boxes {AS_GIVEN.name} keeps "
            "them."
        )
    if options.reading is None and (turned := _listed_as_stored(found)):
        raise UserError(
            f"{found.path} lists {turned} images in the size that they are stored in, before their EXIF orientation, "
            f"and the boxes may be drawn so, too: decide it for --fix: --boxes {RAW.name} turns them with the image, "
            f"--boxes {AS_GIVEN.name} keeps them."
        )
    notes = Notes()
    for kind, ids in found.changes.items():
        notes.changed("read", "value", kind, ids)
    without_box = [found.data["annotations"][row].get("id", f"number {row}") for row in found.of_masks]
    notes.changed("took from their masks the boxes of", "annotation", "without a box of their own", without_box)
    fixed = repair(found.data, found.path, found.image_problems, found.facts, found.of_masks, options, notes)
    _, problems = examine(fixed, found.path)
    if problems:
        raise UserError(f"{problems[0].sentence.removesuffix('.')}; this cannot be repaired automatically.")
    try:
        write_json(fix, fixed, indent=None)
    except OSError as error:
        raise UserError(f"--fix {fix} cannot be written ({error.strerror}): choose another file.") from None
    print()
    print_list(f"Repaired copy {fix}", list(notes) or ["nothing to repair: an equal copy"])


def _resized(found: Examined) -> int:
    """Return the number of images with boxes that are listed at another scale, if most of those with boxes are."""
    tables, facts = found.tables, found.facts
    rows = [row for row in np.unique(tables.image_rows).tolist() if row in facts.sizes and tables.widths[row] > 0]
    rows = [row for row in rows if tables.heights[row] > 0]
    scaled = 0
    for row in rows:
        x, y = facts.sizes[row][0] / tables.widths[row], facts.sizes[row][1] / tables.heights[row]
        scaled += int(abs(x - 1) > 0.02 and abs(x / y - 1) < 0.02)
    return scaled if scaled >= 3 and scaled > len(rows) / 2 else 0


def _listed_as_stored(found: Examined) -> int:
    """Return the number of images that are listed without their EXIF orientation, if all of their boxes fit them so."""
    tables, facts = found.tables, found.facts
    listed = np.stack([tables.widths, tables.heights], axis=1)  # (N, 2)
    turned = [row for row, size in facts.sizes.items() if size[0] != size[1] and tuple(listed[row]) == size[::-1]]
    turned = [row for row in turned if facts.orientations[row] >= 5]
    rows = np.flatnonzero(np.isin(tables.image_rows, turned))
    images = tables.image_rows[rows]
    is_decided = upright_by_content(facts) or not fits(tables.boxes[rows], listed[images]).all()
    return 0 if is_decided else len(np.unique(images))


def _with_matched_names(data: dict, changes: Changes, folder: Path) -> tuple[dict, dict[int, NameMatch]]:
    names = [entry.get("file_name") for entry in data["images"]]
    written = [name if isinstance(name, str) else "" for name in names]
    missing, escaping = missing_and_escaping(folder, written)
    matches = match_names(folder, written, [row for row in (*missing, *escaping) if written[row]])
    images = [
        {**entry, "file_name": matches[row].name} if row in matches else entry
        for row, entry in enumerate(data["images"])
    ]
    for row, match in matches.items():
        changes.setdefault(f"image file_name written with {match.difference}", []).append(images[row].get("id"))
    return {**data, "images": images}, matches


def quoted(finding: Finding) -> str:
    """Return a finding's reading as a shell takes it."""
    return shlex.quote(finding.reading.name)


def _shared_names(tables: Tables, path: Path) -> list[Problem]:
    """Return the problem of a placeholder that has boxes, and so is a class, and has another category's name."""
    names = tables.category_names
    shared = [row for row in tables.placeholders if names.count(names[row]) > 1 and row in tables.category_rows]
    if not shared:
        return []
    sentence = (
        f"{path}: category 0 has boxes and the name of another category, {names[shared[0]]!r}: give it another name, "
        "or use --fix OUT.json --merge-categories."
    )
    return [Problem("shared name", sentence, "categories", tuple(shared), (0,) * len(shared))]


def _renamed(tables: Tables, matches: dict[int, NameMatch], path: Path, folder: Path) -> Problem:
    rows = sorted(matches)
    first = matches[rows[0]]
    more = f" ({len(rows) - 1} more like it)" if len(rows) > 1 else ""
    written = tables.file_names[rows[0]]
    prefix = written.removesuffix(first.name).strip("/")
    root = folder.parent if prefix and folder.name == prefix else None
    other = f", or give {root} as IMAGES" if root is not None and (root / written).is_file() else ""
    sentence = (
        f"{path} names {written}, but {folder} has {first.name} ({first.difference}){more}: --fix OUT.json corrects "
        f"such names{other}."
    )
    return Problem("file name differs", sentence, "images", tuple(rows), tuple(tables.image_ids[rows].tolist()))


def _examine_masks(entries: list[dict], tables: Tables, path: Path) -> list[Problem]:
    # Where the image is unknown, or its size, that is reported already.
    images = np.maximum(tables.image_rows, 0)
    widths, heights = (np.append(sizes, 0)[images] for sizes in (tables.widths, tables.heights))
    rows = np.flatnonzero((tables.image_rows >= 0) & (widths > 0) & (heights > 0))
    return examine_masks([entries[row] for row in rows.tolist()], widths[rows], heights[rows], path)


def _print_statistics(tables: Tables) -> None:
    placed = (tables.image_rows >= 0) & (tables.category_rows >= 0)
    objects = placed & ~tables.iscrowd
    n, k = len(tables.image_ids), len(tables.category_ids)
    # Of images that share an id nobody knows which one has the boxes.
    empty = len(np.setdiff1d(np.flatnonzero(~repeated(tables.image_ids)), tables.image_rows[objects]))
    print(f"{n} images ({empty} without boxes), {objects.sum()} boxes, {tables.iscrowd.sum()} crowd regions\n")
    boxes = np.bincount(tables.category_rows[objects], minlength=k)
    pairs = np.unique(np.stack([tables.category_rows[objects], tables.image_rows[objects]]), axis=1)
    images = np.bincount(pairs[0], minlength=k)
    names = short_names(tables.category_names)
    width = max([len(name) for name in names] + [8])
    print(f"{'category':<{width}} {'id':>12} {'boxes':>9} {'images':>9}")
    for row, name in enumerate(names):
        print(f"{name:<{width}} {tables.category_ids[row]:>12} {boxes[row]:>9} {images[row]:>9}")
    areas = tables.areas[objects]
    small, large = (areas < 32**2).sum(), (areas > 96**2).sum()
    print(f"\nbox areas: {small} small (< 32²), {len(areas) - small - large} medium, {large} large (> 96² pixels)\n")


def _listed(problem: Problem, path: Path) -> list[str]:
    # The report has the path at its top, and the reader runs the doctor already.
    sentence = problem.sentence.removeprefix(str(path)).removeprefix(":").strip()
    sentence = re.sub(r"run `detection doctor .* IMAGES (--fix OUT.json[^`]*)`", r"use \1", sentence)
    n = len(problem.ids)
    counts = f"{n} × {problem.kind}: id {shortened(problem.ids)}"
    return [sentence, counts] if n > 1 else [sentence]


def print_list(title: str, items: Sequence[str | list[str]]) -> None:
    """Print a list under a title, if there is anything in it; items are a line, or several."""
    if not items:
        return
    print(f"{short_line(title)}:")
    for item in items:
        lines = [item] if isinstance(item, str) else item
        print("  - " + "\n    ".join(map(short_line, lines)))
    print()


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty() and (done % 100 == 0 or done == total):
        print(f"\rdecoding images: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
