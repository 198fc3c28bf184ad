"""Random damage to a small COCO data set: of values, types, keys, entries, encodings and image files."""

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 64


def draw_set(seed: int, n: int = 12) -> tuple[dict, dict[str, Image.Image]]:
    """Return a sound data set of bright squares on gray: its file and its images by name."""
    rng = random.Random(seed)
    images, annotations, pictures = [], [], {}
    for number in range(1, n + 1):
        pixels = np.full((SIZE, SIZE, 3), 120, np.uint8)
        for _ in range(2):
            side, category = rng.randint(14, 22), rng.randint(1, 2)
            x, y = rng.randint(0, SIZE - side), rng.randint(0, SIZE - side)
            pixels[y : y + side, x : x + side] = ((220, 40, 40), (40, 40, 220))[category - 1]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            annotations.append(entry | {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0})
        name = f"img{number}.png"
        images.append({"id": number, "file_name": name, "width": SIZE, "height": SIZE})
        pictures[name] = Image.fromarray(pixels)
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    return {"images": images, "annotations": annotations, "categories": categories}, pictures


VALUES = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**70, -(2**64), 10**400, 0.5, -0.0, 64.0, 1e308, math.nan, math.inf,
    -math.inf, "", "7", "64.0", "1e3", "false", "NaN", "x", "../x.png", "/abs/img1.png", "a\0b", "\ud800", "ä" * 300,
    "img1.png\n", "=cmd()", [], [1], [400], [1, 2, 3, 4], ["1", "2", "3", "4"], [math.nan] * 4, [[1, 2, 3, 4]],
    [1, 2, 3], [None] * 4, {}, {"x": 1, "y": 2, "width": 30, "height": 30}, {"size": [64, 64], "counts": "x"},
]  # fmt: skip


def mutate(rng: random.Random, data: dict) -> dict:
    """Return a copy of a file with one to four kinds of damage."""
    data = copy.deepcopy(data)
    for _ in range(rng.randint(1, 4)):
        rng.choice(_KINDS)(rng, data)
    return data


def _dicts(data: dict, key: str) -> list[dict]:
    entries = data.get(key)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _entry(rng: random.Random, data: dict) -> dict | None:
    entries = [
        entry for entry in _dicts(data, rng.choice(["images", "annotations", "annotations", "categories"])) if entry
    ]
    return rng.choice(entries) if entries else None


def _set_value(rng: random.Random, data: dict) -> None:
    if entry := _entry(rng, data):
        entry[rng.choice(list(entry))] = copy.deepcopy(rng.choice(VALUES))


def _set_in_box(rng: random.Random, data: dict) -> None:
    entry = _entry(rng, data)
    if entry and isinstance(entry.get("bbox"), list) and entry["bbox"]:
        entry["bbox"][rng.randrange(len(entry["bbox"]))] = copy.deepcopy(rng.choice(VALUES))


def _remove_key(rng: random.Random, data: dict) -> None:
    if entry := _entry(rng, data):
        del entry[rng.choice(list(entry))]


def _all_of_a_key(rng: random.Random, data: dict) -> None:
    section, key = rng.choice(
        [("images", "id"), ("annotations", "image_id"), ("annotations", "category_id"), ("annotations", "area"),
         ("annotations", "iscrowd"), ("images", "width"), ("categories", "id")]
    )  # fmt: skip
    change = rng.choice([str, lambda v: f"n{v}", lambda v: [v], lambda v: float(v) if isinstance(v, int) else v])
    for entry in _dicts(data, section):
        if key in entry:
            try:
                entry[key] = change(entry[key])
            except OverflowError:
                entry[key] = None


def _all_boxes(rng: random.Random, data: dict) -> None:
    def corners(box):
        return [box[0], box[1], box[0] + box[2], box[1] + box[3]]

    change = rng.choice(
        [corners, lambda b: [v / SIZE for v in b], lambda b: [str(v) for v in b], lambda b: [2 * v for v in b],
         lambda b: [b[0] + b[2] / 2, b[1] + b[3] / 2, *b[2:]], lambda b: " ".join(map(str, b))]
    )  # fmt: skip
    for entry in _dicts(data, "annotations"):
        try:
            entry["bbox"] = change(entry["bbox"])
        except (TypeError, KeyError, ValueError, IndexError, OverflowError, AttributeError):
            pass


def _all_names(rng: random.Random, data: dict) -> None:
    change = rng.choice(
        [lambda n: "images\\" + n, lambda n: "images/" + n, str.upper, lambda n: "/data/" + n, lambda n: "s3://b/" + n,
         lambda n: "C:\\d\\" + n, lambda n: n.replace("png", "jpg")]
    )  # fmt: skip
    for entry in _dicts(data, "images"):
        if isinstance(entry.get("file_name"), str):
            entry["file_name"] = change(entry["file_name"])


def _repeat(rng: random.Random, data: dict) -> None:
    entries = data.get(rng.choice(["images", "annotations", "categories"]))
    if isinstance(entries, list) and entries:
        entries.append(copy.deepcopy(rng.choice(entries)))


def _swap_ids(rng: random.Random, data: dict) -> None:
    one, other = _entry(rng, data), _entry(rng, data)
    if one and other and "id" in one and "id" in other:
        one["id"] = other["id"]


def _section(rng: random.Random, data: dict) -> None:
    key = rng.choice(["images", "annotations", "categories"])
    if rng.random() < 0.3:
        data.pop(key, None)
    elif rng.random() < 0.5 and isinstance(data.get(key), list):
        data[key].insert(0, copy.deepcopy(rng.choice(VALUES)))
    else:
        data[key] = copy.deepcopy(rng.choice(VALUES))


def _flat_masks(rng: random.Random, data: dict) -> None:
    for entry in _dicts(data, "annotations"):
        entry["segmentation"] = rng.choice([[1, 1, 9, 1, 9, 9], [[1, 1, 9, 1, 9, 9]], rng.choice(VALUES)])


_KINDS = [
    _set_value, _set_value, _set_value, _set_in_box, _set_in_box, _remove_key, _all_of_a_key, _all_boxes, _all_names,
    _repeat, _swap_ids, _flat_masks, _section,
]  # fmt: skip


def encode(rng: random.Random, data: dict) -> bytes:
    """Return the file's bytes: mostly plain UTF-8, sometimes another encoding, or cut."""
    text = json.dumps(data)
    kind = rng.random()
    if kind < 0.85:
        return text.encode()
    if kind < 0.95:
        return text.encode(rng.choice(["utf-16", "utf-8-sig", "utf-32"]))
    return text.encode()[: rng.randrange(len(text))]


def write_images(rng: random.Random, folder: Path, pictures: dict[str, Image.Image]) -> None:
    """Save the images, some of them damaged, missing, turned, linked or of another size."""
    folder.mkdir(parents=True)
    for name, picture in pictures.items():
        path, kind = folder / name, rng.random()
        if kind < 0.9:
            picture.save(path)
        elif kind < 0.92:
            path.write_bytes(b"")
        elif kind < 0.94:
            picture.save(path)
            path.write_bytes(path.read_bytes()[: rng.randrange(1, 90)])
        elif kind < 0.96:
            exif: Any = Image.Exif()
            exif[0x0112] = rng.choice([0, 2, 3, 6, 8, 9, 40000])
            picture.save(path, exif=exif)
        elif kind < 0.98:
            picture.resize((32, 48)).save(path)
        elif kind < 0.99:
            path.mkdir()
