"""Convert a YOLO data set to COCO JSON, a file for each split.

    detection convert --from yolo DATA                        to DATA/annotations/train.json, val.json, test.json
    detection convert --from yolo DATA OUT_FOLDER
    detection convert --from yolo LABELS IMAGES OUT.json --categories classes.txt

DATA is a folder, or its data.yaml. After the first form, `detection train finetune data=DATA` finds everything.

- Classes are those of data.yaml (or of classes.txt, or --categories), in their order, numbered from 1.
- An image without a label file, or with an empty one, is a negative; both are counted. A label file is where the last
  folder `images` of the image's path is `labels`, or next to the image. A test split without any is not converted.
- A line of 5 values is a box. One with 8 coordinates is a rotated box or an outline of four points, one with others an
  outline: the upright box around it is the box, and the outline its polygon. Of a box with keypoints (`kpt_shape` in
  data.yaml, or `--points keypoints`) these are left out and counted. Lines that look so without either are an error.
- Shares of an image are those of the image as it is shown, with its EXIF orientation applied, as training reads it.
  What reaches a little outside is clipped; a value below -0.5 or above 1.5 is no share of an image, and an error.
"""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from detection.data.checks import shortened
from detection.data.conversion import CocoBuilder, Conversion, conversion_report, given_categories, named_categories
from detection.data.importing.text import finite_number, read_lines
from detection.data.importing.yolo_layout import (
    NO_LABELS,
    TEXTS,
    YoloSet,
    YoloSplit,
    add_split,
    class_list,
    class_names,
    find_yaml,
    label_paths,
    open_yolo,
    read_yaml,
)
from detection.errors import UserError
from detection.names import short_line

_SLACK = 0.01
"""Pixels by which shares rounded to six digits leave an image."""
_DESCRIPTION = "converted from YOLO"
_FOUR = "rotated boxes, or outlines of four points, as the upright boxes around them"
_OUTLINE = "outlines, as the upright boxes around them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this format."""
    places = "DATA, DATA OUT_FOLDER, or LABELS IMAGES OUT.json"
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help=places)
    points = "what lines of more than 5 values are: outlines, or a box with keypoints or with its outline"
    parser.add_argument("--points", choices=("outlines", "keypoints"), help=points)


def convert(options: argparse.Namespace) -> list[Conversion]:
    """Return the COCO data of every split, and the reports on them."""
    paths: list[Path] = options.paths
    if len(paths) > 3:
        raise UserError(f"--from yolo takes at most LABELS IMAGES OUT.json, but there are {len(paths)} paths")
    labels = paths[0] if len(paths) == 3 else None
    found = _pair(*paths[:2]) if labels else open_yolo(paths[0])
    if options.points is not None:
        found.has_keypoints = options.points == "keypoints"
    classes = _classes(found, options.categories)
    all_readers = [_Reader(found, split, classes, labels, options.points is None) for split in found.splits]
    readers = [reader for reader in all_readers if not reader.is_unlabeled_test()]
    found.splits = [reader.split for reader in readers]
    outs = [paths[2]] if labels else _outs(found, paths)
    made = [
        Conversion(out, *reader.read(), _shown(reader.split.folder, paths[0]))
        for out, reader in zip(outs, readers, strict=True)
    ]
    remarks = found.remarks + ["test: no image has a label file, not converted"] * (len(all_readers) - len(readers))
    remarks += _unused(all_readers)
    if remarks:
        report = "\n".join([made[-1].report, *(f"  {short_line(remark)}" for remark in remarks)])
        made[-1] = replace(made[-1], report=report)
    return made


def _outs(found: YoloSet, paths: list[Path]) -> list[Path]:
    folder = paths[1] if len(paths) == 2 else _shown(found.root, paths[0]) / "annotations"
    if folder.suffix == ".json" or folder.is_file():
        raise UserError(f"{folder}: every split becomes a file; give a folder as OUT_FOLDER")
    outs = [folder / f"{split.name}.json" for split in found.splits]
    for out in outs if len(paths) == 1 else []:
        if out.is_file() and _DESCRIPTION.encode() not in out.read_bytes()[:200]:
            raise UserError(f"{out} is there already, not converted from YOLO; give another folder as OUT_FOLDER")
    return outs


def _shown(path: Path, given: Path) -> Path:
    """Return a path the way the data set was given: relative to the working folder, if it was."""
    return path if given.is_absolute() or not path.is_relative_to(Path.cwd()) else path.relative_to(Path.cwd())


def _pair(labels: Path, images: Path) -> YoloSet:
    """Return the set of a folder of labels and one of images, with the classes of a file near them."""
    for folder, what, name in ((labels, "label files", "LABELS"), (images, "images", "IMAGES")):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give the folder of {what} as {name}")
    found = YoloSet(images, labels, None, [])
    add_split("all", [images], found)
    for folder in (labels, labels.parent, images.parent):
        if (path := folder / "classes.txt").is_file():
            found.source, found.names = path, class_list(path)
            break
        if path := find_yaml(folder):
            spec = read_yaml(path)
            found.source, found.names, found.has_keypoints = path, class_names(spec, path), bool(spec.get("kpt_shape"))
            break
    return found


def _classes(found: YoloSet, given: str | None) -> tuple[dict[str, int], dict[int, int]]:
    """Return the id of each category, and that of each class number."""
    if found.names is None:
        if given is None:
            raise UserError(
                f"{found.source}: no class names, neither in a data.yaml nor in classes.txt; add them in the order of "
                "their numbers: --categories NAME,NAME"
            )
        categories = given_categories(given)
        return categories, dict(enumerate(sorted(categories.values())))
    categories = named_categories(given, dict.fromkeys(found.names.values(), str(found.source)))
    return categories, {class_: categories[name] for class_, name in found.names.items()}


class _Reader:
    """Reads the label files of one split.

    Args:
        found: the data set.
        split: the split.
        classes: from `_classes`.
        labels: folder of label files, where they are not found by the images' paths.
        judge: refuse outlines that look like boxes with keypoints.

    Attributes:
        used: label files that were read.
        folders: where label files were searched.
    """

    def __init__(
        self,
        found: YoloSet,
        split: YoloSplit,
        classes: tuple[dict[str, int], dict[int, int]],
        labels: Path | None,
        judge: bool,
    ) -> None:
        self.found, self.split, self.labels, self.judge = found, split, labels, judge
        self.categories, self.ids = classes
        info: dict[str, object] = {"description": _DESCRIPTION}
        self.builder = CocoBuilder(info, split.folder, self.categories, decimals=6, slack=_SLACK)
        self.counts: Counter[str] = Counter()
        self.used: set[Path] = set()
        self.folders: set[Path] = set()
        self._outlines, self._posed = 0, list[str]()  # lines with an outline, and those that look like a pose
        self._other_case: dict[Path, dict[str, Path]] = {}

    def is_unlabeled_test(self) -> bool:
        """Return whether this is the test split, next to others, and no image has a label file."""
        is_test = self.split.name == "test" and len(self.found.splits) > 1
        return is_test and not any(self._label(image) for image in self.split.images)

    def read(self) -> tuple[dict, str]:
        """Return the COCO data, and the report on it."""
        for image in self.split.images:
            size = self.builder.add_image(
                image.relative_to(self.split.folder).as_posix(), str(image), "leave one of them out"
            )
            label = self._label(image)
            if label is None:
                self.counts["images without a label file, negatives"] += 1
                continue
            self.counts["label files of two images"] += label in self.used
            self.used.add(label)
            lines = [(n, line) for n, line in enumerate(read_lines(label, "a label file"), 1) if line.strip()]
            self.counts["images with an empty label file, negatives"] += not lines
            for line_number, line in lines:
                self._add(line.split(), f"{label}, line {line_number}", size)
        if self.judge and len(self._posed) >= 3 and 4 * len(self._posed) > self._outlines:
            raise UserError(
                f"{self._posed[0]}: {len(self._posed)} of {self._outlines} lines of more than 5 values look like a box "
                "with its keypoints or its outline behind it: --points keypoints reads the boxes, --points outlines "
                "takes all values for outlines"
            )
        if not self.used:
            places = ", ".join(map(str, sorted(self.folders)[:3]))
            line = f", or remove the line {self.split.line}" if self.split.line and len(self.found.splits) > 1 else ""
            raise UserError(
                f"{self.split.folder}: none of the {len(self.split.images)} images has a label file in {places}; give "
                f"LABELS IMAGES OUT.json{line}"
            )
        clipped = self.builder.clipped
        hint = f"{clipped} (if many, lines may not be center x, center y, width, height)"
        counts: dict[str, object] = {**self.counts, "boxes clipped to their image": hint if clipped else 0}
        left_out = {"boxes without size, left out": self.builder.without_size}
        return self.builder.coco, conversion_report(self.builder.coco, counts, left_out)

    def _label(self, image: Path) -> Path | None:
        if self.labels is not None:
            candidates = [(self.labels / image.relative_to(self.split.folder)).with_suffix(".txt")]
        else:
            candidates = label_paths(image)
        self.folders |= {path.parent for path in candidates}
        found = next((path for path in candidates if path.is_file()), None)
        return found or next((path for path in map(self._in_other_case, candidates) if path), None)

    def _in_other_case(self, path: Path) -> Path | None:
        """Return the file of a label file's name whose suffix is in another case, such as `.TXT`."""
        if path.parent not in self._other_case:
            self._other_case[path.parent] = {text.stem: text for text in sorted(path.parent.glob(TEXTS))}
        return self._other_case[path.parent].get(path.stem)

    def _add(self, words: list[str], where: str, size: tuple[int, int]) -> None:
        class_ = finite_number(words[0], where)
        if class_ not in self.ids:
            numbers = ", ".join(map(str, list(self.ids)[:10])) + (", …" if len(self.ids) > 10 else "")
            raise UserError(
                f"{where}: class {words[0]}, but {self.found.source} has the classes {numbers}; correct the line or "
                "add the class"
            )
        values = [finite_number(word, where) for word in words[1:]]
        if self.found.has_keypoints and len(values) > 4:
            self.counts["keypoints of boxes, left out"] += 1
            values = values[:4]
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            hint = "; a sixth is a confidence, which only detections have" if len(values) == 5 else ""
            raise UserError(
                f"{where}: {len(words)} values, but a box has 5 and an outline an odd number from 7 on{hint}; correct "
                "or remove the line"
            )
        if bad := [value for value in values if not -0.5 <= value <= 1.5]:
            raise UserError(
                f"{where}: {bad[0]:g} is no share of the image's width or height, which are 0 … 1; divide pixels by "
                "the image's size, or correct the line"
            )
        category, (width, height) = self.ids[int(class_)], size
        if len(values) == 4:
            x, y, w, h = values
            edges = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            self.builder.add_box([round(edge, 6) for edge in edges], category, where, values)
            return
        self._outlines += 1
        if looks_like_pose(values):
            self._posed.append(where)
        self.counts[_FOUR if len(values) == 8 else _OUTLINE] += 1
        points = zip(values[::2], values[1::2], strict=True)
        outline = [(round(x * width, 6), round(y * height, 6)) for x, y in points]
        self.builder.add_outlines([outline], category, where)


def looks_like_pose(values: list[float]) -> bool:
    """Return whether an even number of shares is rather a box (center and sides) and points in it than an outline.

    Of most outlines the second corner is no farther from the others than those are from one another. A box's sides, in
    its place, are anywhere; where they are by chance there, too, points that touch all sides of the box decide.
    """
    x, y, width, height = values[:4]
    points = np.array(values[4:]).reshape(-1, 2)  # (K, 2)
    points = points[(points != 0).any(axis=1)]  # a keypoint that is not labeled is 0 0
    center, sides = np.array([x, y]), np.array([width, height])
    if not len(points) or (sides <= 0).any() or (np.abs(points - center) > sides / 2 + 0.01).any():
        return False
    low, high = points.min(0), points.max(0)
    touches = np.abs([center - sides / 2 - low, center + sides / 2 - high]).max() <= 0.05 * sides.min()
    low, high = np.minimum(low, center), np.maximum(high, center)
    away = np.maximum(low - sides, sides - high).max()  # of the second corner from the others, 0 or less within
    return bool(touches or away > (high - low).max())


def _unused(readers: list[_Reader]) -> list[str]:
    """Return a remark on label files that belong to no image."""
    used = {path for reader in readers for path in reader.used}
    folders = {folder for reader in readers for folder in reader.folders if folder.is_dir()}
    texts = {path for folder in folders for path in folder.glob(TEXTS)} - used
    # Where case does not matter, a.TXT was read as a.txt.
    texts -= {path for path in texts if (lower := path.with_suffix(".txt")) in used and lower.samefile(path)}
    left = sorted(str(path) for path in texts if path.name.lower() not in NO_LABELS)
    return [f"text files that belong to no image, not read: {len(left)} ({shortened(left, 3)})"] if left else []
