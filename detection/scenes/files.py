"""The files of a ContextScenes data set: images and COCO ground truth, all of it or nothing."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from detection.atomic_write import atomic_folder, atomic_write
from detection.errors import UserError
from detection.scenes import drawing
from detection.scenes.task import Scene
from detection.scenes.tasks import SPLITS, TASKS, draw_scene, require_canvas

# Of the drawing, in each split's info: a set that was drawn otherwise is not taken for the same. The control version
# has changed once.
VERSION, CONTROL_VERSION = 1, 2


def annotation(name: str, outline: np.ndarray, categories: tuple[str, ...]) -> dict:
    """Return the COCO annotation of one object, without its ids: polygon, tight box xywh and polygon area in pixels."""
    outline = outline.round(2)
    x, y = outline.T
    x0, y0, x1, y1 = drawing.outline_box(outline)
    area = 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))
    return {
        "category_id": categories.index(name) + 1,
        "bbox": [round(float(value), 2) for value in (x0, y0, x1 - x0, y1 - y0)],
        "area": round(area, 2),
        "iscrowd": 0,
        "segmentation": [[round(float(value), 2) for value in outline.ravel()]],
    }


def split_info(
    task: str,
    split: str,
    count: int,
    size: int,
    seed: int,
    cue: bool = True,
    difficulty: float | None = None,
    canvas: int | None = None,
) -> dict:
    """Return the `info` of a split's JSON file, what it is drawn from; equal infos mean equal files.

    The cue, the difficulty and the canvas are named only where they are not the task's defaults.

    Raises:
        UserError: a difficulty or canvas that the task does not know.
    """
    canvas = require_canvas(task, size, canvas)
    difficulty = TASKS[task].knob.check(task, difficulty)
    changed: dict[str, float] = {} if cue else {"cue": False}
    if difficulty != TASKS[task].knob.default:
        changed["difficulty"] = difficulty
    if canvas is not None:
        changed["canvas"] = canvas
    description = f"ContextScenes, task {task}, {split} split" + ("" if cue else ", control without the cue")
    info = {"description": description, "task": task, "split": split, "images": count}
    return info | {"seed": seed, "size": size, "version": VERSION if cue else CONTROL_VERSION} | changed


def scene_of(info: dict, number: int) -> Scene:
    """Return image `number` (from 1) of the split that `split_info` describes."""
    options = info.get("cue", True), info.get("difficulty"), info.get("canvas")
    return draw_scene(info["task"], info["seed"], info["split"], number, info["size"], *options)


def write_split(folder: Path, info: dict) -> None:
    """Draw one split into `folder`: its images in a folder of its name, and its annotations once these are complete."""
    split, count, side = info["split"], info["images"], info.get("canvas", info["size"])
    categories = TASKS[info["task"]].categories
    images, annotations = [], []
    with atomic_folder(folder / split) as drawn:
        for number in range(1, count + 1):
            scene = scene_of(info, number)
            file_name = f"{number:06d}.png"
            Image.fromarray(scene.image).save(drawn / file_name)
            images.append({"id": number, "file_name": file_name, "width": side, "height": side})
            for name, outline in scene.objects:
                ids = {"id": len(annotations) + 1, "image_id": number}
                annotations.append(ids | annotation(name, outline, categories))
            if sys.stderr.isatty():
                end = "\n" if number == count else ""
                print(f"\r{split}: {number} of {count} images", end=end, file=sys.stderr, flush=True)
    ground_truth = {"info": info, "images": images, "annotations": annotations}
    ground_truth["categories"] = [{"id": id_, "name": name} for id_, name in enumerate(categories, 1)]
    text = json.dumps(ground_truth)
    atomic_write(folder / f"{split}.json", lambda path: path.write_text(text, encoding="utf-8"))


def missing_splits(out: Path, infos: list[dict]) -> list[dict] | None:
    """Return the splits that `out` lacks; None where it holds a split of other parameters, or an incomplete one."""
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    present = {split: _drawn(out, split) for split in SPLITS if names & {split, f"{split}.json"}}
    asked = {info["split"]: info for info in infos}
    for split, info in present.items():
        if info is None or (info != asked[split] if split in asked else _made_from(info) != _made_from(infos[0])):
            return None
    return [info for info in infos if info["split"] not in present]


def _drawn(out: Path, split: str) -> dict | None:
    """Return the info of a split that is there with all its images, None of another."""
    try:
        info = json.loads((out / f"{split}.json").read_text(encoding="utf-8"))["info"]
        complete = len(list((out / split).glob("*.png"))) == info["images"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return info if complete else None


def _made_from(info: dict) -> dict:
    """Return what all splits of a set have in common."""
    return {key: value for key, value in info.items() if key not in ("split", "images", "description")}


def make(
    out: Path,
    infos: list[dict],
    overwrite: bool = False,
    elsewhere: str = "choose another OUT folder",
    replacing: str = "pass --overwrite to replace it",
) -> bool:
    """Write the splits that `out` lacks, one `split_info` for each; a new data set all of it or nothing.

    Args:
        out: folder of the data set.
        infos: what each split is drawn from.
        overwrite: replace ContextScenes of other parameters.
        elsewhere: how a person gives another folder, for messages.
        replacing: how a person replaces ContextScenes of other parameters, for messages.

    Returns:
        False when `out` already held all of them and nothing was done.

    Raises:
        UserError: `out` holds something else, and it is no data set of other parameters that `overwrite` replaces.
    """
    out = out.resolve()
    missing = missing_splits(out, infos)
    if missing == []:
        return False
    if out.exists():
        _check_replaceable(out, overwrite or missing is not None, elsewhere, replacing)
    try:
        if missing is not None and out.exists():
            for info in missing:
                write_split(out, info)
            return True
        with atomic_folder(out) as temporary:
            for info in infos:
                write_split(temporary, info)
            if out.exists():
                shutil.rmtree(out)
    except OSError as error:
        # Another process may have finished the same data set first.
        if missing_splits(out, infos) != []:
            reason = error.strerror or error
            raise UserError(f"{out} cannot be written ({reason}); {elsewhere}") from error
    return True


def _check_replaceable(out: Path, overwrite: bool, elsewhere: str, replacing: str) -> None:
    """Raise unless `out` is an empty folder, or a data set made here that may be replaced."""
    if not out.is_dir():
        raise UserError(f"{out} is a file; {elsewhere}")
    names = {path.name for path in out.iterdir()}
    if foreign := names - {name for split in SPLITS for name in (split, f"{split}.json")}:
        raise UserError(f"{out} holds files that are no ContextScenes ({min(foreign)}); {elsewhere}")
    there = [split for split in SPLITS if names & {split, f"{split}.json"}]
    foreign = [split for split in there if not _drawn_here(out, split)]
    if len(foreign) < len(there):  # a kill may have left a split without its annotations
        foreign = [split for split in foreign if f"{split}.json" in names or not _holds_drawn_names(out / split)]
    if foreign:
        raise UserError(f"{out} holds a data set that is no ContextScenes ({foreign[0]}); {elsewhere}")
    if names and not overwrite:
        raise UserError(
            f"{out} holds ContextScenes of other parameters, or an incomplete set; {elsewhere} or {replacing}"
        )


def _holds_drawn_names(folder: Path) -> bool:
    """Whether a folder holds nothing but images named as `write_split` names them."""
    return folder.is_dir() and all(re.fullmatch(r"\d{6}\.png", path.name) for path in folder.iterdir())


def _drawn_here(out: Path, split: str) -> bool:
    """Whether a split, with all its images or not, was drawn by `write_split`."""
    try:
        info = json.loads((out / f"{split}.json").read_text(encoding="utf-8"))["info"]
        return info["task"] in TASKS and info["description"].startswith("ContextScenes")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
