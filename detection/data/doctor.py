"""Everything wrong with a COCO-style data set, in one report, and a repaired copy."""

import os
import sys
from pathlib import Path

import numpy as np

from detection.atomic_write import write_json
from detection.data.checks import Problem, Tables, examine, partly_outside, read_annotations, shortened
from detection.data.image_checks import examine_images
from detection.data.image_paths import IMAGE_SUFFIXES
from detection.data.mask_checks import examine_masks
from detection.data.repair import repair


def diagnose(annotations: Path, images: Path, *, masks: bool = False, fix: Path | None = None) -> bool:
    """Print a report on a data set, and return whether it is fit for training.

    Args:
        annotations: a COCO JSON file.
        images: the folder that its file names are relative to.
        masks: check the masks, too.
        fix: where a repaired copy goes; None for none.

    Raises:
        UserError: it cannot be examined, or not repaired.
    """
    data = read_annotations(annotations)
    tables, problems = examine(data, annotations)
    image_problems, sizes = examine_images(tables, annotations, images, _progress)
    mask_problems = _examine_masks(data["annotations"], tables, annotations) if masks else []
    print(f"{annotations}, images in {images}\n")
    _print_statistics(tables)
    faults = [_listed(problem, annotations) for problem in problems + image_problems + mask_problems]
    faults += ["no image has a box"] * bool(tables.iscrowd.all())
    _print_list("Would break training", faults)
    _print_list("Worth checking", _warnings(tables, images))
    print("NOT fit for training." if faults else "Fit for training.")
    if fix is not None:
        fixed, notes = repair(data, annotations, image_problems, sizes)
        write_json(fix, fixed, indent=None)
        print()
        _print_list(f"Repaired copy {fix}", notes or ["nothing to repair: an equal copy"])
    return not faults


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
    filled = len(np.unique(tables.image_rows[objects]))
    print(f"{n} images ({n - filled} without boxes), {objects.sum()} boxes, {tables.iscrowd.sum()} crowd regions\n")
    boxes = np.bincount(tables.category_rows[objects], minlength=k)
    pairs = np.unique(np.stack([tables.category_rows[objects], tables.image_rows[objects]]), axis=1)
    images = np.bincount(pairs[0], minlength=k)
    width = max([len(name) for name in tables.category_names] + [8])
    print(f"{'category':<{width}} {'id':>12} {'boxes':>9} {'images':>9}")
    for row, name in enumerate(tables.category_names):
        print(f"{name:<{width}} {tables.category_ids[row]:>12} {boxes[row]:>9} {images[row]:>9}")
    areas = tables.areas[objects]
    small, large = (areas < 32**2).sum(), (areas > 96**2).sum()
    print(f"\nbox areas: {small} small (< 32²), {len(areas) - small - large} medium, {large} large (> 96² pixels)\n")


def _listed(problem: Problem, path: Path) -> str:
    # The report has the path at its top, and the reader runs the doctor already.
    sentence = problem.sentence.removeprefix(str(path)).removeprefix(":").strip()
    sentence = sentence.replace(f"run `detection doctor {path} IMAGES --fix OUT.json`", "use --fix OUT.json")
    n = len(problem.ids)
    return sentence + (f"\n    {n} × {problem.kind}: id {shortened(problem.ids)}" if n > 1 else "")


def _warnings(tables: Tables, folder: Path) -> list[str]:
    """Return what does not break training, but a person would want to know."""
    found = []

    def note(items: list, what: str, label: str = "id") -> None:
        if items:
            found.append(f"{len(items)} {what}: {label} {shortened(items, 5)}")

    objects = (tables.image_rows >= 0) & (tables.category_rows >= 0) & ~tables.iscrowd
    without = np.setdiff1d(np.arange(len(tables.image_ids)), tables.image_rows[objects])
    note(tables.image_ids[without].tolist(), "images have no box")
    used = np.bincount(tables.category_rows[objects], minlength=len(tables.category_ids))
    note([tables.category_names[row] for row in np.flatnonzero(used == 0)], "categories have no box", "name")
    rows = np.flatnonzero(objects)
    keys = np.column_stack([tables.image_rows[rows], tables.category_rows[rows], tables.boxes[rows]])
    _, first = np.unique(keys, axis=0, return_index=True)
    note(tables.annotation_ids[np.delete(rows, first)].tolist(), "boxes repeat another of the same category and image")
    images = tables.image_rows[rows]
    outside = partly_outside(tables.boxes[rows], tables.widths[images], tables.heights[images])
    note(tables.annotation_ids[rows[outside]].tolist(), "boxes reach outside their image and are clipped")
    names, counts = np.unique(np.array(tables.file_names, dtype=object).astype(str), return_counts=True)
    note(names[counts > 1].tolist(), "files are listed as several images", "file")
    note(_unlisted(tables.file_names, folder), "image files in the folder are not listed", "file")
    return found


def _unlisted(file_names: list[str], folder: Path) -> list[str]:
    listed = {os.path.normpath(name) for name in file_names}
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    images = (os.path.relpath(path, folder) for path in paths if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(image for image in images if image not in listed)


def _print_list(title: str, lines: list[str]) -> None:
    if lines:
        print(f"{title}:", *(f"  - {line}" for line in lines), sep="\n", end="\n\n")


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty() and (done % 100 == 0 or done == total):
        print(f"\rdecoding images: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
