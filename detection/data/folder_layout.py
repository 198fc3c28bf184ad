"""The annotation files and images of a data set's folder: `data=FOLDER`.

| found | as |
|---|---|
| `annotations/instances_train2017.json`, `train2017/` | COCO |
| `annotations/train.json` or `train.json`, `images/` or `train/` or `images/train/` … | many exporters |
| `train/_annotations.coco.json`, `valid/`, `test/` | Roboflow |

A split is named by a word of the file's name or of its folder's: `train`, `val` or `valid`, `test`. Images are where
the first file names of the annotations are.
"""

import json
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from detection.data.importing.yolo_layout import SPLITS, is_yolo
from detection.data.json_files import read_json, unreadable
from detection.errors import UserError

_HEAD_BYTES = 1 << 20
_CHECKED = 3
"""File names of a split whose images must be there."""
_DEPTH = 3
_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_OTHER_TASKS = ("captions", "person_keypoints", "panoptic", "stuff", "image_info")
_EXPECTED = (
    "annotations/instances_train2017.json with train2017/, annotations/train.json with images/, train.json, or "
    "train/_annotations.coco.json"
)


@dataclass(frozen=True)
class SplitFiles:
    """The annotation file of a split, and the folder of its images."""

    annotations: Path
    images: Path


def data_overrides(overrides: Iterable[str]) -> list[str]:
    """Replace `data=FOLDER` by the keys of the splits that are there.

    Raises:
        UserError: there is no such folder, no data set in it, or several; it lists what was expected and found.
    """
    expanded: list[str] = []
    for item in overrides:
        key, _, text = item.partition("=")
        if key == "data" and not text.lstrip().startswith("{"):
            expanded += _keys(Path(text).expanduser())
        else:
            expanded.append(item)
    return expanded


def _keys(folder: Path) -> list[str]:
    found = find_splits(folder)
    keys = ["data.scenes=none"]
    for split in SPLITS:
        files = found.get(split)
        for name in ("annotations", "images"):
            keys.append(f"data.{split}.{name}={'' if files is None else getattr(files, name)}")
    return keys


def find_splits(folder: Path) -> dict[str, SplitFiles]:
    """Return the splits of a data set's folder, with train and val at least.

    Raises:
        UserError: as `data_overrides`.
    """
    if folder.is_file():
        raise UserError(f"data={folder} is a file: give its data set's folder, or the file as data.train.annotations=.")
    if not folder.is_dir():
        raise UserError(f"data={folder}: no such folder; check the path.")
    files = _annotation_files(folder)
    found = _by_split(files, folder)
    if "train" not in found:
        raise _none_found(folder, files)
    if "val" not in found:
        train = found["train"].relative_to(folder)
        raise UserError(
            f"data={folder}: {train} is there, but no file for val; split it by `detection split "
            f"{shlex.quote(str(found['train']))} --fractions train=0.8 val=0.2`, or give data.train.annotations=, "
            "data.train.images=, data.val.annotations= and data.val.images="
        )
    return {split: SplitFiles(path, _images_of(path, split, folder)) for split, path in found.items()}


def _annotation_files(folder: Path) -> list[Path]:
    """Return the JSON files that may be COCO annotations: in the folder, annotations/, and the splits' folders."""
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    named = [path for path in below if path.name.lower() in ("annotations", "labels") or _split_of(path.name)]
    places = [folder, *named]
    places += [path / "annotations" for path in named if (path / "annotations").is_dir()]
    files = [path for place in places for path in sorted(place.glob("*.json")) if not path.name.startswith("._")]
    return [path for path in files if path.is_file() and not path.name.startswith(_OTHER_TASKS) and _is_coco(path)]


def _is_coco(path: Path) -> bool:
    """Return whether a file is an object with a list of COCO's, by its first megabyte."""
    head = _head(path)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] != b"{":
        return False
    return bool(re.search(rb'"(images|annotations)"\s*:\s*\[', head))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise unreadable(path, error) from None


def _split_of(name: str) -> str | None:
    """Return the split that a word of a name means; None for none, or several."""
    words = re.split(r"[^a-z]+", name.lower())
    splits = [split for split, names in SPLITS.items() if set(words) & set(names)]
    return splits[0] if len(splits) == 1 else None


def _by_split(files: list[Path], folder: Path) -> dict[str, Path]:
    found: dict[str, list[Path]] = {}
    for path in files:
        own = _split_of(path.stem)
        folders = [part for part in path.relative_to(folder).parts[:-1] if _split_of(part)]
        if split := own or (_split_of(folders[-1]) if folders else None):
            found.setdefault(split, []).append(path)
    chosen = {}
    for split, paths in found.items():
        # COCO has files of other tasks next to the one of the objects.
        instances = [path for path in paths if path.name.startswith("instances")]
        paths = instances if len(instances) == 1 else paths
        if len(paths) > 1:
            names = ", ".join(str(path.relative_to(folder)) for path in paths)
            raise UserError(
                f"data={folder}: {len(paths)} files may be the annotations for {split} ({names}); give one as "
                f"data.{split}.annotations= with data.{split}.images=, or move the others away."
            )
        chosen[split] = paths[0]
    return {split: chosen[split] for split in SPLITS if split in chosen}


def _none_found(folder: Path, files: list[Path]) -> UserError:
    quoted = shlex.quote(str(folder))
    if not files and is_yolo(folder):
        return UserError(
            f"data={folder} is a YOLO data set, and training reads COCO JSON: run `detection convert --from yolo "
            f"{quoted}`, and data={folder} finds what it writes."
        )
    if len(files) == 1:
        return UserError(
            f"data={folder}: {files[0].relative_to(folder)} names no split; split it by `detection split "
            f"{shlex.quote(str(files[0]))} --fractions train=0.8 val=0.2`, and data={folder} finds the parts."
        )
    names = [str(path.relative_to(folder)) for path in files] or sorted(path.name for path in folder.iterdir())
    there = f"{', '.join(names[:10])}{', …' if len(names) > 10 else ''}" if names else "nothing"
    what = "only COCO files without a train split" if files else "no COCO file"
    return UserError(f"data={folder}: {what} (there is: {there}); expected {_EXPECTED}.")


def _images_of(path: Path, split: str, folder: Path) -> Path:
    """Return the folder that a file's names are relative to, where the first of them are."""
    names = _first_names(path)
    if not names:
        raise UserError(f"{path} names no image; give another file as data.{split}.annotations=.")
    for candidate in _likely(path, split, folder):
        if all(_is_file(candidate / name) for name in names):
            return candidate
    others = [place for place in _folders(folder) if all(_is_file(place / name) for name in names)]
    # Exporters number the images of each split from 1: the same names may be in a folder that names none.
    named = [place for place in others if split in map(_split_of, place.relative_to(folder).parts)]
    shared = [place for place in (folder / "images", folder, folder / "JPEGImages") if place in others]
    others = named or shared[:1] or others
    if len(others) == 1:
        return others[0]
    if others:
        listed = ", ".join(str(place) for place in others[:5])
        raise UserError(f"{path}: its images may be in {listed}; choose one by data.{split}.images=.")
    raise UserError(
        f"{path}: its image {names[0]!r:.200} is in no folder of {folder}, {_DEPTH} levels deep; give the right one by "
        f"data.{split}.images=."
    )


def _first_names(path: Path) -> list[str]:
    found = [json.loads(match) for match in _NAME.findall(_head(path))[:_CHECKED]]
    if found:
        return found
    data = read_json(path)  # the images are after megabytes of annotations
    images = data.get("images") if isinstance(data, dict) else None
    entries = images if isinstance(images, list) else []
    names = (entry.get("file_name") for entry in entries[:_CHECKED] if isinstance(entry, dict))
    return [name for name in names if isinstance(name, str)]


def _likely(path: Path, split: str, folder: Path) -> Iterable[Path]:
    """Yield the folders of the split that layouts have."""
    year = re.search(r"\d{4}$", path.stem)
    names = [f"{name}{year[0]}" for name in SPLITS[split] if year] + list(SPLITS[split])
    if path.parent != folder and _split_of(path.parent.name):
        yield from (path.parent, path.parent / "images")
    if _split_of(path.parent.parent.name) and path.parent.name == "annotations":
        yield from (path.parent.parent / "images", path.parent.parent)
    for name in names:
        yield from (folder / name, folder / "images" / name, folder / name / "images")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _folders(folder: Path) -> Iterable[Path]:
    depth = len(folder.parts)
    for parent, folders, _ in os.walk(folder):
        folders[:] = [] if len(Path(parent).parts) - depth >= _DEPTH else sorted(folders)
        yield Path(parent)
