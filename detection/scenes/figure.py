"""A figure of ContextScenes: the first images of a split with their ground truth, as one small PNG."""

from pathlib import Path

import numpy as np
from PIL import Image

from detection.analysis.visualize import contact_sheet, distinct_colors, draw_boxes
from detection.errors import UserError
from detection.scenes import drawing
from detection.scenes.beacon import BEACONS
from detection.scenes.files import scene_of


def write_figure(path: Path, info: dict) -> None:
    """Draw all images of the split of a `split_info` into a PNG, with boxes and class names.

    Raises:
        UserError: the file cannot be written.
    """
    scenes = [scene_of(info, number) for number in range(1, info["images"] + 1)]
    colors = distinct_colors([name for scene in scenes for name, _ in scene.objects]) | BEACONS
    images = []
    for scene in scenes:
        names = [name for name, _ in scene.objects]
        boxes = np.array([drawing.outline_box(outline) for _, outline in scene.objects])
        images.append(draw_boxes(scene.image, boxes, names, colors=colors, min_side=256))
    sheet = Image.fromarray(contact_sheet(images, 3))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG", optimize=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}); choose another --figure") from error
