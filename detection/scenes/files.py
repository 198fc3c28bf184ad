"""The files of a ContextScenes data set: images and COCO ground truth, all of it or nothing."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from detection.atomic_write import atomic_folder
from detection.errors import UserError
from detection.scenes import drawing
from detection.scenes.task import Scene
from detection.scenes.tasks import SPLITS, TASKS, draw_scene, require_canvas

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
    """Draw one split into `folder`: its images in a folder of its name, and its annotations."""
    split, count, side = info["split"], info["images"], info.get("canvas", info["size"])
    categories = TASKS[info["task"]].categories
    images, annotations = [], []
    (folder / split).mkdir()
    for number in range(1, count + 1):
        scene = scene_of(info, number)
        file_name = f"{number:06d}.png"
        Image.fromarray(scene.image).save(folder / split / file_name)
        images.append({"id": number, "file_name": file_name, "width": side, "height": side})
        for name, outline in scene.objects:
            ids = {"id": len(annotations) + 1, "image_id": number}
            annotations.append(ids | annotation(name, outline, categories))
        if sys.stderr.isatty():
            end = "\n" if number == count else ""
            print(f"\r{split}: {number} of {count} images", end=end, file=sys.stderr, flush=True)
    ground_truth = {"info": info, "images": images, "annotations": annotations}
    ground_truth["categories"] = [{"id": id_, "name": name} for id_, name in enumerate(categories, 1)]
    (folder / f"{split}.json").write_text(json.dumps(ground_truth), encoding="utf-8")


def is_drawn(out: Path, infos: list[dict]) -> bool:
    """Return whether `out` already holds exactly these splits, with all their images."""
    names = {f"{info['split']}.json" for info in infos}
    return {path.name for path in out.glob("*.json")} == names and all(is_split_drawn(out, info) for info in infos)


def is_split_drawn(out: Path, info: dict) -> bool:
    """Return whether `out` already holds this split, with all its images."""
    try:
        found = json.loads((out / f"{info['split']}.json").read_text(encoding="utf-8"))["info"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return found == info and len(list((out / info["split"]).glob("*.png"))) == info["images"]


def make(out: Path, infos: list[dict], overwrite: bool = False) -> bool:
    """Write the data set, one `split_info` for each split, all of it or nothing.

    Returns:
        False when `out` already held this very data set and nothing was done.

    Raises:
        UserError: `out` holds something else, and it is no data set of other parameters that `overwrite` replaces.
    """
    out = out.resolve()
    if is_drawn(out, infos):
        return False
    if out.exists():
        _check_replaceable(out, overwrite)
    try:
        with atomic_folder(out) as temporary:
            for info in infos:
                write_split(temporary, info)
            if out.exists():
                shutil.rmtree(out)
    except OSError as error:
        # Another process may have finished the same data set first.
        if not is_drawn(out, infos):
            reason = error.strerror or error
            raise UserError(f"{out} cannot be written ({reason}); choose another OUT folder") from error
    return True


def _check_replaceable(out: Path, overwrite: bool) -> None:
    """Raise unless `out` is an empty folder, or a data set made here that may be replaced."""
    if not out.is_dir():
        raise UserError(f"{out} is a file; choose another OUT folder")
    foreign = {path.name for path in out.iterdir()} - {name for split in SPLITS for name in (split, f"{split}.json")}
    if foreign:
        raise UserError(f"{out} holds files that are no ContextScenes ({min(foreign)}); choose another OUT folder")
    if any(out.iterdir()) and not overwrite:
        raise UserError(
            f"{out} holds ContextScenes of other parameters, or an incomplete set; "
            f"choose another OUT folder or pass --overwrite to replace it"
        )
