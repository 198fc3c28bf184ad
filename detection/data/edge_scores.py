"""Agreement of the sides of boxes with the edges of an image, compared with the same boxes put elsewhere.

H x W pixels, M boxes, P places.
"""

import numpy as np

_LARGEST = 800  # pixels of the longer side; of a larger image every k-th pixel is taken
_SMALLEST_SIDE = 5.0  # pixels after that; a box with a shorter side is not scored
_RADIUS = 2  # pixels within which a side takes the strongest edge
_LEFT_OUT = 0.35  # of a side at both ends: round objects touch their box in the middle
_PLACES = 8  # random ones that a box is compared with
_LARGEST_SCORE = 2.0  # so that no single image decides


def edge_scores(pixels: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Score boxes by the strongest edge within two pixels of their sides.

    Args:
        pixels: (H, W, 3) uint8.
        boxes: (M, 4) xyxy.
        rng: draws the other places.

    Returns:
        (M,): the mean over the sides, less that of the same box at random places, over that plus a little. About 0 for
        boxes that have nothing to do with the image; NaN where there is no answer, as of boxes too small or as large
        as the image.
    """
    step = -(-max(pixels.shape[:2]) // _LARGEST)
    small, boxes = pixels[::step, ::step].astype(np.int16), boxes / step
    across, down = _accumulated(small), _accumulated(small.transpose(1, 0, 2))  # of (H, W, 3), (W, H, 3)
    height, width = small.shape[:2]
    boxes = np.clip(boxes, 0, (width, height) * 2)
    sides = boxes[:, 2:] - boxes[:, :2]
    found = _sides(across, down, boxes)
    room = np.maximum((width, height) - sides, 0)
    corners = rng.random((_PLACES, len(boxes), 2)) * room
    places = np.concatenate([corners, corners + sides], axis=2).reshape(-1, 4)  # (P * M, 4)
    elsewhere = _mean(_sides(across, down, places).reshape(_PLACES, len(boxes), 4).transpose(1, 0, 2))  # (M,)
    # The mean edge keeps flat images from dividing by nothing.
    scores = (_mean(found[:, None]) - elsewhere) / (elsewhere + across[-1].mean() / height + 1)
    return np.where((sides >= _SMALLEST_SIDE).all(axis=1), np.minimum(scores, _LARGEST_SCORE), np.nan)


def _accumulated(pixels: np.ndarray) -> np.ndarray:
    """Return (H + 1, W + 1) sums, from the top, of the edges between neighboring columns; 0 at the image's border."""
    # Sums, because the mean edge along a side is then a difference of two of them, whatever its length.
    edges = np.zeros((pixels.shape[0] + 1, pixels.shape[1] + 1), dtype=np.float64)
    edges[1:, 1:-1] = np.abs(np.diff(pixels, axis=1)).max(axis=2)
    return np.cumsum(edges, axis=0)


def _sides(across: np.ndarray, down: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return (M, 4) edges at the left, top, right and bottom sides; NaN for sides on the image's border."""
    x1, y1, x2, y2 = boxes.T
    return np.stack(
        [_side(across, x1, y1, y2), _side(down, y1, x1, x2), _side(across, x2, y1, y2), _side(down, y2, x1, x2)], axis=1
    )


def _side(sums: np.ndarray, position: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    length, last = sums.shape[0] - 1, sums.shape[1] - 1
    start, stop = start + _LEFT_OUT * (stop - start), stop - _LEFT_OUT * (stop - start)
    first = np.clip(np.rint(start).astype(int), 0, length - 1)
    end = np.clip(np.rint(stop).astype(int), first + 1, length)
    columns = np.rint(position).astype(int)[:, None] + np.arange(-_RADIUS, _RADIUS + 1)
    columns = np.clip(columns, 0, last)
    means = (sums[end[:, None], columns] - sums[first[:, None], columns]) / (end - first)[:, None]
    inner = (position > _RADIUS - 0.5) & (position < last - _RADIUS + 0.5)
    return np.where(inner, means.max(axis=1), np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over all but the first axis, leaving out NaN; NaN where there is nothing else."""
    values = values.reshape(len(values), -1)  # (M, others)
    known = ~np.isnan(values)
    counts = known.sum(axis=1)
    return np.where(counts > 0, np.where(known, values, 0).sum(axis=1) / np.maximum(counts, 1), np.nan)
