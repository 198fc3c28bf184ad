"""LVIS's federated annotations: of each image only some classes are annotated, and some of those not all.

An image lists under `neg_category_ids` classes that are certainly not in it, and under `not_exhaustive_category_ids`
classes of which some objects may have no box (Gupta et al. 2019). What a detector finds of a class that is neither
annotated nor listed as absent is neither right nor wrong, and neither is what matches no box of an incomplete class.

Results files are measured by these rules (`detection evaluate --results`, `detection crowd`). Trainings, evaluations of
runs, and ablations and comparisons, which read what those recorded, count such detections as wrong.
"""

import mmap
from pathlib import Path
from typing import Any

from detection.errors import UserError

KEYS = ("neg_category_ids", "not_exhaustive_category_ids")
# xywh. COCO takes the share of a detection inside a crowd region for their IoU: here it is always 1.
_EVERYWHERE = [-1e6, -1e6, 2e6, 2e6]


def is_federated(path: str | Path) -> bool:
    """Whether an annotation file has such keys, by its bytes."""
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return any(text.find(f'"{key}"'.encode()) >= 0 for key in KEYS)
    except (OSError, ValueError):  # an empty file
        return False


def federated_remark(path: str | Path) -> str | None:
    """Return a sentence for evaluations that do not honor an annotation file's keys; None where it has none."""
    if not is_federated(path):
        return None
    return (
        f"{path} lists classes that are not annotated in every image (neg_category_ids, not_exhaustive_category_ids), "
        "and here their detections count as wrong; measure RUN/results.json by `detection evaluate --results "
        f"RUN/results.json --annotations {path}`, which leaves them out"
    )


def add_federated(ground_truth: dict[str, Any], images: list[dict[str, Any]], path: str | Path) -> None:
    """Add what the images of a file list to the ground truth that was read from it.

    It gets `judged`, the ids of the categories by image id that detections of that image are judged on; and a crowd
    region over each image for each incomplete class, which takes the detections that no object takes.

    Raises:
        UserError: a list that is none of category ids.
    """
    known = {category["id"] for category in ground_truth["categories"]}
    judged: dict[int, set[int]] = {image["id"]: set() for image in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        judged[annotation["image_id"]].add(annotation["category_id"])
    added = []
    for image in images:
        absent, incomplete = (_ids(image, key, known, path) for key in KEYS)
        if image["id"] in judged:
            judged[image["id"]] |= absent
            added += [(image["id"], category) for category in sorted(incomplete)]
    first = max((annotation["id"] for annotation in ground_truth["annotations"]), default=0) + 1
    area = _EVERYWHERE[2] * _EVERYWHERE[3]
    ground_truth["annotations"] = ground_truth["annotations"] + [
        {"id": number, "image_id": image, "category_id": category, "bbox": _EVERYWHERE, "area": area, "iscrowd": 1}
        for number, (image, category) in enumerate(added, start=first)
    ]
    ground_truth["judged"] = judged


def _ids(image: dict[str, Any], key: str, known: set[int], path: str | Path) -> set[int]:
    ids = image.get(key, [])
    if not isinstance(ids, list) or (wrong := [i for i in ids if isinstance(i, list | dict) or i not in known]):
        what = f"has {wrong[0]!r}, which is no category of the file" if isinstance(ids, list) else "is no list"
        raise UserError(f"{path}: image {image['id']}: {key} {what}; correct it, or take the key out.")
    return set(ids)
