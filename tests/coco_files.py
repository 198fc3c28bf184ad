"""Small COCO data sets written to a folder, for tests of everything that reads them."""

import copy
import json
from pathlib import Path

import numpy as np
from PIL import Image

# Ids are sparse and out of order on purpose; the image of id 30 has no box; annotation 5 is a crowd region.
SMALL = {
    "images": [
        {"id": 20, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 10, "file_name": "sub/b.png", "width": 20, "height": 50},
        {"id": 30, "file_name": "c.png", "width": 10, "height": 10},
    ],
    "annotations": [
        {"id": 7, "image_id": 10, "category_id": 9, "bbox": [1, 2, 3, 4], "area": 5.5, "iscrowd": 0},
        {"id": 5, "image_id": 20, "category_id": 3, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        {"id": 6, "image_id": 20, "category_id": 9, "bbox": [30.5, 10, 20, 5]},
        {"id": 0, "image_id": 10, "category_id": 3, "bbox": [0, 0, 20, 50], "area": 1000},
    ],
    "categories": [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}],
}


def small() -> dict:
    return copy.deepcopy(SMALL)


def write(folder: Path, data: dict, name: str = "a.json", images: bool = True) -> Path:
    path = folder / name
    path.write_text(json.dumps(data))
    if images:
        for image in data["images"]:
            write_image(folder / "images" / image["file_name"], image["width"], image["height"], image["id"])
    return path


def write_image(path: Path, width: int, height: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
