"""A random crop that leaves no object half seen.

After SSD's IoU crop (Liu et al., 2016, https://arxiv.org/abs/1512.02325), which keeps a box if its center is inside,
and so cuts objects and leaves visible halves unlabeled. Here a window is taken only if every box is either kept, at
least half visible, or practically gone. albumentations' box-safe crop is not used: it rounds windows down and so cuts
boxes at their right and bottom, and it may choose a window of one pixel.
"""

import numpy as np

MIN_SIDE = 0.3
"""Shortest side of a window as a share of the image's."""
KEPT = 0.5
"""A kept box shows at least this share of its area."""
GONE = 0.1
"""A box that is not kept shows at most this share."""

_TRIES = 32


def crop_window(
    boxes: np.ndarray, height: int, width: int, rng: np.random.Generator
) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """Draw a window and choose which boxes remain.

    Args:
        boxes: (N, 4) xyxy in pixels, inside the image and of positive size.
        height: Of the image, pixels.
        width: Likewise.
        rng: Where the draws come from; always the same number of them.

    Returns:
        The window (x1, y1, x2, y2) in integer pixels, the full image if none of 32 tries fits, and (N,) bool of the
        boxes kept: at least one, if there are any. Their coordinates are still the image's, and not clipped.
    """
    # All windows at once, whether the first fits or not: the draws that follow do not depend on the boxes.
    size = np.array([width, height])
    sides = np.maximum(np.ceil(rng.uniform(MIN_SIDE, 1, (_TRIES, 2)) * size), 1).astype(np.int64)
    corners = np.floor(rng.random((_TRIES, 2)) * (size - sides + 1)).astype(np.int64)
    boxes = boxes.astype(np.float64)
    low, high = np.maximum(boxes[:, :2], corners[:, None]), np.minimum(boxes[:, 2:], (corners + sides)[:, None])
    # The share of each box inside each of the T windows.
    seen = (high - low).clip(0).prod(axis=2) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)  # (T, N)
    fits = ((seen >= KEPT) | (seen <= GONE)).all(axis=1) & ((seen >= KEPT).any(axis=1) | (len(boxes) == 0))
    if not fits.any():
        return (0, 0, width, height), np.ones(len(boxes), dtype=bool)
    chosen = int(np.argmax(fits))
    (x, y), (w, h) = corners[chosen].tolist(), sides[chosen].tolist()
    return (x, y, x + w, y + h), seen[chosen] >= KEPT
