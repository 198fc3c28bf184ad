"""Image ids of `detection predict`, which numbers images by the order of its arguments, mapped by file name."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from detection.errors import UserError
from detection.evaluation.columns import CocoDataset


def predicted_ids(results: Path, ground_truth: CocoDataset) -> dict[int, int]:
    """Return the annotations' id of each image id in the `images.json` that `detection predict` wrote next to results.

    A file name of either fits one of the other that ends with it, folder by folder, or the only one of its base name.

    Returns:
        Nothing where there is no such file, the ids are the annotations' already, or these have no file names.

    Raises:
        UserError: an image is none of the annotations', or may be several of them.
    """
    # Next to metrics.json, results are of an evaluation, by the annotations' ids.
    if results.with_name("metrics.json").exists():
        return {}
    by_name = defaultdict[str, list[tuple[tuple[str, ...], int]]](list)
    for image in ground_truth["images"]:
        if parts := _parts(image.get("file_name")):
            by_name[parts[-1]].append((parts, image["id"]))
    listed, found, taken = results.with_name("images.json"), dict[int, int](), dict[int, int]()
    for image in _read(listed) if by_name else ():
        parts = _parts(image["file_name"])
        same = by_name[parts[-1] if parts else ""]
        fitting = [id_ for other, id_ in same if _fit(parts, other)] or [id_ for _, id_ in same if len(same) == 1]
        if len(fitting) == 1 and fitting[0] not in taken:
            found[image["id"]], taken[fitting[0]] = fitting[0], image["id"]
            continue
        what = "may be several of the annotations' images" if fitting else "is none of the annotations' images"
        if len(fitting) == 1:
            what = f"is the same of the annotations' images as {taken[fitting[0]]}"
        raise UserError(
            f"{listed}: image {image['id']} is {image['file_name']!r}, which {what}; detect on the annotated images, "
            "each once, by paths that end as in the annotations."
        )
    return {} if all(id_ == own for id_, own in found.items()) else found


def _read(path: Path) -> list[dict[str, Any]]:
    """Images of a file that `detection predict` wrote; none of any other file."""
    try:
        images = json.loads(path.read_bytes())["images"]
        written = all(isinstance(i["file_name"], str) and type(i["id"]) is int and "drawn" in i for i in images)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return images if written else []


def _parts(name: str | None) -> tuple[str, ...]:
    return Path((name or "").replace("\\", "/")).parts


def _fit(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    common = min(len(one), len(other))
    return one[-common:] == other[-common:]
