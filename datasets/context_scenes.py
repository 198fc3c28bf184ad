"""Make ContextScenes: pictures in COCO format, drawn from a seed, in which each task asks one question of a detector.

    python datasets/context_scenes.py datasets/shapes --task shapes

writes OUT/train.json with OUT/train/000001.png … and the same for val and test. A picture depends only on the seed, its
split and its number: making more of them, or another split, changes none of the others. A task is one function below.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import crowd_scene
import numpy as np
import scene_drawing as drawing
from PIL import Image

from detection.errors import UserError, command_line

VERSION = 1
SPLITS = ("train", "val", "test")


@dataclass
class Scene:
    """One picture and its truth.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        objects: category name and outline (V, 2) float xy in pixels of each object, in drawing order. An outline is the
            whole object's, also where a later object covers a little of it.
    """

    image: np.ndarray
    objects: list[tuple[str, np.ndarray]] = field(default_factory=list)


def shapes(rng: np.random.Generator, size: int) -> Scene:
    """Draw 2 to 9 shapes of any size, turn, texture and colour; the class is the shape, and no context is needed."""
    scene = Scene(drawing.background(rng, size))
    drawing.add_clutter(rng, scene.image)
    names = sorted(drawing.SHAPES)
    for _ in range(rng.integers(2, 10)):
        name = names[rng.integers(len(names))]
        extent = size * np.exp(rng.uniform(np.log(12 / 128), np.log(48 / 128)))
        stretch = np.exp(rng.uniform(-0.25, 0.25))
        outline = drawing.pose(drawing.SHAPES[name], extent, rng.uniform(0, 2 * np.pi), stretch)
        taken = [drawing.outline_box(other) for _, other in scene.objects]
        outline = drawing.place(rng, outline, size, taken)
        if outline is not None:
            drawing.paint(rng, scene.image, outline)
            scene.objects.append((name, outline))
    return scene


BEACONS = {"blue": (40, 70, 235), "green": (30, 200, 60), "red": (230, 40, 40)}
BEACON_GAP = 44 / 128
"""Least distance between the beacon and an object's box, in sides of the picture."""


def beacon(rng: np.random.Generator, size: int) -> Scene:
    """Draw 2 to 5 rings that all look alike; their class is the colour of one framed beacon by the picture's border.

    No object's box comes nearer to the beacon than 44 pixels of a picture of 128, which is more than what a network of
    two stages sees around a box: whoever does not look further can only guess. All else is grey.
    """
    scene = Scene(drawing.background(rng, size))
    drawing.add_clutter(rng, scene.image)
    drawing.fade(scene.image, 0.0)
    name = sorted(BEACONS)[rng.integers(len(BEACONS))]
    frame = _by_the_border(rng, size, side=size * 20 / 128)
    drawing.paint_beacon(rng, scene.image, frame, BEACONS[name])
    far = drawing.outline_box(frame) + np.array([-1, -1, 1, 1]) * BEACON_GAP * size
    for _ in range(rng.integers(2, 6)):
        extent = size * rng.uniform(16 / 128, 30 / 128)
        outline = drawing.pose(drawing.SHAPES["circle"], extent, 0.0)
        taken = [drawing.outline_box(other) for _, other in scene.objects]
        outline = drawing.place(rng, outline, size, [*taken, far], overlap=0.0)
        if outline is not None:
            drawing.paint_ring(scene.image, outline)
            scene.objects.append((name, outline))
    return scene


def _by_the_border(rng: np.random.Generator, size: int, side: float) -> np.ndarray:
    """Return a square outline (4, 2) within a sixteenth of the picture's side of one of its borders."""
    corner = np.array([rng.uniform(1, size - 1 - side), rng.uniform(1, size / 16)])
    if rng.random() < 0.5:
        corner[1] = size - side - corner[1]
    if rng.random() < 0.5:
        corner = corner[::-1]
    return corner + side * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])


def crowd(rng: np.random.Generator, size: int) -> Scene:
    """Draw 6 to 14 people who look alike, about half of them in groups whose boxes overlap by an IoU of 0.3 to 0.8.

    The truth is every person, each at least 15 % visible: suppression by overlap has to drop some of them.
    """
    scene = Scene(drawing.background(rng, size))
    drawing.add_clutter(rng, scene.image)
    boxes = crowd_scene.stand(rng, size)
    crowd_scene.paint(rng, scene.image, boxes)
    scene.objects = [("person", crowd_scene.outline(box)) for box in boxes]
    return scene


@dataclass(frozen=True)
class Task:
    """A question asked of a detector.

    Attributes:
        draw: makes one scene from a random stream and the picture's side in pixels.
        categories: names of all classes, in the order of their ids (from 1).
    """

    draw: Callable[[np.random.Generator, int], Scene]
    categories: tuple[str, ...]


TASKS: dict[str, Task] = {
    "beacon": Task(beacon, tuple(sorted(BEACONS))),
    "crowd": Task(crowd, ("person",)),
    "shapes": Task(shapes, tuple(sorted(drawing.SHAPES))),
}


def draw_scene(task: str, seed: int, split: str, number: int, size: int) -> Scene:
    """Return picture `number` (from 1) of a split; it depends on these arguments and nothing else."""
    return TASKS[task].draw(np.random.default_rng((seed, SPLITS.index(split), number)), size)


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


def split_info(task: str, split: str, count: int, size: int, seed: int) -> dict:
    """Return what a split was made from, as its JSON file's `info`; equal infos mean equal files."""
    description = f"ContextScenes, task {task}, {split} split"
    return {
        "description": description,
        "task": task,
        "split": split,
        "pictures": count,
        "seed": seed,
        "size": size,
        "version": VERSION,
    }


def write_split(folder: Path, info: dict) -> None:
    """Draw one split into `folder`: its pictures in a folder of its name, and its annotations beside that."""
    task, split, count, size = info["task"], info["split"], info["pictures"], info["size"]
    categories = TASKS[task].categories
    images, annotations = [], []
    (folder / split).mkdir()
    for number in range(1, count + 1):
        scene = draw_scene(task, info["seed"], split, number, size)
        file_name = f"{number:06d}.png"
        Image.fromarray(scene.image).save(folder / split / file_name)
        images.append({"id": number, "file_name": file_name, "width": size, "height": size})
        for name, outline in scene.objects:
            ids = {"id": len(annotations) + 1, "image_id": number}
            annotations.append(ids | annotation(name, outline, categories))
        if sys.stderr.isatty():
            end = "\n" if number == count else ""
            print(f"\r{split}: {number} of {count} pictures", end=end, file=sys.stderr, flush=True)
    truth = {
        "info": info,
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(categories)],
    }
    (folder / f"{split}.json").write_text(json.dumps(truth), encoding="utf-8")


def is_complete(out: Path, infos: list[dict]) -> bool:
    """Tell whether `out` already holds exactly these splits, with all their pictures."""
    if {path.name for path in out.glob("*.json")} != {f"{info['split']}.json" for info in infos}:
        return False
    for info in infos:
        try:
            found = json.loads((out / f"{info['split']}.json").read_text(encoding="utf-8"))["info"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if found != info or len(list((out / info["split"]).glob("*.png"))) != info["pictures"]:
            return False
    return True


def make(out: Path, infos: list[dict], overwrite: bool = False) -> bool:
    """Write the data set, all of it or nothing.

    Args:
        out: folder to make.
        infos: one `split_info` for each split.
        overwrite: replace a data set of other parameters.

    Returns:
        False when `out` already held this very data set and nothing was done.

    Raises:
        UserError: `out` holds something else.
    """
    out = out.resolve()
    if is_complete(out, infos):
        return False
    if out.exists():
        _check_replaceable(out, overwrite)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        temporary.mkdir(parents=True)
        for info in infos:
            write_split(temporary, info)
        if out.exists():
            shutil.rmtree(out)
        try:
            temporary.rename(out)
        except OSError:
            # Another process may have finished the same data set first.
            if not is_complete(out, infos):
                raise
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}); choose another OUT folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
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


@command_line
def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Make a ContextScenes data set: OUT/train.json, OUT/train/*.png, and so for val and test."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--task", default="shapes", choices=sorted(TASKS), help="what to draw (default: shapes)")
    for split, count in zip(SPLITS, (400, 100, 0), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N", help=f"pictures (default: {count})")
    parser.add_argument("--size", type=int, default=128, metavar="S", help="side of a picture in pixels (default: 128)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of all pictures (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace ContextScenes of other parameters in OUT")
    options = parser.parse_args(argv)

    counts = {split: getattr(options, split) for split in SPLITS}
    for key, least in {"size": 64, "seed": 0, "train": 0, "val": 0, "test": 0}.items():
        if getattr(options, key) < least:
            raise UserError(f"--{key} {getattr(options, key)} is too small: give {least} or more")
    infos = [split_info(options.task, s, n, options.size, options.seed) for s, n in counts.items() if n]
    if not infos:
        raise UserError("no pictures to make: give --train, --val or --test a number above 0")
    made = make(options.out, infos, options.overwrite)
    total = " + ".join(f"{info['pictures']} {info['split']}" for info in infos)
    print(f"{options.out}: {total} pictures" + ("" if made else " are already there, nothing to do"))


if __name__ == "__main__":
    sys.exit(main())
