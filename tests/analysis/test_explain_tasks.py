"""Explanations of trained detectors on tasks whose answer is known: the cue's patch decides the class."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torchvision.ops import box_iou

from detection.analysis.explain import explain_detections
from detection.config import override
from detection.predictor import Predictor
from detection.scenes import drawing
from detection.scenes.ensure import ensure_scenes
from detection.scenes.files import scene_of
from detection.scenes.tasks import TASKS
from detection.training.run import train

FILE = Path(__file__).parents[2] / "configs" / "ablations" / "recurrences.py"
IMAGES, SURE = 60, 0.5


def overlap(a, b):
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def decided_by_cue(predictor, info):
    """For each correct detection of some images, whether the far patch with the largest drop shows its cue."""
    names, found = TASKS[info["task"]].categories, []
    for number in range(1, IMAGES + 1):
        scene = scene_of(info, number)
        pixels = torch.from_numpy(scene.image).permute(2, 0, 1)  # (3, H, W)
        detections = predictor(scene.image)
        sure = detections.scores >= SURE
        boxes, labels = detections.boxes[sure], detections.labels[sure]
        true = torch.from_numpy(np.stack([drawing.outline_box(outline) for _, outline in scene.objects])).float()
        ious, objects = box_iou(boxes, true).max(1)
        is_right = (ious >= 0.5) & (
            labels == torch.tensor([names.index(name) + 1 for name, _ in scene.objects])[objects]
        )
        explanation = explain_detections(predictor.detector, pixels, boxes, labels)
        cues = scene.cues * len(scene.objects) if len(scene.cues) == 1 else scene.cues
        for k in is_right.nonzero().flatten().tolist():
            patch = explanation.patch_box(*explanation.decisive()[k].tolist())
            found.append(overlap(patch, drawing.outline_box(cues[objects[k]])))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("task", ["beacon", "row"])
def test_the_cue_decides_the_class_of_correct_detections(task, tmp_path, monkeypatch, blank_plots):
    monkeypatch.chdir(tmp_path)
    file = runpy.run_path(str(FILE))
    config = override(file["config"], file["task"](task))
    ensure_scenes(config.data)
    metrics = train(config, tmp_path / "run", Accelerator(cpu=True))
    assert metrics["AP50"] > 0.9
    info = json.loads(Path(config.data.val.annotations).read_text())["info"]
    found = decided_by_cue(Predictor(tmp_path / "run", "cpu"), info)
    assert len(found) > IMAGES and sum(found) >= 0.9 * len(found)
