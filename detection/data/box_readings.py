"""Readings of the four numbers of a box, other than COCO's left, top, width, height in pixels of the upright image.

M boxes. A reading is written ORDER, ORDER/CANVAS or ORDER*FACTOR: `xyxy` (corners), `cxcywh/1` (center and sides, as
shares of 1 of the image's), `xywh*0.5` (drawn on an image twice as large); or `raw` (drawn on the pixels as stored,
without the EXIF orientation) or `scaled` (drawn at the size that the annotation file lists).
"""

import re
from dataclasses import dataclass

import numpy as np

from detection.errors import UserError

ORDERS = {
    "xywh": "left, top, width, height",
    "xyxy": "corners (left, top, right, bottom)",
    "cxcywh": "center and size (center x, center y, width, height)",
    "yxhw": "swapped axes (top, left, height, width)",
    "yxyx": "corners with swapped axes (top, left, bottom, right)",
    "xyhw": "swapped sides (left, top, height, width)",
}


@dataclass(frozen=True)
class Reading:
    """A meaning of the four numbers of a box.

    Attributes:
        order: a key of `ORDERS`.
        canvas: the numbers are shares of this of the image's width and height; None: they are pixels.
        factor: by which pixels are multiplied.
        frame: `upright` pixels, `raw` ones, or those of an image of the listed size (`scaled`).
    """

    order: str = "xywh"
    canvas: float | None = None
    factor: float = 1.0
    frame: str = "upright"

    @property
    def name(self) -> str:
        """The reading as `--boxes` takes it."""
        if self.frame != "upright":
            return self.frame
        canvas = "" if self.canvas is None else f"/{self.canvas:g}"
        return self.order + canvas + ("" if self.factor == 1 else f"*{self.factor:g}")

    @property
    def words(self) -> str:
        """The reading in words, for sentences."""
        if self.frame == "raw":
            return "boxes drawn on the pixels as stored, without the EXIF orientation"
        if self.frame == "scaled":
            return "boxes drawn on images of the listed size, which the files no longer have"
        words = ORDERS[self.order]
        if self.canvas is not None:
            words += f" in shares of {self.canvas:g} of the image's sides"
        if self.factor != 1:
            words += f" of an image {1 / self.factor:.3g} times as large"
        return words


AS_GIVEN = Reading()


def parse_reading(text: str) -> Reading:
    """Return the reading of a name; a `UserError` if there is none such."""
    if text in ("raw", "scaled"):
        return Reading(frame=text)
    match = re.fullmatch(rf"({'|'.join(ORDERS)})(?:/([0-9.]+)|\*([0-9.]+))?", text)
    try:
        canvas, factor = (float(part) if part else None for part in match.groups()[1:]) if match else (0.0, 0.0)
    except ValueError:
        canvas = factor = 0.0
    if match is None or canvas == 0 or factor == 0:
        raise UserError(
            f"--boxes {text}: no such reading; give {', '.join(ORDERS)} (with /1 for shares of 1, *0.5 for boxes at "
            "twice the size), raw or scaled."
        )
    return Reading(match[1], canvas, 1.0 if factor is None else factor)


@dataclass(frozen=True)
class Placement:
    """The images of M boxes.

    Attributes:
        sizes: (M, 2) width and height in pixels, upright.
        listed: (M, 2) as the annotation file has them; 0 where it has none.
        orientations: (M,) EXIF orientations, 1 … 8.
    """

    sizes: np.ndarray
    listed: np.ndarray
    orientations: np.ndarray

    def of(self, rows: np.ndarray) -> "Placement":
        """Return the placement of some of the boxes."""
        return Placement(self.sizes[rows], self.listed[rows], self.orientations[rows])


def to_xywh(reading: Reading, boxes: np.ndarray, placement: Placement) -> np.ndarray:
    """Convert (M, 4) boxes from a reading to COCO's."""
    a, b, c, d = boxes.astype(np.float64).T
    if reading.order in ("yxhw", "yxyx"):
        a, b, c, d = b, a, d, c
    if reading.order == "xyhw":
        c, d = d, c
    with np.errstate(over="ignore", invalid="ignore"):
        if reading.order in ("xyxy", "yxyx"):
            c, d = c - a, d - b
        if reading.order == "cxcywh":
            a, b = a - c / 2, b - d / 2
        points = np.stack([a, b, a + c, b + d], axis=1).reshape(-1, 2, 2)  # (M, 2 corners, xy)
        points = map_points(reading, points, placement)
        low, high = points.min(axis=1), points.max(axis=1)
        # Corners change places only where the image is turned; elsewhere a negative side stays one, and does not fit.
        if reading.frame != "raw":
            low, high = points[:, 0], points[:, 1]
        return np.concatenate([low, high - low], axis=1)  # (M, 4)


def map_points(reading: Reading, points: np.ndarray, placement: Placement) -> np.ndarray:
    """Map (M, P, 2) points, xy, of M boxes' images from a reading's frame to the upright image's pixels."""
    if reading.frame == "raw":
        return _upright_points(points, placement)
    scales = np.full((len(points), 2), reading.factor)
    if reading.canvas is not None:
        scales = placement.sizes / reading.canvas
    if reading.frame == "scaled":
        scales = np.where(placement.listed > 0, placement.sizes / np.maximum(placement.listed, 1), 1.0)
    return points * scales[:, None] if (scales != 1).any() else points


def _upright_points(points: np.ndarray, placement: Placement) -> np.ndarray:
    # EXIF 5 … 8 exchange the axes; then 2, 3, 6 and 7 mirror left to right, and 3, 4, 7 and 8 top to bottom.
    turn = placement.orientations
    swapped = turn >= 5
    width, height = placement.sizes.T
    x, y = points[:, :, 0], points[:, :, 1]
    x, y = np.where(swapped[:, None], y, x), np.where(swapped[:, None], x, y)
    x = np.where(np.isin(turn, (2, 3, 6, 7))[:, None], width[:, None] - x, x)
    y = np.where(np.isin(turn, (3, 4, 7, 8))[:, None], height[:, None] - y, y)
    return np.stack([x, y], axis=2)


def fits(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return (M,) bool: which (M, 4) xywh boxes have area and are in their images but for two pixels or a percent."""
    slack = np.maximum(2.0, 0.01 * sizes)
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    inside = (low >= -slack) & (high <= sizes + slack) & (boxes[:, 2:] > 0)
    return np.asarray(inside.all(axis=1))
