"""An image as two runs saw it: the truth, then what each detected."""

from pathlib import Path

import numpy as np

from detection.ablation.comparison import FinishedRun, ImageDifference, class_name
from detection.data.image_paths import resolve_image
from detection.data.images import read_image
from detection.evaluation.columns import class_names
from detection.visualize import contact_sheet, distinct_colours, draw_boxes


def draw_difference(first: FinishedRun, second: FinishedRun, difference: ImageDifference) -> np.ndarray:
    """Truth, the first run's detections and the second's, beside each other, (H, W, 3) uint8.

    In the truth a box that only the second run found is marked as saved, one that only the first found as lost.

    Raises:
        UserError: the image is not there or cannot be read.
    """
    item = sorted(first.truth["images"], key=lambda image: image["id"])[difference.position]
    image = read_image(resolve_image(Path(first.config["data"]["val"]["images"]), item["file_name"]))
    names = list(class_names(first.truth).values())
    colours = distinct_colours(names)
    truths = first.matching.truths
    inside = np.flatnonzero((truths.image == difference.position) & ~truths.crowd)
    marks = dict.fromkeys(difference.saved, " saved") | dict.fromkeys(difference.lost, " lost")
    labels = [names[truths.category[index]] + marks.get(int(index), "") for index in inside]
    by_label = {label: colours[names[truths.category[i]]] for i, label in zip(inside, labels, strict=True)}
    panels = [draw_boxes(image, _xyxy(truths.box[inside]), labels, colors=by_label)]
    for run in (first, second):
        found = [r for r in run.results if r["image_id"] == item["id"] and r["score"] >= run.threshold]
        boxes = _xyxy(np.array([r["bbox"] for r in found]))
        labels = [class_name(run, r["category_id"]) for r in found]
        panels.append(draw_boxes(image, boxes, labels, [r["score"] for r in found], colors=colours))
    titles = ("truth", *(f"{run.name}, score from {run.threshold:.2f}" for run in (first, second)))
    return contact_sheet(panels, columns=3, titles=titles)


def _xyxy(xywh: np.ndarray) -> np.ndarray:
    xywh = xywh.reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
