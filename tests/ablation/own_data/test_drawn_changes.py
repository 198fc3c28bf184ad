"""Images that one variant saved or broke over several seeds, by hand-made results."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.ablation.own_data.drawn_changes import draw_changes
from tests.evaluation.coco_sets import make_results, make_truth

LEFT, RIGHT = (2, 2, 24, 24), (34, 30, 24, 24)
TRUTH = make_truth([(i, 1 + i % 2, box) for i in range(1, 6) for box in (LEFT, RIGHT)], num_images=5, size=(64, 64))


def rows(*boxes, score=0.9):
    """Results of right classes: an image and a box each."""
    return [(image, 1 + image % 2, box, score) for image, box in boxes]


BASE = rows(*[(image, box) for image in (4, 5) for box in (LEFT, RIGHT)])
# Image 1: context finds both with seed 0 and one with seed 1; 2: it loses one with seed 1; 3: one gained, one lost.
PLAIN = (rows((2, LEFT), (2, RIGHT), (3, LEFT)), rows((2, LEFT), (2, RIGHT), (3, RIGHT)))
CONTEXT = (rows((1, LEFT), (1, RIGHT), (2, LEFT), (2, RIGHT), (3, RIGHT)), rows((1, LEFT), (2, LEFT), (3, LEFT)))


def write_run(folder, results, where="last"):
    digest = hashlib.sha256(Path("ground_truth.json").read_bytes()).hexdigest()
    (folder / where).mkdir(parents=True)
    (folder / where / "results.json").write_text(json.dumps(make_results(results + BASE)))
    files = {"annotations": "ground_truth.json", "images": "images"}
    split = "val" if where == "last" else where
    (folder / "config.json").write_text(json.dumps({"data": {split: files}, "seed": 0}))
    (folder / "environment.json").write_text(json.dumps({"data": {split: {"sha256": digest}}}))
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    for image in TRUTH["images"]:
        Image.fromarray(np.full((64, 64, 3), 128, dtype=np.uint8)).save(f"images/{image['file_name']}")
    Path("ground_truth.json").write_text(json.dumps(TRUTH))


@pytest.mark.parametrize(("where", "split"), [("last", "val"), ("test", "test")])
def test_images_are_chosen_over_all_seeds(place, where, split):
    pairs = [
        (write_run(Path(f"none/seed-{s}"), PLAIN[s], where), write_run(Path(f"context/seed-{s}"), CONTEXT[s], where))
        for s in (0, 1)
    ]
    changed = draw_changes(pairs, ("none", "context"), 4, split)
    assert [figure.name for figure in changed.saved] == ["saved-1.png"]
    assert [figure.name for figure in changed.broken] == ["broken-2.png"]
    saved, broken = changed.saved[0], changed.broken[0]
    assert "2 objects gained, 0 lost" in saved.caption and "better with 2 of 2 seeds" in saved.caption
    assert "0 objects gained, 1 lost" in broken.caption and "worse with 1 of 2 seeds" in broken.caption
    assert "better than none on 1 of 5 images and worse on 1" in changed.text
    assert saved.png[:4] == b"\x89PNG" and saved.png != broken.png


def test_no_more_images_than_asked_for(place):
    few = rows((4, LEFT))
    pair = write_run(Path("none/seed-0"), few), write_run(Path("context/seed-0"), few + rows((1, LEFT), (2, LEFT)))
    changed = draw_changes([pair], ("none", "context"), 1, "val")
    assert len(changed.saved) == 1 and not changed.broken and "on 2 of 5 images" in changed.text
