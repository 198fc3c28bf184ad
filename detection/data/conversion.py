"""A COCO file made from annotations of another format, and the report on it: what all converters share."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detection.data.images import image_size
from detection.data.json_files import read_json
from detection.errors import UserError
from detection.names import short_line, short_names


class CocoBuilder:
    """The COCO data of a conversion, made image by image.

    Args:
        info: of the file.
        folder: of the images.
        categories: id of each name.
        decimals: to which widths, heights and areas are rounded; None leaves them as they are.

    Attributes:
        coco: the data so far.
        clipped: number of boxes that left their image.
        without_size: a line for each box that was left out.
    """

    def __init__(
        self, info: dict[str, object], folder: Path, categories: Mapping[str, int], decimals: int | None = None
    ) -> None:
        entries = [{"id": id_, "name": name} for name, id_ in sorted(categories.items(), key=lambda item: item[1])]
        self.coco: dict[str, Any] = {"info": info, "images": [], "annotations": [], "categories": entries}
        self.folder, self.decimals = folder, decimals
        self.clipped = 0
        self.without_size: list[str] = []
        self._sources: dict[str, str] = {}

    def add_image(self, name: str, source: str, remedy: str) -> tuple[int, int]:
        """Add an image that the annotation `source` names, and return its (width, height).

        Raises:
            UserError: it is not readable, or another annotation names it too, with the remedy for that.
        """
        if name in self._sources:
            raise UserError(f"{source} and {self._sources[name]} both name {name}; {remedy}")
        self._sources[name] = source
        width, height = image_size(self.folder / name)
        images = self.coco["images"]
        images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
        return width, height

    def add_box(
        self, edges: Sequence[float], category: int, source: str, written: Sequence[float], **more: float
    ) -> None:
        """Add a box of the last image, clipped to it; one without size is noted and left out.

        Args:
            edges: x0, y0, x1, y1 in pixels from the image's edge.
            category: its id.
            source: the annotation's place, for the note.
            written: the corners as the annotation has them, for the note.
            **more: further keys, such as `iscrowd`, which is 0 without.
        """
        image, annotations = self.coco["images"][-1], self.coco["annotations"]
        limits = (image["width"], image["height"]) * 2
        inside = [min(max(edge, 0), limit) for edge, limit in zip(edges, limits, strict=True)]
        width, height = self._rounded(inside[2] - inside[0]), self._rounded(inside[3] - inside[1])
        if width <= 0 or height <= 0:
            self.without_size.append(f"{source} ({', '.join(f'{corner:g}' for corner in written)})")
            return
        self.clipped += inside != list(edges)
        place = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": category}
        box = {"bbox": [*inside[:2], width, height], "area": self._rounded(width * height), "iscrowd": 0}
        annotations.append(place | box | more)

    def _rounded(self, value: float) -> float:
        return value if self.decimals is None else round(value, self.decimals)


def given_categories(given: str) -> dict[str, int]:
    """Return the id of each class name of a COCO JSON file, or of names with commas between, which count from 1.

    Raises:
        UserError: it is neither, or names or ids repeat.
    """
    if given.endswith(".json"):
        try:
            entries = read_json(Path(given))["categories"]
            categories = {entry["name"]: int(entry["id"]) for entry in entries}
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(
                f"{given} is no COCO file with categories ({error!r}); give another --categories"
            ) from error
    else:
        entries = [name.strip() for name in given.split(",")]
        categories = {name: index for index, name in enumerate(entries, 1)}
    if len(set(categories.values())) < len(entries) or "" in categories:
        raise UserError(f"--categories {given}: every class needs its own name and id; correct the list")
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
            lines += [f"  {title}: {len(items)}", *(f"    {short_line(item)}" for item in items)]
    return "\n".join(lines)
