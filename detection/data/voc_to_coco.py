"""Convert Pascal-VOC annotations (one XML file an image) to one COCO JSON file.

    detection convert --from voc BCCD/Annotations BCCD/JPEGImages train.json --ids BCCD/ImageSets/Main/train.txt

Three decisions, each where the two formats differ:

- VOC numbers pixels from 1 and its xmax belongs to the box, COCO measures from the image's edge: x = xmin - 1 and
  width = xmax - xmin + 1. `--first-pixel 0` is for tools that count from 0. A box that then leaves the image is
  clipped, and counted. A box whose xmax is not above its xmin (or y) is a slip of the mouse, not one pixel: it is named
  and left out.
- VOC's evaluation neither rewards nor punishes finding a `difficult` object; COCO's way to say so is `iscrowd` 1,
  which training ignores too.
- Category ids count from 1 over the sorted names in *all* XML files, so that the splits of one data set agree even
  where one of them lacks a class.
"""

import argparse
import json
import math
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detection.atomic_write import write_json
from detection.data.image_paths import IMAGE_SUFFIXES
from detection.errors import UserError, command_line

EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class VocObject:
    """One `<object>`: its class, its corners (xmin, ymin, xmax, ymax) as written, and whether it is `difficult`."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocFile:
    """One XML file: its path, the image's name and (width, height) as written, None where they are not, and objects."""

    path: Path
    image_name: str | None
    size: tuple[int, int] | None
    objects: list[VocObject]


@dataclass
class VocReport:
    """Sentences on what the conversion left out or changed, and the number of clipped boxes."""

    degenerate: list[str] = field(default_factory=list)
    sizes: list[str] = field(default_factory=list)
    clipped: int = 0


def read_xml(path: Path) -> VocFile:
    """Read one VOC annotation file.

    Raises:
        UserError: the file is no XML, or a tag is missing or no number.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid XML ({error}); repair or remove the file") from error
    size = root.find("size")
    shape = None if size is None else (int(_number(path, size, "width")), int(_number(path, size, "height")))
    objects = []
    for element in root.findall("object"):
        box = element.find("bndbox")
        if box is None:
            raise UserError(f"{path}: <object> {len(objects) + 1} has no <bndbox>; add it or remove the object")
        x0, y0, x1, y1 = (_number(path, box, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
        difficult = (element.findtext("difficult") or "0").strip() == "1"
        objects.append(VocObject(_text(path, element, "name"), (x0, y0, x1, y1), difficult))
    return VocFile(path, (root.findtext("filename") or "").strip() or None, shape, objects)


def _text(path: Path, element: ElementTree.Element, tag: str) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise UserError(f"{path}: a <{element.tag}> has no <{tag}>; add it or remove the <{element.tag}>")
    return text


def _number(path: Path, element: ElementTree.Element, tag: str) -> float:
    text = _text(path, element, tag)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{path}: <{tag}> is {text!r}, not a number; correct it or remove the <{element.tag}>")
    return number


def read_voc_folder(annotations: Path) -> dict[str, VocFile]:
    """Read every XML file of a folder, by its stem in sorted order."""
    if not annotations.is_dir():
        raise UserError(f"{annotations} is no folder; give the folder of XML files as ANNOTATIONS")
    files = {path.stem: read_xml(path) for path in sorted(annotations.glob("*.xml"))}
    if not files:
        raise UserError(f"{annotations} holds no .xml file; give the folder of XML files as ANNOTATIONS")
    return files


def read_ids(listing: Path, known: dict[str, VocFile]) -> list[str]:
    """Return the stems a list names, each once, in its order; a class list's second column (`stem  -1`) is not read."""
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{listing} cannot be read ({error}); give a text file of stems to --ids") from error
    stems: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        if not (line := line.strip()):
            continue
        head, _, flag = line.rpartition(" ")
        stem = head.strip() if line not in known and flag in ("-1", "0", "1") else line
        if stem not in known:
            raise UserError(f"{listing}, line {number}: there is no {stem}.xml; correct the line or add the file")
        stems[stem] = None
    if not stems:
        raise UserError(f"{listing} is empty; list one stem a line, or leave --ids out to convert every file")
    return list(stems)


def read_categories(given: str | None, files: dict[str, VocFile]) -> dict[str, int]:
    """Return the id of every class name.

    Args:
        given: a COCO JSON file whose categories are used, or names with commas between; None gathers them from `files`.
        files: all annotation files.

    Raises:
        UserError: `given` is no such thing, or an annotation's class is not in it.
    """
    if given is None:
        names = sorted({item.name for file in files.values() for item in file.objects})
        return {name: index for index, name in enumerate(names, 1)}
    if given.endswith(".json"):
        try:
            entries = json.loads(Path(given).read_text(encoding="utf-8"))["categories"]
            categories = {entry["name"]: int(entry["id"]) for entry in entries}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{given} is no COCO file with categories ({error!r}); give another --categories"
            ) from error
    else:
        entries = [name.strip() for name in given.split(",")]
        categories = {name: index for index, name in enumerate(entries, 1)}
    if len(set(categories.values())) < len(entries) or "" in categories:
        raise UserError(f"--categories {given}: every class needs its own name and id; correct the list")
    for file in files.values():
        for item in file.objects:
            if item.name not in categories:
                raise UserError(f"{file.path}: class {item.name!r} is not among --categories {given}; add it there")
    return categories


class ImageFolder:
    """Finds the images of annotation files.

    Args:
        folder: of the images; not searched in depth.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give the folder of images as IMAGES")
        self.folder = folder
        self.names = {entry.name for entry in os.scandir(folder)}
        images = sorted(name for name in self.names if Path(name).suffix.lower() in IMAGE_SUFFIXES)
        self.by_stem = {Path(name).stem: name for name in reversed(images)}

    def find(self, file: VocFile) -> str:
        """Return the file name of an annotation's image: as written, or with another suffix, or with the XML's stem."""
        written = (file.image_name or "").replace("\\", "/").rpartition("/")[2]
        if written in self.names:
            return written
        for stem in (written, Path(written).stem, file.path.stem):
            if stem in self.by_stem:
                return self.by_stem[stem]
        raise UserError(
            f"{file.path}: no image {written or file.path.stem} in {self.folder}; "
            f"give the right IMAGES folder or leave the file out by --ids"
        )


def image_size(path: Path) -> tuple[int, int]:
    """Return an image's (width, height) from its header, turned as its EXIF orientation asks."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
            return (image.height, image.width) if turned else (image.width, image.height)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no readable image; replace it or leave it out") from error


def convert_box(
    corners: tuple[float, float, float, float], size: tuple[int, int], first_pixel: int
) -> tuple[list[float] | None, bool]:
    """Convert VOC corners to a COCO box.

    Args:
        corners: (xmin, ymin, xmax, ymax) as written: indices of pixels, the last included.
        size: (width, height) of the image; the box is clipped to it.
        first_pixel: index of the leftmost and topmost pixel.

    Returns:
        The box xywh in pixels, None where it has no size; and whether it was clipped.
    """
    x0, y0, x1, y1 = corners
    if x1 <= x0 or y1 <= y0:
        return None, False
    edges = [x0 - first_pixel, y0 - first_pixel, x1 - first_pixel + 1, y1 - first_pixel + 1]
    inside = [min(max(edge, 0), limit) for edge, limit in zip(edges, size * 2, strict=True)]
    width, height = inside[2] - inside[0], inside[3] - inside[1]
    box = [inside[0], inside[1], width, height] if width > 0 and height > 0 else None
    return box, inside != edges


def convert(
    files: list[VocFile], images: ImageFolder, categories: dict[str, int], first_pixel: int = 1
) -> tuple[dict, VocReport]:
    """Return the COCO data of the files, and what was left out or changed on the way."""
    report = VocReport()
    entries, annotations = [], []
    owner: dict[str, Path] = {}
    for image_id, file in enumerate(files, 1):
        name = images.find(file)
        if name in owner:
            raise UserError(f"{file.path} and {owner[name].name} both name {name}; leave one of them out")
        owner[name] = file.path
        size = image_size(images.folder / name)
        if file.size not in (None, size):
            report.sizes.append(f"{file.path.name} has {file.size}, {name} is {size}: the image's size is used")
        entries.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
        for number, item in enumerate(file.objects, 1):
            box, clipped = convert_box(item.corners, size, first_pixel)
            if box is None:
                corners = ", ".join(f"{corner:g}" for corner in item.corners)
                report.degenerate.append(f"{file.path.name}, object {number}, {item.name} ({corners})")
                continue
            report.clipped += clipped
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": categories[item.name],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(item.difficult),
                }
            )
    names = sorted(categories.items(), key=lambda pair: pair[1])
    coco = {
        "info": {"description": "converted from Pascal VOC", "first_pixel": first_pixel},
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for name, index in names],
    }
    return coco, report


def write_converted(out: Path, data: Any) -> None:
    """Write the JSON file that the user named."""
    try:
        write_json(out, data, indent=None)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); choose another OUT.json") from error


def print_voc_report(out: Path, coco: dict, report: VocReport, first_pixel: int) -> None:
    """Print what was written, boxes by class, and everything that was left out or changed."""
    counts = Counter(item["category_id"] for item in coco["annotations"])
    classes = ", ".join(f"{category['name']} {counts[category['id']]}" for category in coco["categories"])
    crowds = sum(item["iscrowd"] for item in coco["annotations"])
    empty = len(coco["images"]) - len({item["image_id"] for item in coco["annotations"]})
    print(f"{out}: {len(coco['images'])} images, {len(coco['annotations'])} boxes ({classes})")
    for title, count in (("difficult boxes, written as iscrowd 1", crowds), ("images without any box", empty)):
        if count:
            print(f"  {title}: {count}")
    if report.clipped:
        print(f"  boxes clipped to their image: {report.clipped} (if many, try --first-pixel {1 - first_pixel})")
    for title, lines in (
        ("boxes without size, left out", report.degenerate),
        ("images of another size than in their annotation", report.sizes),
    ):
        if lines:
            print(f"  {title}: {len(lines)}", *(f"    {line}" for line in lines), sep="\n")


@command_line
def main(argv: list[str] | None = None) -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(
        prog="detection convert --from voc",
        description="Convert Pascal-VOC annotations to one COCO JSON file.",
        epilog="Objects marked difficult become iscrowd 1: ignored in training, neither hit nor miss in evaluation. "
        "Boxes without size are named and left out, boxes that leave their image are clipped and counted.",
    )
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS", help="folder of XML files")
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of images")
    parser.add_argument("out", type=Path, metavar="OUT.json", help="COCO file to write")
    parser.add_argument(
        "--ids", type=Path, metavar="LIST.txt", help="XML stems to convert, one a line; VOC's class lists do too"
    )
    parser.add_argument(
        "--categories",
        metavar="A.json|NAMES",
        help="take the category ids of a COCO file, or number comma-separated names from 1 "
        "(default: the sorted names in all of ANNOTATIONS, so that the splits of one data set agree)",
    )
    parser.add_argument(
        "--first-pixel",
        type=int,
        choices=(0, 1),
        default=1,
        help="index of the leftmost pixel in the XML; xmax belongs to the box: x = xmin - FIRST, "
        "width = xmax - xmin + 1 (default: 1, as in VOC and BCCD)",
    )
    options = parser.parse_args(argv)

    files = read_voc_folder(options.annotations)
    chosen = read_ids(options.ids, files) if options.ids else list(files)
    categories = read_categories(options.categories, files)
    images = ImageFolder(options.images)
    coco, report = convert([files[stem] for stem in chosen], images, categories, options.first_pixel)
    write_converted(options.out, coco)
    print_voc_report(options.out, coco, report, options.first_pixel)
