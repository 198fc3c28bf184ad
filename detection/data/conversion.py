"""A COCO file made from annotations of another format, and the report on it: what all converters share."""

import argparse
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.data.category_repair import without_placeholders
from detection.data.images import exchanges_sides, image_size
from detection.data.importing.text import read_lines
from detection.data.json_files import read_json
from detection.errors import UserError
from detection.names import short_line, short_names

_LISTED = 50
"""Most items of one list that a report prints."""

_LISTS = (".txt", ".names")

Point = tuple[float, float]


@dataclass(frozen=True)
class Conversion:
    """A file that a converter makes.

    Attributes:
        out: its path.
        data: what is written.
        report: what it holds, and everything that was left out or changed.
        images: the folder that its file names are relative to; None where it is no COCO file.
    """

    out: Path
    data: Any
    report: str
    images: Path | None = None


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of every format with one folder of images and one file to write."""
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of images")
    parser.add_argument("out", type=Path, metavar="OUT.json", help="file to write")


class CocoBuilder:
    """The COCO data of a conversion, made image by image.

    Args:
        info: of the file.
        folder: of the images.
        categories: id of each name.
        decimals: to which widths, heights and areas are rounded; None leaves them as they are.
        slack: pixels by which a box may leave its image, as rounded shares do, without being counted as clipped.

    Attributes:
        coco: the data so far.
        clipped: number of boxes that left their image.
        without_size: a line for each box that was left out.
        other_sizes: a line for each image whose size is not the one that its annotation has.
    """

    def __init__(
        self,
        info: dict[str, object],
        folder: Path,
        categories: Mapping[str, int],
        decimals: int | None = None,
        slack: float = 0.0,
    ) -> None:
        entries = [{"id": id_, "name": name} for name, id_ in sorted(categories.items(), key=lambda item: item[1])]
        self.coco: dict[str, Any] = {"info": info, "images": [], "annotations": [], "categories": entries}
        self.folder, self.decimals, self.slack = folder, decimals, slack
        self.clipped = 0
        self.without_size: list[str] = []
        self.other_sizes: list[str] = []
        self._clips = True
        self._sources: dict[str, str] = {}

    def add_image(self, name: str, source: str, remedy: str, written: Sequence[object] = ()) -> tuple[int, int]:
        """Add an image that the annotation `source` names, and return its (width, height).

        Where `written`, the width and height that the annotation has, is that of the image as it is stored, without its
        EXIF orientation, or of the same image at another scale, boxes are likely to be drawn on such an image. It is
        listed so then, with the boxes as they are: the doctor asks what they belong to, and converts them.

        Raises:
            UserError: it is not readable, or another annotation names it too, with the remedy for that.
        """
        if name in self._sources:
            raise UserError(f"{source} and {self._sources[name]} both name {name}; {remedy}")
        self._sources[name] = source
        size = listed = image_size(self.folder / name)
        given = tuple(written)
        if len(given) == 2 and all(type(side) is int and side > 0 for side in given) and given != size:
            if self._is_another_form(given, size, name):
                listed = given
            use = "the image's size is used" if listed == size else "listed as written, for the doctor to ask"
            self.other_sizes.append(f"{source} has {given}, {name} is {size}: {use}")
        self._clips = listed == size
        images = self.coco["images"]
        images.append({"id": len(images) + 1, "file_name": name, "width": listed[0], "height": listed[1]})
        return size

    def _is_another_form(self, written: tuple, size: tuple[int, int], name: str) -> bool:
        x, y = size[0] / written[0], size[1] / written[1]
        scaled = abs(x - 1) > 0.02 and abs(x / y - 1) < 0.02
        return scaled or (written == size[::-1] and exchanges_sides(self.folder / name))

    def add_box(
        self, edges: Sequence[float], category: int, source: str, written: Sequence[float], **more: object
    ) -> None:
        """Add a box of the last image, clipped to it if that has its own size; one without size is left out and noted.

        Args:
            edges: x0, y0, x1, y1 in pixels from the image's edge.
            category: its id.
            source: the annotation's place, for the note.
            written: the corners as the annotation has them, for the note.
            **more: further keys, such as `iscrowd`, which is 0 without.
        """
        image, annotations = self.coco["images"][-1], self.coco["annotations"]
        limits = self._limits() * 2
        inside = [min(max(edge, 0), limit) for edge, limit in zip(edges, limits, strict=True)]
        width, height = self._rounded(inside[2] - inside[0]), self._rounded(inside[3] - inside[1])
        if width <= 0 or height <= 0:
            self.without_size.append(f"{source} ({', '.join(f'{corner:g}' for corner in written)})")
            return
        moved = max(abs(edge - kept) for edge, kept in zip(edges, inside, strict=True))
        self.clipped += moved > self.slack
        place = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": category}
        box = {"bbox": [*inside[:2], width, height], "area": self._rounded(width * height), "iscrowd": 0}
        annotations.append(place | box | more)

    def add_outlines(self, outlines: Sequence[Sequence[Point]], category: int, source: str, **more: object) -> None:
        """Add the upright box around outlines of one object, which are kept as its polygons; the area is theirs."""
        xs, ys = zip(*(point for outline in outlines for point in outline), strict=True)
        edges = (min(xs), min(ys), max(xs), max(ys))
        width, height = self._limits()
        inside = [[(min(max(x, 0), width), min(max(y, 0), height)) for x, y in outline] for outline in outlines]
        # An outline along a line is the mask of nothing.
        solid = [outline for outline in inside if len(outline) > 2 and self._rounded(outline_area(outline)) > 0]
        if solid:
            polygons = [[round(value, 6) for point in outline for value in point] for outline in solid]
            more = {"segmentation": polygons, "area": self._rounded(sum(map(outline_area, solid)))} | more
        self.add_box(edges, category, source, edges, **more)

    def _limits(self) -> tuple[float, float]:
        """Return where boxes of the last image are cut, to the right and below."""
        image = self.coco["images"][-1]
        return (image["width"], image["height"]) if self._clips else (math.inf, math.inf)

    def _rounded(self, value: float) -> float:
        return value if self.decimals is None else round(value, self.decimals)


def outline_area(outline: Sequence[Point]) -> float:
    """Compute the area of a polygon from its corners in order, in square pixels (the shoelace formula)."""
    following = [*outline[1:], outline[0]]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(outline, following, strict=True))) / 2


def given_categories(given: str) -> dict[str, int]:
    """Return the id of each class name.

    Args:
        given: a COCO JSON file, whose placeholder is left out if nothing has it, or names with commas between or a
            text file with one a line, which count from 1.

    Raises:
        UserError: it is neither, or names or ids repeat.
    """
    if given.endswith(".json"):
        try:
            entries = without_placeholders(read_json(Path(given)))
            categories = {entry["name"]: int(entry["id"]) for entry in entries}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(
                f"{given} is no COCO file with categories ({error!r}); give another --categories"
            ) from error
    else:
        listed = read_lines(Path(given), "a list of class names") if Path(given).suffix in _LISTS else given.split(",")
        if Path(given).suffix in _LISTS:
            # LabelMe's lists begin with two names that are no classes.
            listed = [name for name in listed if name.strip() not in ("", "__ignore__", "_background_")]
        entries = [name.strip() for name in listed]
        categories = {name: index for index, name in enumerate(entries, 1)}
    if len(set(categories.values())) < len(entries) or "" in categories:
        raise UserError(f"--categories {given}: every class needs its own name and id; correct the list")
    return categories


def named_categories(given: str | None, uses: Mapping[str, str]) -> dict[str, int]:
    """Return the id of every class name: those of `given_categories`, or for None those in use, counted from 1.

    Args:
        given: what `--categories` was given.
        uses: names in their order, with the file that has it first.

    Raises:
        UserError: a name in use is not among those given.
    """
    if given is None:
        return {name: index for index, name in enumerate(uses, 1)}
    categories = given_categories(given)
    for name, source in uses.items():
        if name not in categories:
            raise UserError(f"{source}: class {name!r} is not among --categories {given}; add it there")
    return categories


def conversion_report(coco: dict, counts: Mapping[str, object], lists: Mapping[str, list[str]]) -> str:
    """Return the report: images, boxes by class, and everything that was left out or changed.

    Args:
        coco: the COCO side of the conversion.
        counts: what else to print by its title, if there is any of it.
        lists: the same, item by item.
    """
    per_category = Counter(item["category_id"] for item in coco["annotations"])
    names = short_names(str(category["name"]) for category in coco["categories"])
    classes = ", ".join(
        f"{name} {per_category[category['id']]}" for name, category in zip(names, coco["categories"], strict=True)
    )
    empty = len(coco["images"]) - len({item["image_id"] for item in coco["annotations"]})
    lines = [f"{len(coco['images'])} images, {len(coco['annotations'])} boxes ({classes})"]
    lines += [f"  {title}: {count}" for title, count in {"images without any box": empty, **counts}.items() if count]
    for title, items in lists.items():
        if items:
            lines += [f"  {title}: {len(items)}", *(f"    {short_line(item)}" for item in items[:_LISTED])]
            lines += [f"    … and {len(items) - _LISTED} more"] * (len(items) > _LISTED)
    return "\n".join(lines)
