"""Origin of the context of all detections of a data set: mean drops by a patch's place relative to the object.

One image's explanation is anecdote; the mean over many shows whether classes come from the left, from above, or from
nearby. n detections, h×w patches, R×C offsets.
"""

from typing import Any

import numpy as np

from detection.analysis.explain import Explanation

LEAST_SHARE = 0.1
"""Of the detections that an offset must have been measured for; others are outside of most images."""


class MeanDrops:
    """Sums drops over detections, patch by patch relative to the one that holds a box's center.

    Attributes:
        detections: number of detections.
    """

    def __init__(self) -> None:
        self.detections = 0
        self._sides = 0.0  # sum over detections, in pixels of their images
        # (4, R, C), odd, offset 0 in the middle: sums of drops and their numbers, and both of patches far away alone
        self._totals = np.zeros((4, 1, 1))

    def add(self, explanation: Explanation, boxes: np.ndarray) -> None:
        """Add an image's detections.

        Args:
            explanation: of the image.
            boxes: (n, 4) xyxy in pixels of the image, in the explanation's order.
        """
        drops, far = explanation.drops.numpy(), explanation.far.numpy()  # (n, h, w) each
        rows, columns = drops.shape[1:]
        self._grow(rows - 1, columns - 1)
        middle_row, middle_column = (length // 2 for length in self._totals.shape[1:])
        for box, drop, away in zip(boxes, drops, far, strict=True):
            y, x = ((box[1] + box[3]) / 2 * explanation.scale[0], (box[0] + box[2]) / 2 * explanation.scale[1])
            row = middle_row - min(max(int(y // explanation.side), 0), rows - 1)
            column = middle_column - min(max(int(x // explanation.side), 0), columns - 1)
            around = self._totals[:, row : row + rows, column : column + columns]
            around += np.stack([drop, np.ones_like(drop), drop * away, away])
        self._sides += len(boxes) * explanation.side / max(explanation.scale)
        self.detections += len(boxes)

    def _grow(self, rows: int, columns: int) -> None:
        """Make room for offsets of up to `rows` and `columns` to each side."""
        sizes = zip((rows, columns), self._totals.shape[1:], strict=True)
        self._totals = np.pad(self._totals, [(0, 0), *((max(0, need - size // 2),) * 2 for need, size in sizes)])

    @property
    def side(self) -> float:
        """Mean side of a patch in pixels of the images."""
        return self._sides / max(self.detections, 1)

    def means(self, far: bool = False) -> np.ndarray:
        """Return the mean drop (R, C) of each offset, NaN where too few detections have a patch there.

        Args:
            far: of patches far from their detection alone, as `Explanation.far` has it.
        """
        sums, counts = self._totals[2:] if far else self._totals[:2]
        enough = counts >= max(1, LEAST_SHARE * self.detections)
        return np.where(enough, sums / np.maximum(counts, 1), np.nan)

    def describe(self) -> dict[str, Any]:
        """Return what `mean.json` holds.

        Returns:
            `detections`; `patch_side` in pixels of the images, in the mean; `mean_drop` and `counts` (R, C), rows from
            above to below, null where too few were measured; and `far`, the offset with the largest mean drop of far
            patches: `right` and `below` in pixels, negative for left and above, and `drop`. It is left out where too
            few detections have far patches.
        """
        means, far = self.means(), self.means(far=True)
        described: dict[str, Any] = {
            "detections": self.detections,
            "patch_side": self.side,
            "mean_drop": [[None if np.isnan(value) else float(value) for value in row] for row in means],
            "counts": self._totals[1].astype(int).tolist(),
        }
        if not np.isnan(far).all():
            row, column = np.unravel_index(np.nanargmax(far), far.shape)
            right, below = (float((i - n // 2) * self.side) for i, n in ((column, far.shape[1]), (row, far.shape[0])))
            described["far"] = {"right": right, "below": below, "drop": float(far[row, column])}
        return described


def place_in_words(right: float, below: float) -> str:
    """Describe an offset in pixels, such as `120 pixels to the left, 16 above`."""
    sideways = f"{abs(right):.0f} pixels to the {'right' if right > 0 else 'left'}" if right else ""
    upright = f"{abs(below):.0f} {'' if right else 'pixels '}{'below' if below > 0 else 'above'}" if below else ""
    return ", ".join(filter(None, (sideways, upright)))
