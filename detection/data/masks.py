"""Masks of annotations: polygons or RLE of the file or, when asked for, filled boxes.

Masks of the file are flat arrays in a cache folder, shared between processes like the index.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from detection.data.array_cache import cached_arrays, reopen_arrays
from detection.data.checks import clip_boxes, read_annotations
from detection.data.coco_index import CocoIndex
from detection.data.mask_checks import POINT_UNIT, pack_masks
from detection.data.run_lengths import decode_runs, polygon_runs
from detection.errors import UserError

_FORMAT = 1

MAX_CATEGORIES = 254
"""Of a byte, without background and "ignored"."""

MaskSource = Literal["polygons", "boxes"]


@dataclass(frozen=True, eq=False)
class FileMasks:
    """The masks of an index's annotations; made by `load_masks`. The arrays are explained in `pack_masks`."""

    path: Path
    points: np.ndarray
    point_offsets: np.ndarray
    polygon_offsets: np.ndarray
    runs: np.ndarray
    run_offsets: np.ndarray
    _folder: Path | None = field(default=None, repr=False)

    def run_lengths(self, i: int, height: int, width: int) -> np.ndarray:
        """Return (n,) int64 run lengths of the mask of the index's annotation `i` in its image's pixels."""
        start, stop = self.run_offsets[i], self.run_offsets[i + 1]
        if stop > start:
            lengths = decode_runs(self.runs[start:stop].tobytes())
            assert lengths is not None
            return lengths
        edges = self.point_offsets[self.polygon_offsets[i] : self.polygon_offsets[i + 1] + 1].tolist()
        return polygon_runs([self.points[a:b].ravel() / POINT_UNIT for a, b in pairwise(edges)], height, width)

    def __reduce__(self) -> tuple[Callable, tuple]:
        if self._folder is None:
            arrays = (self.points, self.point_offsets, self.polygon_offsets, self.runs, self.run_offsets)
            return FileMasks, (self.path, *arrays)
        return _reopen, (self.path, self._folder)


@dataclass(frozen=True, eq=False)
class BoxMasks:
    """Every box of an index filled: a stand-in where there are no masks."""

    index: CocoIndex

    def run_lengths(self, i: int, height: int, width: int) -> np.ndarray:
        """Return (n,) int64 run lengths of the filled box of annotation `i`."""
        x1, y1, x2, y2 = clip_boxes(self.index.boxes[i : i + 1], width, height)[0].tolist()
        return polygon_runs([np.array([x1, y1, x2, y1, x2, y2, x1, y2])], height, width)


Masks = FileMasks | BoxMasks


def load_masks(index: CocoIndex, source: MaskSource = "polygons", *, cache_dir: Path | None = None) -> Masks:
    """Open the masks of an index's annotations.

    Args:
        index: The annotations; those that it dropped need no mask, and their pixels count as background.
        source: `polygons` takes `segmentation` (polygons or RLE), `boxes` fills each box.
        cache_dir: As for `load_index`.

    Raises:
        UserError: A mask is missing or wrong, or there are more categories than a map of bytes can hold.
    """
    if len(index.categories) > MAX_CATEGORIES:
        raise UserError(
            f"{index.path} has {len(index.categories)} categories, but a map of labels holds at most {MAX_CATEGORIES}: "
            "train without segmentation (detector.segmentation=none)."
        )
    if source == "boxes":
        return BoxMasks(index)
    # Which annotations an index holds follows from the file and the number of those that were dropped: none or all.
    name = f"masks-{index.digest[:32]}-{index.counts['dropped']}-v{_FORMAT}"
    (arrays, _), kept = cached_arrays(name, lambda: (_build(index), {}), cache_dir)
    return FileMasks(index.path, **arrays, _folder=kept)


def _build(index: CocoIndex) -> dict[str, np.ndarray]:
    by_id = {entry["id"]: entry for entry in read_annotations(index.path)["annotations"]}
    wanted = [by_id[id_] for id_ in index.annotation_ids.tolist()]
    per_image = np.diff(index.box_offsets)
    return pack_masks(wanted, np.repeat(index.widths, per_image), np.repeat(index.heights, per_image), index.path)


def _reopen(path: Path, folder: Path) -> FileMasks:
    return FileMasks(path, **reopen_arrays(folder, f"the cache of masks of {path}")[0], _folder=folder)
