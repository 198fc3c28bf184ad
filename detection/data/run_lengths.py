"""Masks as run lengths: COCO's RLE, column after column from the upper left corner, background first.

A pixel belongs to a polygon as pycocotools decides. Compressed RLE is decoded here because pycocotools reads and writes
beyond its memory where a file's text is damaged.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask

_DIGITS = 7
"""Digits of five bits that a length may have: more than 32 bits fit no image."""


def polygon_runs(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """Return the run lengths of the union of polygons in an image of this size; parts outside are cut off.

    A polygon is (2n,) float64, x1 y1 x2 y2 … in pixels, n at least 3.
    """
    parts: Any = list(polygons)
    runs: Any = mask.merge(mask.frPyObjects(parts, height, width))["counts"]
    return decode_runs(runs)  # type: ignore[return-value]


def encode_runs(lengths: list[int], height: int, width: int) -> bytes:
    """Return run lengths as compressed RLE."""
    rle: Any = {"counts": lengths, "size": [height, width]}
    return mask.frPyObjects(rle, height, width)["counts"]


def box_and_area(value: object) -> tuple[list[float], int] | None:
    """Return the xywh box of an RLE of COCO's files and the number of its pixels, None where it is no sound one."""
    if not isinstance(value, dict) or not isinstance(value.get("counts"), str | list):
        return None
    size, counts = value.get("size"), value["counts"]
    if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and 0 < n < 2**16 for n in size):
        return None
    if isinstance(counts, list):
        runs = counts if all(type(n) is int and n >= 0 for n in counts) else None
    else:
        # Checked before pycocotools reads it, which a damaged text leads beyond its memory.
        found = decode_runs(counts.encode()) if counts.isascii() else None
        runs = None if found is None else found.tolist()
    if runs is None or sum(runs) != size[0] * size[1]:
        return None
    rle: Any = {"counts": encode_runs(runs, *size), "size": size}
    return mask.toBbox(rle).tolist(), sum(runs[1::2])


def decode_runs(text: bytes) -> np.ndarray | None:
    """Return the (n,) int64 run lengths that a compressed RLE stands for, None where it is damaged.

    A length is digits of five bits, the lowest first, each with a bit "more follow", from the character 48 on; the last
    one's fifth bit is the sign. From the fourth length on, the difference to the last but one is written.
    """
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if len(digits) == 0 or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        return None
    ends = np.flatnonzero(digits & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends + 1 - starts
    if sizes.max() > _DIGITS:
        return None
    places = np.arange(len(digits)) - np.repeat(starts, sizes)
    lengths = np.add.reduceat((digits & 31) << 5 * places, starts)
    lengths -= np.where(digits[ends] & 16, 1 << 5 * sizes, 0)
    for first in (1, 2):
        lengths[first::2] = np.cumsum(lengths[first::2])
    return None if lengths.min() < 0 else lengths
