"""Layout of a YOLO data set: its splits with their images and label files, and the names of its classes.

`data.yaml` names the splits (a folder, a list file, or several of both) and the classes; without one, folders of the
usual names are taken, else darknet's lists `train.txt` and `valid.txt`, and classes are in `classes.txt`.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from detection.data.image_paths import IMAGE_SUFFIXES
from detection.data.importing.text import read_lines
from detection.errors import UserError

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Names of each split's folder or key."""

NO_LABELS = frozenset({"classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt"})
"""Text files of data sets that are no label files, in lower case."""

TEXTS = "*.[tT][xX][tT]"
"""Pattern of label files."""

_CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels")
_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_UNREAD = frozenset({".avif", ".dng", ".heic", ".heif", ".jfif", ".jp2", ".mpo", ".pfm"})


@dataclass(frozen=True)
class YoloSplit:
    """The images of one split, the folder that their names are relative to, and where it is named, for messages."""

    name: str
    folder: Path
    images: list[Path]
    line: str = ""


@dataclass
class YoloSet:
    """A YOLO data set.

    Attributes:
        root: folder of everything.
        source: the file that names the classes, for messages.
        names: of the classes by their number; None where no file has them.
        splits: its splits, of the name `all` where it has none.
        has_keypoints: whether lines have keypoints after the box.
        remarks: what a person should know about how it was read.
    """

    root: Path
    source: Path
    names: dict[int, str] | None
    splits: list[YoloSplit]
    has_keypoints: bool = False
    remarks: list[str] = field(default_factory=list)


def find_yaml(folder: Path) -> Path | None:
    """Return the file that describes a folder's data set; None where there is none.

    Raises:
        UserError: several could be it.
    """
    for name in _YAML_NAMES:
        if (folder / name).is_file():
            return folder / name
    found = [path for path in sorted(folder.iterdir()) if path.suffix in (".yaml", ".yml") and _is_data(path)]
    if len(found) > 1:
        raise UserError(
            f"{folder} has {len(found)} data sets ({', '.join(p.name for p in found)}); give one of the files"
        )
    return found[0] if found else None


def _is_data(path: Path) -> bool:
    try:
        return path.is_file() and "names" in read_yaml(path)
    except UserError:
        return False


def is_yolo(folder: Path) -> bool:
    """Return whether a folder holds a YOLO data set: its YAML file, or folders of label files, or a list of classes."""
    if any(path.suffix in (".yaml", ".yml") and _is_data(path) for path in folder.iterdir()):
        return True
    labels = [folder / "labels", *(folder / name / "labels" for names in SPLITS.values() for name in names)]
    if any(next(path.rglob(TEXTS), None) for path in labels):
        return True
    return any((folder / name).is_file() for name in _CLASS_FILES)


def open_yolo(source: Path) -> YoloSet:
    """Find the splits and classes of a data set.

    Args:
        source: its folder, or its YAML file.

    Raises:
        UserError: neither, or what it names is not there.
    """
    if source.is_dir():
        yaml_file = find_yaml(source)
        return _from_yaml(yaml_file) if yaml_file else _from_folder(source)
    if not source.is_file():
        raise UserError(f"{source}: no such folder or data.yaml; check the path")
    return _from_yaml(source)


def read_yaml(path: Path) -> dict:
    """Return a YAML file's dictionary, all scalars as the texts that are written: a class may be called `no` or 1."""
    import yaml

    text = "\n".join(read_lines(path, "a data.yaml"))
    try:
        found = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        reason = getattr(error, "problem", None) or error
        raise UserError(f"{path}{line}: no valid YAML ({reason}); correct it") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is no data.yaml: it needs keys such as train, val and names")
    return found


def _from_yaml(path: Path) -> YoloSet:
    spec = read_yaml(path)
    names = class_names(spec, path)
    remarks: list[str] = []
    found = YoloSet(_root(spec.get("path"), path, remarks), path, names, [], bool(spec.get("kpt_shape")), remarks)
    if names is None:
        found.source, found.names = _class_file(found.root) or (path, None)
    for split, keys in SPLITS.items():
        given = [(key, spec[key]) for key in keys if spec.get(key)]
        if len(given) > 1:
            raise UserError(f"{path} has both {given[0][0]} and {given[1][0]}; leave one of them")
        for key, value in given:
            entries = value if isinstance(value, list) else [value]
            paths = [_entry(str(entry), key, found, path) for entry in entries]
            if all(paths):
                add_split(split, [p for p in paths if p is not None], found, f"`{key}:` of {path}")
    if not found.splits:
        raise UserError(f"{path} names no images: it needs train and val, each a folder or a list of image files")
    return found


def _root(given: object, path: Path, remarks: list[str]) -> Path:
    folder = path.resolve().parent
    if not given:
        return folder
    written = Path(str(given).replace("\\", "/")).expanduser()
    # Relative to the file, to the folder of all data sets that it is in, or to where the command runs.
    for base in (folder, folder.parent, Path.cwd()):
        if (base / written).is_dir():
            return (base / written).resolve()
    remarks.append(f"path: {given} is not there; the folder of {path.name} is taken")
    return folder


def class_names(spec: dict, path: Path) -> dict[int, str] | None:
    """Return the names of the classes of a data.yaml by their number; None where it has none."""
    names, count = spec.get("names"), str(spec.get("nc") or "")
    if not names:
        return None
    numbered = _numbered(names, path)
    if count.isdigit() and int(count) != len(numbered):
        raise UserError(f"{path}: nc is {count}, but names lists {len(numbered)} classes; correct one of them")
    return numbered


def _numbered(names: object, path: Path) -> dict[int, str]:
    form = "names must be a list of class names, or class numbers with their names"
    if isinstance(names, list):
        numbered = dict(enumerate(names))
    elif isinstance(names, dict) and all(str(key).isdigit() for key in names):
        numbered = {int(key): name for key, name in sorted(names.items(), key=lambda item: int(item[0]))}
    else:
        raise UserError(f"{path}: {form}; it is {names!r:.60}")
    for key, name in numbered.items():
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}: class {key} of names is {name!r:.40}, not a name; {form}")
    return _unique(numbered, path)


def _unique(numbered: dict[int, str], path: Path) -> dict[int, str]:
    numbered = {key: name.strip() for key, name in numbered.items()}
    seen: dict[str, int] = {}
    for key, name in numbered.items():
        if name in seen:
            raise UserError(f"{path}: classes {seen[name]} and {key} are both called {name!r}; rename one of them")
        seen[name] = key
    return numbered


def class_list(path: Path) -> dict[int, str]:
    """Return the class names of a file with one a line, by their number."""
    lines = [line.strip() for line in read_lines(path, "a list of class names")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines or not all(lines):
        raise UserError(f"{path}: line {lines.index('') + 1 if lines else 1} is empty, but must name a class")
    return _unique(dict(enumerate(lines)), path)


def _class_file(folder: Path) -> tuple[Path, dict[int, str]] | None:
    found = [path for name in _CLASS_FILES for path in sorted(folder.rglob(name)) if path.is_file()]
    lists = {path: class_list(path) for path in found}
    for path in found[1:]:
        if lists[path] != lists[found[0]]:
            raise UserError(f"{found[0]} and {path} name other classes; leave one of them")
    return (found[0], lists[found[0]]) if found else None


def _entry(entry: str, key: str, found: YoloSet, source: Path) -> Path | None:
    """Return what an entry of a split is the path of; None, with a remark, for a test split that is not there."""
    written = entry.replace("\\", "/")
    # Roboflow writes ../train/images next to train/.
    names = [written, *([written[3:]] if written.startswith("../") else [])]
    for path in (base / name for name in names for base in (found.root, source.resolve().parent)):
        if path.exists():
            return Path(os.path.normpath(path))
    if moved := _moved(written, found.root):
        found.remarks.append(f"{key}: {entry} is not there; {moved} is taken")
        return moved
    if key in SPLITS["test"]:
        found.remarks.append(f"{key}: {entry} is not there; no test split")
        return None
    raise UserError(
        f"{source}: {key} is {entry}, but {found.root / written} is not there; correct the path or remove it"
    )


def _moved(written: str, root: Path) -> Path | None:
    """Return the longest end of a path, of two parts or more, that is in the folder: it was made on another machine."""
    parts = [part for part in written.split("/") if part not in ("", ".", "..")]
    ends = (root.joinpath(*parts[start:]) for start in range(1, len(parts) - 1))
    return next((path for path in ends if path.exists()), None)


def add_split(name: str, paths: list[Path], found: YoloSet, line: str = "") -> None:
    """Add a split of these folders and lists of images, which a line of a file names.

    Raises:
        UserError: there is no image, or a list names one that is not there.
    """
    images: dict[Path, None] = {}
    for path in paths:
        images |= dict.fromkeys(_listed(path, found.root) if path.is_file() else _images_in(path, found.remarks))
    if not images:
        raise UserError(f"{', '.join(map(str, paths))}: no image there for the split {name}; check {found.source}")
    folders = {str(image.parent) for image in images}
    only = paths[0] if len(paths) == 1 and paths[0].is_dir() else Path(os.path.commonpath(folders))
    found.splits.append(YoloSplit(name, only, list(images), line))


def label_paths(image: Path) -> list[Path]:
    """Return where an image's label file may be: the last folder `images` of its path is `labels`, or next to it."""
    parts, own = image.parts, image.with_suffix(".txt")
    rows = [row for row, part in enumerate(parts[:-1]) if part.lower() == "images"]
    if not rows:
        return [own]
    names = ("Labels", "labels") if parts[rows[-1]] == "Images" else ("labels",)
    swapped = [Path(*parts[: rows[-1]], name, *parts[rows[-1] + 1 :]).with_suffix(".txt") for name in names]
    return [*swapped, own]


def _images_in(folder: Path, remarks: list[str]) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.suffix and not path.name.startswith("._"))
    unread = [path for path in files if path.suffix.lower() in _UNREAD]
    if unread:
        kinds = ", ".join(sorted({path.suffix for path in unread}))
        remarks.append(f"{len(unread)} images of {folder} are not read ({kinds}): convert them to PNG or JPEG")
    return [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]


def _listed(listing: Path, root: Path) -> list[Path]:
    images = []
    for number, line in enumerate(read_lines(listing, "a list of images"), 1):
        if not (written := line.strip().replace("\\", "/")):
            continue
        bases = (listing.parent, root) if written.startswith("./") else (root, listing.parent)
        candidates = [Path(os.path.normpath(base / written)) for base in bases]
        image = next((path for path in candidates if path.is_file()), None) or _moved(written, root)
        if image is None:
            raise UserError(f"{listing}, line {number}: there is no image {written}; correct or remove the line")
        images.append(image)
    return images


def _from_folder(folder: Path) -> YoloSet:
    classes = _class_file(folder)
    found = YoloSet(folder.resolve(), *(classes or (folder, None)), splits=[])
    for split, names in SPLITS.items():
        for path in (p for name in names for p in (folder / "images" / name, folder / name)):
            if path.is_dir() and not any(known.name == split for known in found.splits):
                add_split(split, [path.resolve()], found)
    if not found.splits:
        _add_lists(found)
    if not found.splits:
        path = folder / "images" if (folder / "images").is_dir() else folder
        add_split("all", [path.resolve()], found)
    return found


def _add_lists(found: YoloSet) -> None:
    """Add the splits of lists of images at the top of a data set, such as darknet's `train.txt` and `valid.txt`."""
    used: list[str] = []
    for split, names in SPLITS.items():
        lists = [path for name in names if _is_list(path := found.root / f"{name}.txt")]
        if lists:
            add_split(split, lists, found)
            used += [path.name for path in lists]
    listed = {image for split in found.splits for image in split.images}
    if listed and (left := len(set(_images_in(found.root, found.remarks)) - listed)):
        found.remarks.append(f"{left} images of {found.root} are in none of {', '.join(used)}, and are left out")


def _is_list(path: Path) -> bool:
    """Whether the first line of a file with text is the path of an image."""
    if not path.is_file():
        return False
    first = next((line.strip() for line in read_lines(path, "a list of images") if line.strip()), "")
    return Path(first).suffix.lower() in IMAGE_SUFFIXES
