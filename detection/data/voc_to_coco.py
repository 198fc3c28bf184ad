"""Convert Pascal-VOC annotations (one XML file an image) to one COCO JSON file.

    detection convert --from voc BCCD/Annotations BCCD/JPEGImages train.json --ids BCCD/ImageSets/Main/train.txt

Three decisions, each where the two formats differ:

- VOC numbers pixels from 1 and its xmax belongs to the box, COCO measures from the image's edge: x = xmin - 1 and
  width = xmax - xmin + 1. `--first-pixel 0` is for tools that count from 0. A box that then leaves the image is
  clipped, and counted. A box whose xmax is not above its xmin (or y) is a slip of the mouse, not one pixel: it is named
  and left out.
- VOC's evaluation neither rewards nor punishes finding a `difficult` object; its equivalent in COCO is `iscrowd` 1,
  which training ignores too. `truncated` and `occluded` objects are objects in both; they are counted.
- Category ids count from 1 over the sorted names in *all* XML files, so that the splits of one data set agree even
  where one of them lacks a class.
"""

import argparse
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from detection.data.conversion import CocoBuilder, Conversion, add_common_arguments, conversion_report, named_categories
from detection.data.image_paths import IMAGE_SUFFIXES
from detection.data.importing.text import finite_number
from detection.data.xml_files import encoding_argument, parse_xml
from detection.errors import UserError

Corners = tuple[float, float, float, float]
FLAGS = ("difficult", "truncated", "occluded")


@dataclass(frozen=True)
class VocObject:
    """One `<object>`: its class, its corners (xmin, ymin, xmax, ymax) as written, and which of `FLAGS` it has."""

    name: str
    corners: Corners
    flags: frozenset[str]


@dataclass(frozen=True)
class VocFile:
    """One XML file: its path, the image's name and (width, height) as written, None where they are not, and objects."""

    path: Path
    image_name: str | None
    size: tuple[int, int] | None
    objects: list[VocObject]


def read_xml(path: Path, encoding: str | None = None) -> VocFile:
    """Read one VOC annotation file.

    Args:
        path: the file.
        encoding: of its text; None: by its byte order mark, or as it declares, else UTF-8.

    Raises:
        UserError: the file is no XML, or a tag is missing or no number.
    """
    root = parse_xml(path, encoding)
    size = root.find("size")
    shape = None if size is None else (int(_number(path, size, "width")), int(_number(path, size, "height")))
    objects = []
    for element in root.findall("object"):
        box = element.find("bndbox")
        if box is None:
            raise UserError(f"{path}: <object> {len(objects) + 1} has no <bndbox>; add it or remove the object")
        x0, y0, x1, y1 = (_number(path, box, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
        flags = frozenset(flag for flag in FLAGS if (element.findtext(flag) or "").strip().lower() in ("1", "true"))
        objects.append(VocObject(_text(path, element, "name"), (x0, y0, x1, y1), flags))
    return VocFile(path, (root.findtext("filename") or "").strip() or None, shape, objects)


def _text(path: Path, element: ElementTree.Element, tag: str) -> str:
    text = (element.findtext(tag) or "").strip()
    if not text:
        raise UserError(f"{path}: a <{element.tag}> has no <{tag}>; add it or remove the <{element.tag}>")
    return text


def _number(path: Path, element: ElementTree.Element, tag: str) -> float:
    return finite_number(_text(path, element, tag), str(path), f"<{tag}>", f"correct it or remove the <{element.tag}>")


def read_voc_folder(annotations: Path, encoding: str | None = None) -> dict[str, VocFile]:
    """Read every XML file of a folder, by its stem in sorted order."""
    if not annotations.is_dir():
        raise UserError(f"{annotations} is no folder; give the folder of XML files as ANNOTATIONS")
    paths = sorted(path for path in annotations.iterdir() if path.suffix.lower() == ".xml")
    files = {path.stem: read_xml(path, encoding) for path in paths if not path.name.startswith("._")}
    if not files:
        raise UserError(f"{annotations} holds no .xml file; give the folder of XML files as ANNOTATIONS")
    return files


def read_ids(listing: Path, known: dict[str, VocFile]) -> list[str]:
    """Return the stems a list names, each once, in its order; a class list's second column (`stem  -1`) is not read."""
    if listing.exists() and not listing.is_file():
        raise UserError(f"{listing} is a folder, pipe or device; give a text file of stems to --ids")
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
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
    """Return the id of every class name; see `named_categories`, names sorted."""
    uses: dict[str, str] = {}
    for file in files.values():
        for item in file.objects:
            uses.setdefault(item.name, str(file.path))
    return named_categories(given, dict(sorted(uses.items())))


def _require_pixels(files: list[VocFile]) -> None:
    """Refuse corners that are shares of their images' sides: in pixels, all boxes would be in the first one."""
    found = [(file.path, corner) for file in files for item in file.objects for corner in item.corners]
    if found and all(0 <= corner <= 1 for _, corner in found):
        raise UserError(
            f"{found[0][0]}: the corners of all boxes are from 0 to 1, shares of the image's sides, but VOC's are in "
            "pixels: multiply them by the width and the height"
        )


class ImageFolder:
    """Finds the images of annotation files in a folder, not in folders below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = {entry.name for entry in folder.iterdir()}
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


def box_edges(corners: Corners, first_pixel: int) -> Corners:
    """Return a box's edges in pixels from the image's edge; corners without size come back as they are.

    Corners are indices of pixels, the last included, which count from `first_pixel`.
    """
    x0, y0, x1, y1 = corners
    if x1 <= x0 or y1 <= y0:
        return corners
    return x0 - first_pixel, y0 - first_pixel, x1 - first_pixel + 1, y1 - first_pixel + 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this format."""
    parser.add_argument("source", type=Path, metavar="ANNOTATIONS", help="folder of XML files")
    add_common_arguments(parser)
    ids_help = "XML stems to convert, one a line; VOC's class lists do too"
    parser.add_argument("--ids", type=Path, metavar="LIST.txt", help=ids_help)
    encoding_help = "encoding of the XML files (default: as each declares, else UTF-8)"
    parser.add_argument("--encoding", type=encoding_argument, metavar="NAME", help=encoding_help)
    pixel_help = "index of the leftmost pixel in the XML (default: 1, as in VOC and BCCD)"
    parser.add_argument("--first-pixel", type=int, choices=(0, 1), default=1, help=pixel_help)


def convert(options: argparse.Namespace) -> list[Conversion]:
    """Return the COCO data, and the report on it."""
    files = read_voc_folder(options.source, options.encoding)
    chosen = read_ids(options.ids, files) if options.ids else list(files)
    categories, first_pixel = read_categories(options.categories, files), options.first_pixel
    info = {"description": "converted from Pascal VOC", "first_pixel": first_pixel}
    _require_pixels([files[stem] for stem in chosen])
    builder, images = CocoBuilder(info, options.images, categories), ImageFolder(options.images)
    flagged = Counter[str]()
    for file in (files[stem] for stem in chosen):
        name = images.find(file)
        builder.add_image(name, str(file.path), "leave one of them out", file.size or ())
        for number, item in enumerate(file.objects, 1):
            edges, source = box_edges(item.corners, first_pixel), f"{file.path.name}, object {number}, {item.name}"
            before = len(builder.coco["annotations"])
            builder.add_box(edges, categories[item.name], source, item.corners, iscrowd=int("difficult" in item.flags))
            if len(builder.coco["annotations"]) > before:
                flagged.update(item.flags)
    clipped = f"{builder.clipped} (if many, try --first-pixel {1 - first_pixel})" if builder.clipped else 0
    counts = {
        "difficult boxes, written as iscrowd 1": flagged["difficult"],
        "truncated boxes, taken as any other": flagged["truncated"],
        "occluded boxes, taken as any other": flagged["occluded"],
        "boxes clipped to their image": clipped,
    }
    lists = {
        "boxes without size, left out": builder.without_size,
        "images of another size than in their annotation, boxes as written": builder.other_sizes,
    }
    report = conversion_report(builder.coco, counts, lists)
    return [Conversion(options.out, builder.coco, report, options.images)]
