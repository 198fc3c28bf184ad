"""Ground truth for measuring only, which needs less than training: no image sizes, file names or unique class names.

Measured as pycocotools does: categories of one name are two classes, and annotations of images or categories that the
file does not list belong to nothing.
"""

from pathlib import Path
from typing import Any

import numpy as np

from detection.data.checks import BOX_KINDS, Section, examine, read_annotations, rows_of
from detection.data.readable_values import read_values
from detection.errors import UserError

_LEFT_OUT = BOX_KINDS | {
    "missing bbox", "unknown image", "unknown category", "missing image_id", "bad image_id", "missing category_id",
    "bad category_id", "bad iscrowd",
}  # fmt: skip


def load_ground_truth(path: Path) -> dict[str, Any]:
    """Read ids, boxes, areas and crowd flags of an annotation file, values as what they mean.

    Returns:
        A COCO data set with original ids where they are integers; `width` and `height` of images that have both;
        annotations numbered from 1; `dropped`, the number of annotations left out, if there are any; and `text_ids`,
        the ids here of images and categories by those of the file that are texts, if there are any.

    Raises:
        UserError: Images or categories have no ids, or share them, or the file is no COCO annotation file.
    """
    raw = read_annotations(path)
    data, _ = read_values(raw)
    for name in ("images", "categories"):
        section = Section(path, name, data[name])
        section.ids()
        if section.problems:
            raise UserError(section.problems[0].sentence)
    tables, problems = examine(data, path)
    lost = rows_of(problems, "annotations", *_LEFT_OUT)
    kept = np.setdiff1d(np.arange(len(tables.annotation_ids)), list(lost)).astype(int)
    annotations = [
        {
            "id": number,
            "image_id": int(tables.image_ids[tables.image_rows[row]]),
            "category_id": int(tables.category_ids[tables.category_rows[row]]),
            "bbox": tables.boxes[row].tolist(),
            "area": float(tables.areas[row]),
            "iscrowd": int(tables.iscrowd[row]),
        }
        for number, row in enumerate(kept.tolist(), start=1)
    ]
    images = []
    for row, id_ in enumerate(tables.image_ids.tolist()):
        width, height = int(tables.widths[row]), int(tables.heights[row])
        size = {"width": width, "height": height} if width and height else {}
        images.append({"id": id_, "file_name": tables.file_names[row]} | size)
    names = zip(tables.category_ids.tolist(), tables.category_names, strict=True)
    categories = [{"id": id_, "name": name or str(id_)} for id_, name in names]
    found = {"images": images, "annotations": annotations, "categories": categories}
    return found | ({"dropped": len(lost)} if lost else {}) | _text_ids(raw, found)


def _text_ids(raw: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return the ids that stand for each id that is a text, under `text_ids`; nothing where all are numbers."""
    ids = {
        key: {
            old["id"]: new["id"] for old, new in zip(raw[name], found[name], strict=True) if isinstance(old["id"], str)
        }
        for key, name in (("image_id", "images"), ("category_id", "categories"))
    }
    return {"text_ids": ids} if any(ids.values()) else {}
