"""A map of labels: for every pixel of an image the class of the object that covers it.

H×W the image, K classes.
"""

import numpy as np

from detection.data.coco_index import CocoIndex
from detection.data.masks import Masks

IGNORED = 255
"""The label of pixels that are neither learned nor counted."""


def semantic_map(index: CocoIndex, masks: Masks, row: int) -> np.ndarray:
    """Paint the masks of the image at position `row` of an index.

    Where objects overlap, the one with fewer mask pixels is on top (of equals, the later in the file): it would vanish
    under the larger. Crowd regions are under everything.

    Returns:
        (H, W) uint8 on the grid that the annotation file states: 0 background, 1 … K, and 255 (`IGNORED`) for crowd
        regions.
    """
    height, width = int(index.heights[row]), int(index.widths[row])
    span = range(int(index.box_offsets[row]), int(index.box_offsets[row + 1]))
    runs = [masks.run_lengths(i, height, width) for i in span]
    crowd = index.iscrowd[span.start : span.stop]
    labels = np.where(crowd, IGNORED, index.labels[span.start : span.stop]).tolist()
    # Run lengths alternate, background first: every second one is of the object.
    areas = np.array([lengths[1::2].sum() for lengths in runs], dtype=np.int64)
    columns = np.zeros(height * width, dtype=np.uint8)
    for k in np.lexsort((-areas, ~crowd)).tolist():
        edges = np.cumsum(runs[k]).tolist()
        for start, stop in zip(edges[0::2], edges[1::2], strict=False):
            columns[start:stop] = labels[k]
    return np.ascontiguousarray(columns.reshape(width, height).T)  # (H, W)


def nearest(new: int, old: int) -> np.ndarray:
    """Return (new,) int64: of `old` pixels along an axis, those that hold the centers of `new` ones."""
    return (2 * np.arange(new) + 1) * old // (2 * new)
