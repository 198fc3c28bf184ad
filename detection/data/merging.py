"""COCO files joined to one: categories by name, all ids from 1, images under one folder."""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detection.data.category_repair import listed_categories
from detection.data.checks import BOX_KINDS, examine, read_annotations, shortened
from detection.data.federated import KEYS
from detection.data.image_paths import missing_and_escaping
from detection.data.placeholders import placeholder_rows
from detection.errors import UserError

_MERGED = ("images", "annotations", "categories", "licenses", "info")


@dataclass
class Merger:
    """The joined data, file by file.

    Attributes:
        root: the folder that all file names become relative to.
        ignore_case: make one class of names that differ only in case or in spaces around them.
        coco: the data so far.
        counts: what was joined or left out, by what a report calls it.
        remarks: what a person should decide or know.
    """

    root: Path
    ignore_case: bool = False
    coco: dict[str, Any] = field(default_factory=lambda: {"images": [], "annotations": [], "categories": []})
    counts: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._images: dict[str, int] = {}
        self._categories: dict[str, dict] = {}
        self._sources: dict[int, Path] = {}
        self._boxes: set[tuple] = set()
        self._exhaustive: dict[int, set[int]] = {}
        self._classes: dict[Path, set[int]] = {}  # of each file, whether it has boxes of them or not
        self._infos: list[dict] = []

    def add(self, path: Path, folder: Path) -> None:
        """Add a file and the folder of its images.

        Raises:
            UserError: ids or references are wrong, or images are not there.
        """
        data = read_annotations(path)
        _, problems = examine(data, path)
        if others := [problem for problem in problems if problem.kind not in BOX_KINDS]:
            raise UserError(others[0].sentence)
        names = [image["file_name"] for image in data["images"]]
        if wrong := sorted({*missing_and_escaping(folder, names)[0]}):
            raise UserError(
                f"{path}: {len(wrong)} of {len(names)} images are not in {folder}, first {names[wrong[0]]!r:.200}; "
                "give the folder that its names are relative to."
            )
        self._infos.append({"file": path.name, "info": data.get("info")})
        licenses = self._add_licenses(data.get("licenses"))
        categories = self._add_categories(data, path)
        self._classes.setdefault(path, set()).update(categories.values())
        entries = [{**image, **listed_categories(image, categories)} for image in data["images"]]
        images = self._add_images(entries, folder, licenses, path)
        if not any(key in image for image in data["images"] for key in KEYS):
            for image in images.values():
                self._exhaustive.setdefault(image, set()).update(categories.values())
        old = self._boxes.copy()
        for item in data["annotations"]:
            self._add_annotation(item, images[item["image_id"]], categories[item["category_id"]], old)
        if lost := [key for key in data if key not in _MERGED]:
            self.remarks.append(f"{path}: its {shortened(lost)} are not joined")

    def result(self) -> dict[str, Any]:
        """Return the data, once all files are added."""
        self._report_spelling()
        self._report_absent()
        self._list_absent()
        first = next((known["info"] for known in self._infos if isinstance(known["info"], dict)), {})
        description = f"joined from {', '.join(known['file'] for known in self._infos)}"
        return {"info": {**first, "description": description, "joined": self._infos}, **self.coco}

    def _key(self, name: str) -> str:
        return name.strip().casefold() if self.ignore_case else name

    def _add_categories(self, data: dict, path: Path) -> dict[int, int]:
        """Return the new id of each category; a placeholder without boxes gets none."""
        ids: dict[int, int] = {}
        used = {item["category_id"] for item in data["annotations"]}
        entries: list[dict] = data["categories"]
        for row in placeholder_rows(entries):
            if entries[row]["id"] not in used:
                self.counts["placeholder categories of Roboflow, left out"] += 1
                entries = [entry for entry in entries if entry is not entries[row]]
        for entry in entries:
            known = self._categories.get(self._key(entry["name"]))
            if known is None:
                known = {**entry, "id": len(self._categories) + 1}
                self._categories[self._key(entry["name"])] = known
                self._sources[known["id"]] = path
                self.coco["categories"].append(known)
            elif (own := entry.get("supercategory")) != (other := known.get("supercategory")) and own is not None:
                source = self._sources[known["id"]]
                self.remarks.append(
                    f"category {known['name']!r} has supercategory {other!r} in {source} and {own!r} in {path}: the "
                    "first is kept"
                )
            ids[entry["id"]] = known["id"]
        return ids

    def _list_absent(self) -> None:
        """In federated data, list what images of a file that annotates all of its classes do not show."""
        if not any(key in image for image in self.coco["images"] for key in KEYS):
            return
        shown = {(item["image_id"], item["category_id"]) for item in self.coco["annotations"]}
        for image in self.coco["images"]:
            classes = self._exhaustive.get(image["id"], ())
            absent = {category for category in classes if (image["id"], category) not in shown}
            if absent:
                image[KEYS[0]] = sorted(absent.union(image.get(KEYS[0], ())))
                self.counts[f"images that list the classes of their file without a box in {KEYS[0]}"] += 1

    def _report_absent(self) -> None:
        """Note the classes that a file does not know: their objects in its images, if any, have no box."""
        if any(key in image for image in self.coco["images"] for key in KEYS):
            return  # federated data say which classes each image is annotated with
        for path, known in self._classes.items():
            if absent := [entry["name"] for entry in self.coco["categories"] if entry["id"] not in known]:
                self.remarks.append(
                    f"{path} has no class {shortened(absent)}: such objects in its images, if any, are background now"
                )

    def _report_spelling(self) -> None:
        spellings: dict[str, list[str]] = defaultdict(list)
        for entry in self.coco["categories"]:
            spellings[entry["name"].strip().casefold()].append(f"{entry['name']!r} in {self._sources[entry['id']]}")
        for alike in spellings.values():
            if len(alike) > 1:
                self.remarks.append(
                    f"{' and '.join(alike)} differ only in case or spaces and are {len(alike)} classes: --ignore-case "
                    "makes one of them"
                )

    def _add_licenses(self, entries: Any) -> dict[str, int]:
        """Return the new id of each license, by what its old one looks like; equal ones are one."""
        ids: dict[str, int] = {}
        for entry in entries if isinstance(entries, list) else []:
            own = {key: value for key, value in entry.items() if key != "id"} if isinstance(entry, dict) else None
            if own is None:
                continue
            known = self.coco.setdefault("licenses", [])
            same = next((license_ for license_ in known if {**license_, "id": 0} == {**own, "id": 0}), None)
            if same is None:
                known.append(same := {**own, "id": len(known) + 1})
            ids[repr(entry.get("id"))] = same["id"]
        return ids

    def _add_images(self, entries: list[dict], folder: Path, licenses: dict[str, int], path: Path) -> dict[int, int]:
        """Return the new id of each image; one file is one image."""
        ids: dict[int, int] = {}
        for entry in entries:
            name = os.path.relpath(folder.resolve() / entry["file_name"], self.root).replace(os.sep, "/")
            if name not in self._images:
                self._images[name] = len(self._images) + 1
                own = {key: value for key, value in entry.items() if key != "license"}
                if (license_ := repr(entry.get("license"))) in licenses:
                    own["license"] = licenses[license_]
                self.coco["images"].append({**own, "id": self._images[name], "file_name": name})
            else:
                self.counts["images that several files list, joined to one"] += 1
                known = self.coco["images"][self._images[name] - 1]
                if (known["width"], known["height"]) != (entry["width"], entry["height"]):
                    raise UserError(f"{path}: image {name} has another size than in an earlier file; correct one")
                for key in KEYS:
                    if isinstance(entry.get(key), list) and isinstance(known.get(key, []), list):
                        known[key] = list(dict.fromkeys([*known.get(key, []), *entry[key]]))
            ids[entry["id"]] = self._images[name]
        return ids

    def _add_annotation(self, item: dict, image: int, category: int, old: set[tuple]) -> None:
        box = (image, category, _box_key(item.get("bbox")), bool(item.get("iscrowd")))
        if box in old:
            self.counts["boxes that a file before has too, kept once"] += 1
            return
        self._boxes.add(box)
        annotations = self.coco["annotations"]
        annotations.append({**item, "id": len(annotations) + 1, "image_id": image, "category_id": category})


def _box_key(box: Any) -> tuple[float, ...] | str:
    """Return what is equal for equal boxes, of integers or not; one that is not finite numbers is its text."""
    try:
        numbers = tuple(map(float, box))
    except (TypeError, ValueError, OverflowError):
        return repr(box)
    return numbers if all(map(math.isfinite, numbers)) else repr(box)


def common_folder(folders: Sequence[Path]) -> Path:
    """Return the deepest folder that holds all folders.

    Raises:
        UserError: only the root of the file system does.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give a folder of images after each annotation file")
    try:
        common = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    except ValueError:  # drives of Windows
        common = Path(folders[0].resolve().anchor)
    if common == Path(common.anchor):
        listed = " and ".join(map(str, folders[:3]))
        raise UserError(f"{listed} have no folder in common; move or copy the images below one folder first")
    return common
