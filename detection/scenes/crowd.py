"""The people of ContextScenes' task `crowd`: near-identical figures, about half of them in overlapping groups.

A figure is its box (4,) xyxy in pixels: the same unit silhouette is stretched into every box. Who stands lower in the
image stands in front. G is the number of figures in a group.
"""

import cv2
import numpy as np

from detection.scenes import drawing
from detection.scenes.task import Knob, Scene, Task

COUNTS = (6, 14)
"""Fewest and most people of an image."""
HEIGHTS = (19.0, 24.0)
"""An image's mean height of a figure, in pixels of an image of 128; each figure differs from it by up to 7 %."""
GROUP_SHARES = (0.54, 0.34, 0.12)
"""How often a group is one figure, a pair or a triple."""
GROUP_IOU = (0.3, 0.79)
"""Range of the IoU of a figure's box with that of one neighbor in its group; no two boxes overlap more."""
LEAST_VISIBLE = 0.15
"""Part of a figure's silhouette that those in front leave visible at least."""
FINE = 4
"""Samples a pixel, each way, by which the visible part is measured."""


def _arc(center: tuple[float, float], radii: tuple[float, float], start: float, stop: float, count: int) -> np.ndarray:
    """Return points (count, 2) of an ellipse between two angles in degrees, clockwise on the screen from 3 o'clock."""
    angles = np.radians(np.linspace(start, stop, count))
    return np.asarray(center) + np.stack([np.cos(angles), np.sin(angles)], 1) * radii


def _mirrored(right: np.ndarray) -> np.ndarray:
    """Return the closed outline whose right half, from top to bottom, is given; the axis is x = 0.5."""
    return np.concatenate([right, (right * [-1, 1] + [1, 0])[::-1]])


HEAD = _arc((0.5, 0.17), (0.28, 0.17), 0, 345, 24)
_SIDE = np.concatenate([_arc((0.7, 0.48), (0.3, 0.17), -90, 0, 7), _arc((0.84, 0.93), (0.08, 0.07), 0, 90, 5)])
BODY = _mirrored(_SIDE)
SILHOUETTE = _mirrored(np.concatenate([_arc((0.5, 0.17), (0.28, 0.17), -90, 50, 14), _SIDE]))
"""Head and body together, in the unit square; the tight box is the square."""


def outline(box: np.ndarray) -> np.ndarray:
    """Return the silhouette (V, 2) of the figure in a box."""
    return box[:2] + SILHOUETTE * (box[2:] - box[:2])


def draw_crowd(rng: np.random.Generator, size: int, closest: float, control: np.random.Generator | None) -> Scene:
    """Draw 6 to 14 similar people, about half of them in groups whose boxes overlap by an IoU of 0.3 and more.

    The ground truth is every person, each at least 15 % visible: suppression by overlap has to drop some of them.
    `closest` is the largest IoU of two boxes in a group; up to 0.3 there are no groups, and all stand alone. There is
    one class: the control version shows other people, who stand elsewhere.
    """
    scene = Scene(drawing.cluttered(rng, size))
    shares = GROUP_SHARES if closest > GROUP_IOU[0] else (1.0,)
    boxes = stand(rng, size, closest, shares)
    paint_people(rng, scene.image, boxes if control is None else stand(control, size, closest, shares))
    scene.objects = [("person", outline(box)) for box in boxes]
    return scene


def stand(
    rng: np.random.Generator, size: int, closest: float = GROUP_IOU[1], shares: tuple[float, ...] = GROUP_SHARES
) -> list[np.ndarray]:
    """Return the boxes (4,) of an image's people, those in front last.

    `closest` is the largest IoU of two boxes, `shares` how often a group has one figure, two, and so on.
    """
    height = rng.uniform(*HEIGHTS) * size / 128
    wanted = int(rng.integers(COUNTS[0], COUNTS[1] + 1))
    boxes: list[np.ndarray] = []
    for _ in range(10 * wanted):
        if len(boxes) == wanted:
            break
        count = min(1 + int(rng.choice(len(shares), p=shares)), wanted - len(boxes))
        corners = draw_group(rng, count, height, closest).reshape(-1, 2)  # (2 G, 2)
        points = drawing.place(rng, corners - corners.min(0), size, boxes, overlap=0.08)
        if points is None:
            continue
        together = sorted([*boxes, *points.reshape(-1, 4)], key=lambda box: box[3])  # each (4,)
        if min(visible_parts([outline(box) for box in together], size)) >= LEAST_VISIBLE:
            boxes = together
    return boxes


def draw_group(rng: np.random.Generator, count: int, height: float, closest: float = GROUP_IOU[1]) -> np.ndarray:
    """Return the boxes (G, 4) of `count` figures, each overlapping an earlier one by an IoU drawn evenly."""
    boxes = [_figure(rng, height)]
    while len(boxes) < count:
        box = _figure(rng, height)
        neighbor = boxes[rng.integers(len(boxes))]
        box = _moved_from(box, neighbor, rng.uniform(0, 2 * np.pi), rng.uniform(GROUP_IOU[0], closest))
        if max(_iou(box, other) for other in boxes) <= closest + 1e-6:
            boxes.append(box)
    return np.stack(boxes)


def _figure(rng: np.random.Generator, height: float) -> np.ndarray:
    """Return a box of nearly the given height, centered at the origin."""
    height = height * rng.uniform(0.93, 1.07)
    half = np.array([0.62 * rng.uniform(0.95, 1.05), 1.0]) * height / 2
    return np.concatenate([-half, half])


def _moved_from(box: np.ndarray, neighbor: np.ndarray, angle: float, iou: float) -> np.ndarray:
    """Return the box moved from the neighbor's center in a direction until their IoU has fallen to the one given."""
    center = (neighbor[:2] + neighbor[2:]) / 2
    step = np.tile([np.cos(angle), np.sin(angle)], 2)
    near, far = 0.0, float(box[3] - box[1] + neighbor[3] - neighbor[1])
    box = box + np.tile(center, 2)
    for _ in range(40):
        middle = (near + far) / 2
        near, far = (middle, far) if _iou(box + middle * step, neighbor) > iou else (near, middle)
    return box + far * step


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the IoU of two boxes xyxy."""
    shared = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return float(shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared))


def visible_parts(outlines: list[np.ndarray], size: int) -> list[float]:
    """Return the part of each outline's area that those after it leave visible."""
    numbers = np.zeros((size * FINE, size * FINE), np.uint8)
    windows, areas = [], []
    for number, points in enumerate(outlines, 1):
        corners = np.round(points * FINE - 0.5).astype(np.int32)
        (left, top), (right, bottom) = corners.min(0), corners.max(0) + 1
        windows.append(numbers[top:bottom, left:right])
        alone = np.zeros(windows[-1].shape, np.uint8)
        cv2.fillPoly(alone, [corners - [left, top]], 1)
        areas.append(alone.sum())
        windows[-1][alone > 0] = number
    seen = [(window == number).sum() for number, window in enumerate(windows, 1)]
    return (np.array(seen) / np.array(areas)).tolist()


def paint_people(rng: np.random.Generator, canvas: np.ndarray, boxes: list[np.ndarray]) -> None:
    """Paint figures onto the canvas, in place and in order: dark rims, and nearly one color for all of them."""
    rim = max(0.8, canvas.shape[0] / 128)
    cloth, skin = rng.uniform(110, 245, 3), rng.uniform(170, 250) * np.array([1.0, 0.86, 0.74])
    for box in boxes:
        drawing.fill(canvas, outline(box), (cloth * 0.18).astype(np.float32))
        for part, color in ((BODY, cloth), (HEAD, skin)):
            points = box[:2] + part * (box[2:] - box[:2])
            shade = np.clip(color + rng.uniform(-12, 12) + rng.uniform(-6, 6, 3), 0, 255)
            drawing.fill(canvas, _inset(points, rim), shade.astype(np.float32))


def _inset(points: np.ndarray, margin: float) -> np.ndarray:
    """Return the outline shrunk about its box's middle by a margin in pixels on every side."""
    low, high = points.min(0), points.max(0)
    return (low + high) / 2 + (points - (low + high) / 2) * (1 - 2 * margin / (high - low))


KNOB = Knob("largest IoU of two people's boxes; up to 0.3 all stand alone", GROUP_IOU[1], 0.0, GROUP_IOU[1])
TASK = Task(draw_crowd, ("person",), KNOB)
