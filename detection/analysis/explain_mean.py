"""Where the context of all detections of a data set comes from: mean drops by a patch's place relative to the object.

One image's explanation is anecdote; the mean over many shows whether classes come from the left, from above, or from
nearby. n detections, h×w patches, R×C offsets.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from detection.analysis.explain import Explanation
from detection.reports.files import to_png

LEAST_SHARE = 0.1
"""Of the detections that an offset must have been measured for; others lie outside of most images."""


class MeanDrops:
    """Sums drops over detections, patch by patch relative to the one that holds a box's center."""

    def __init__(self) -> None:
        self.detections = 0
        self.side = 0.0
        self._sums, self._counts = np.zeros((1, 1)), np.zeros((1, 1), int)  # (R, C), odd, offset 0 in the middle

    def add(self, explanation: Explanation, boxes: np.ndarray) -> None:
        """Add an image's detections.

        Args:
            explanation: of the image.
            boxes: (n, 4) xyxy in pixels of the image, in the explanation's order.
        """
        drops = explanation.drops.numpy()  # (n, h, w)
        rows, columns = drops.shape[1:]
        self._grow(rows - 1, columns - 1)
        middle_row, middle_column = (length // 2 for length in self._sums.shape)
        for box, drop in zip(boxes, drops, strict=True):
            y, x = ((box[1] + box[3]) / 2 * explanation.scale[0], (box[0] + box[2]) / 2 * explanation.scale[1])
            row = middle_row - min(max(int(y // explanation.side), 0), rows - 1)
            column = middle_column - min(max(int(x // explanation.side), 0), columns - 1)
            self._sums[row : row + rows, column : column + columns] += drop
            self._counts[row : row + rows, column : column + columns] += 1
        self.side += len(boxes) * explanation.side / max(explanation.scale)
        self.detections += len(boxes)

    def _grow(self, rows: int, columns: int) -> None:
        """Make room for offsets of up to `rows` and `columns` to each side."""
        pads = [(max(0, need - size // 2),) * 2 for need, size in zip((rows, columns), self._sums.shape, strict=True)]
        self._sums, self._counts = np.pad(self._sums, pads), np.pad(self._counts, pads)

    def means(self) -> np.ndarray:
        """Return the mean drop (R, C) of each offset, NaN where too few detections have a patch there."""
        enough = self._counts >= max(1, LEAST_SHARE * self.detections)
        return np.where(enough, self._sums / np.maximum(self._counts, 1), np.nan)

    def describe(self) -> dict[str, Any]:
        """Return what `mean.json` holds.

        Returns:
            `detections`; `patch_side` in pixels of the images, in the mean; `mean_drop` and `counts` (R, C), rows from
            above to below, null where too few were measured; and `far`, the offset at least two patches away with the
            largest mean drop: `right` and `below` in pixels, negative for left and above, and `drop`.
        """
        means, side = self.means(), self.side / max(self.detections, 1)
        described: dict[str, Any] = {
            "detections": self.detections,
            "patch_side": side,
            "mean_drop": [[None if np.isnan(value) else float(value) for value in row] for row in means],
            "counts": self._counts.tolist(),
        }
        candidates = np.where(np.isnan(self._far(means)), -np.inf, means)
        row, column = np.unravel_index(candidates.argmax(), means.shape)
        if np.isfinite(candidates[row, column]):
            right, below = (float((i - n // 2) * side) for i, n in ((column, means.shape[1]), (row, means.shape[0])))
            described["far"] = {"right": right, "below": below, "drop": float(means[row, column])}
        return described

    @staticmethod
    def _far(means: np.ndarray) -> np.ndarray:
        """Return the means with NaN within a patch of the object."""
        rows, columns = (abs(np.arange(size) - size // 2) for size in means.shape)
        return np.where(np.maximum(rows[:, None], columns) >= 2, means, np.nan)

    def largest_far(self) -> float:
        """Return the largest mean drop at least two patches away, 0 where there is none."""
        return float(np.nan_to_num(self._far(self.means()), nan=0.0).max())


def place_in_words(right: float, below: float) -> str:
    """Describe an offset in pixels, such as `120 pixels to the left, 16 above`."""
    sideways = f"{abs(right):.0f} pixels to the {'right' if right > 0 else 'left'}" if right else ""
    upright = f"{abs(below):.0f} {'' if right else 'pixels '}{'below' if below > 0 else 'above'}" if below else ""
    return ", ".join(filter(None, (sideways, upright)))


def write_means(folder: Path, drops: MeanDrops) -> str:
    """Write `mean.png` and `mean.json` into a folder; returns a sentence on them."""
    described = drops.describe()
    (folder / "mean.png").write_bytes(to_png(draw_means(drops)))
    (folder / "mean.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    text = f"mean of {drops.detections} detections"
    if "far" not in described:
        return f"{text}: no patch is two away from them"
    far = described["far"]
    return f"{text}: of what is far, most by {place_in_words(far['right'], far['below'])}, {far['drop']:.3f} less"


def draw_means(drops: MeanDrops) -> Figure:
    """Draw the mean drops around the object, the cross; the brightest color begins at the largest far away."""
    means, side = drops.means(), drops.side / max(drops.detections, 1)
    rows, columns = means.shape
    shown_rows, shown_columns = (np.flatnonzero((~np.isnan(means)).any(axis)) for axis in (1, 0))
    top, left = (max((shown.max() - shown.min() + 1) if len(shown) else 1, 1) for shown in (shown_rows, shown_columns))
    figure = Figure(figsize=(7, min(max(7 * top / left, 1.2), 7) + 0.8), layout="constrained")
    axes = figure.add_subplot()
    half = columns / 2 * side, rows / 2 * side
    extent = (-half[0], half[0], half[1], -half[1])
    largest = max(drops.largest_far(), 0.01)
    drawn = axes.imshow(means, extent=extent, cmap="inferno", vmin=0, vmax=largest, interpolation="nearest")
    if len(shown_rows):
        axes.set_ylim((shown_rows.max() + 1 - rows / 2) * side, (shown_rows.min() - rows / 2) * side)
        axes.set_xlim((shown_columns.min() - columns / 2) * side, (shown_columns.max() + 1 - columns / 2) * side)
    axes.plot(0, 0, "+", color="black")
    axes.set_xlabel("pixels to the right of the object")
    axes.set_ylabel("below")
    figure.colorbar(drawn, label="mean drop", extend="max")
    return figure
