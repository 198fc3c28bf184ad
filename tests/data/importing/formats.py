"""Data sets of other formats made for tests, and the checks that all converters share."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from detection.cli import convert

WIDTH, HEIGHT = 80, 40


def add_image(path: Path, width: int = WIDTH, height: int = HEIGHT, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation != 1:
        exif[274] = orientation
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


def add_text(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def boxes_of(data: dict) -> dict[str, list]:
    """Return (category name, bbox rounded to a thousandth) of each image's annotations, by file stem."""
    names = {c["id"]: c["name"] for c in data["categories"]}
    found: dict[str, list] = {Path(image["file_name"]).stem: [] for image in data["images"]}
    stems = {image["id"]: Path(image["file_name"]).stem for image in data["images"]}
    for item in data["annotations"]:
        found[stems[item["image_id"]]].append((names[item["category_id"]], [round(v, 3) for v in item["bbox"]]))
    return {stem: sorted(boxes) for stem, boxes in found.items()}


def same_boxes(found: dict, expected: dict, within: float = 0.002) -> bool:
    """Whether two COCO sets have the same classes, images by stem, and boxes but for rounding in pixels."""
    first, second = boxes_of(found), boxes_of(expected)
    pairs = [(first[stem], second[stem]) for stem in second]
    names = all([name for name, _ in a] == [name for name, _ in b] for a, b in pairs)
    return (
        first.keys() == second.keys()
        and found["categories"] == expected["categories"]
        and names
        and all(np.allclose([box for _, box in a], [box for _, box in b], rtol=0, atol=within) for a, b in pairs if a)
    )


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def converted(format_: str, *arguments: object) -> int:
    return convert.main(["--from", format_, *map(str, arguments)])


def fails(capsys, words: tuple[str, ...], format_: str, *arguments: object) -> None:
    """Check that a conversion ends with one sentence that has these words."""
    capsys.readouterr()
    assert converted(format_, *arguments) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and not out, (out, error)
    assert all(word in error for word in words), error


def sample(folder: Path) -> dict:
    """Write the images of a small COCO set of two classes and return it: fractional, touching and no boxes."""
    sizes = {"a.png": (80, 40), "b.jpg": (33, 57), "c.png": (20, 20)}
    for name, size in sizes.items():
        add_image(folder / name, *size)
    images = [
        {"id": i, "file_name": name, "width": w, "height": h} for i, (name, (w, h)) in enumerate(sizes.items(), 1)
    ]
    boxes = [(1, 1, [0, 0, 80, 40]), (1, 2, [10.25, 5.5, 20.125, 30.75]), (2, 2, [0, 50, 33, 7]), (2, 1, [3, 4, 5, 6])]
    annotations = [
        {"id": i, "image_id": image, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, (image, c, box) in enumerate(boxes, 1)
    ]
    categories = [{"id": 1, "name": "zebra"}, {"id": 2, "name": "ant"}]
    return {"images": images, "annotations": annotations, "categories": categories}
