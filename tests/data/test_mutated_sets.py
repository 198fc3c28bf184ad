"""Mutated data sets through the doctor, its repair and the training reader: no traceback, and no object lost."""

import contextlib
import io
import json
import random
import re
import shutil

import numpy as np
import pytest

from detection.cli import doctor
from detection.data.coco_index import load_index
from detection.data.dataset import DetectionDataset
from detection.errors import UserError
from tests.data.mutations import draw_set, encode, mutate, write_images


def _doctor(*arguments):
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = doctor.main([str(argument) for argument in arguments])
    assert code in (0, 1, 2)
    assert (code == 2) == error.getvalue().startswith("error: ") and error.getvalue().count("\n") <= 1
    return code, out.getvalue(), error.getvalue()


def _squares(pixels) -> int:
    """Count the drawn objects of an image: connected regions that are not gray are at most two, so by their colors."""
    gray = (pixels == 120).all(axis=0)
    return int((~gray).sum())


def _is_background(image, boxes) -> bool:
    """Return whether pixels of an object are in no box."""
    covered = np.zeros(image.shape[1:], dtype=bool)
    for x1, y1, x2, y2 in boxes.tolist():
        covered[int(np.floor(y1)) : int(np.ceil(y2)), int(np.floor(x1)) : int(np.ceil(x2))] = True
    return bool((~covered & ~(image == 120).all(axis=0)).any())


def _train_reader(path, images, cache):
    """Open a file as training does; whether it was accepted."""
    try:
        dataset = DetectionDataset(load_index(path, cache_dir=cache), images)
        items = [dataset[position] for position in range(len(dataset))]
    except UserError as error:
        assert "\n" not in str(error)
        return None
    return items


def _try(seed, folder):
    rng = random.Random(seed)
    data, pictures = draw_set(seed)
    shutil.rmtree(folder, ignore_errors=True)
    images, path, fixed = folder / "images", folder / "a.json", folder / "fixed.json"
    write_images(rng, images, pictures)
    mutated = mutate(rng, data)
    path.write_bytes(encode(rng, mutated))
    code, report, error = _doctor(path, images, "--fix", fixed)
    _train_reader(path, images, folder / "cache")
    if code == 2 and (match := re.search(r"--boxes (\S+) converts", error)):
        code, report, error = _doctor(path, images, "--fix", fixed, "--boxes", match[1].strip("'"))
    assert fixed.exists() == (code != 2), (code, error)
    if code == 2:
        return "refused"
    again, report, error = _doctor(fixed, images, "--boxes", "xywh")
    assert again == 0, report + error
    items = _train_reader(fixed, images, folder / "cache")
    assert items is not None
    lost = _lost_objects(data, mutated, json.loads(fixed.read_text()))
    assert not lost, lost
    return "fixed"


def _lost_objects(data, mutated, fixed):
    """Return objects of the sound file whose image the copy keeps, but without as many of its boxes.

    An annotation that the mutation itself took out, or gave to another image, is no fault of the repair.
    """
    names = {image["id"]: image["file_name"] for image in data["images"]}
    wanted = {name: 0 for name in names.values()}
    for old, new in zip(data["annotations"], mutated["annotations"], strict=False):
        same = isinstance(new, dict) and _means(new.get("image_id"), old["image_id"])
        wanted[names[old["image_id"]]] += same
    kept = {image["id"]: image["file_name"] for image in fixed["images"]}
    found = dict.fromkeys(kept.values(), 0)
    for annotation in fixed["annotations"]:
        found[kept[annotation["image_id"]]] += 1
    return {name: (number, wanted[name]) for name, number in found.items() if number < wanted.get(name, 0)}


def _means(value, id_):
    return value == id_ or value in (str(id_), f"n{id_}", [id_], [str(id_)])


def test_mutated_sets(tmp_path):
    outcomes = [_try(seed, tmp_path / "set") for seed in range(30)]
    assert outcomes.count("fixed") > 10, outcomes


@pytest.mark.slow
def test_3000_mutated_sets(tmp_path):
    for seed in range(30, 3030):
        try:
            _try(seed, tmp_path / "set")
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
