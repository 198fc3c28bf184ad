"""Drawings of what decided the class of each detection."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from detection.analysis.explain import Explanation
from detection.analysis.explain_mean import MeanDrops, place_in_words
from detection.analysis.visualize import contact_sheet, distinct_colors, draw_boxes
from detection.reports.files import to_png

# H×W pixels of the image, n detections, h×w patches.

_LIGHT = np.array([255, 140, 0])
LEAST_DROP = 0.01
"""Of a probability that is worth a word."""


def describe(explanation: Explanation, names: Sequence[str], boxes: np.ndarray) -> list[dict[str, Any]]:
    """Return for each detection its class, probability and box, and the far patch that decided its class most.

    Args:
        explanation: of an image.
        names: class of each detection.
        boxes: (n, 4) xyxy in pixels of the image.
    """
    described = []
    for i, (row, column) in enumerate(explanation.decisive().tolist()):
        entry = {"class": names[i], "probability": float(explanation.probabilities[i]), "box": boxes[i].tolist()}
        if row >= 0:
            patch = [float(edge) for edge in explanation.patch_box(row, column)]
            entry |= {"far_patch": patch, "drop": float(explanation.drops[i, row, column])}
        described.append(entry)
    return described


def draw_explanation(
    image: np.ndarray, explanation: Explanation, described: Sequence[dict[str, Any]], classes: Sequence[str] = ()
) -> np.ndarray:
    """Draw two panels a detection: lit by the drop of its class's probability, and by the gradient.

    Args:
        image: (H, W, 3) uint8 RGB.
        explanation: of this image.
        described: of `describe`; as many detections as are drawn.
        classes: names of all classes of the detector, by which each has the color that it has elsewhere.

    Returns:
        One (H', W', 3) uint8 image with titles.
    """
    panels, titles, colors = [], [], distinct_colors(classes)
    for i, entry in enumerate(described):
        drops, gradients = explanation.drops[i].clamp(min=0).numpy(), explanation.gradients[i].numpy()
        name = entry["class"]
        for values, top in ((drops, max(drops.max(), 0.05)), (gradients, max(gradients.max(), 1e-12))):
            lit = _lit(image, values / top, explanation)
            panels.append(draw_boxes(lit, np.array([entry["box"]]), [name], [entry["probability"]], colors=colors))
        far = f", {entry['drop']:.2f} by a patch far away" if "drop" in entry else ""
        titles += [f"{name}: lit where covering costs up to {drops.max():.2f}{far}", f"{name}: gradient"]
    return contact_sheet(panels, columns=2, titles=titles)


def _lit(image: np.ndarray, values: np.ndarray, explanation: Explanation) -> np.ndarray:
    """Return the image in gray, lit by the values (h, w) in 0..1 of its patches."""
    height, width = image.shape[:2]
    rows, columns = (
        np.minimum(((np.arange(pixels) + 0.5) * scale / explanation.side).astype(int), patches - 1)
        for pixels, scale, patches in zip((height, width), explanation.scale, values.shape, strict=True)
    )
    alpha = 0.8 * values[rows][:, columns][..., None]  # (H, W, 1)
    gray = 0.7 * image.mean(2, keepdims=True) + 0.15 * 255
    return (gray + (_LIGHT - gray) * alpha).round().clip(0, 255).astype(np.uint8)


def write_explanation(
    folder: Path,
    stem: str,
    image: np.ndarray,
    explanation: Explanation,
    described: list[dict[str, Any]],
    classes: Sequence[str] = (),
) -> None:
    """Write `STEM.png` and `STEM.json` into a folder; `classes` are as in `draw_explanation`."""
    drawn = draw_explanation(image, explanation, described, classes)
    Image.fromarray(drawn).save(folder / f"{stem}.png", compress_level=3)
    text = json.dumps({"patch_side": explanation.side / max(explanation.scale), "detections": described}, indent=1)
    (folder / f"{stem}.json").write_text(text + "\n", encoding="utf-8")


def draw_means(drops: MeanDrops) -> Figure:
    """Draw the mean drops around the object, the cross; the brightest color begins at the largest far away."""
    means, far, side = drops.means(), drops.means(far=True), drops.side
    rows, columns = means.shape
    largest = max(float(np.nan_to_num(far, nan=0.0).max()), 0.01)
    half = columns / 2 * side, rows / 2 * side
    # What was measured for enough detections; the patch of the object itself always was.
    shown_rows, shown_columns = (np.flatnonzero((~np.isnan(means)).any(axis)) for axis in (1, 0))
    top, bottom = shown_rows[0], shown_rows[-1] + 1
    left, right = shown_columns[0], shown_columns[-1] + 1
    height = min(max(7 * (bottom - top) / (right - left), 1.2), 7) + 0.8
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.add_subplot()
    extent = (-half[0], half[0], half[1], -half[1])
    drawn = axes.imshow(means, extent=extent, cmap="inferno", vmin=0, vmax=largest, interpolation="nearest")
    axes.set_xlim(left * side - half[0], right * side - half[0])
    axes.set_ylim(bottom * side - half[1], top * side - half[1])
    axes.plot(0, 0, "+", color="black")
    axes.set_xlabel("pixels to the right of the object")
    axes.set_ylabel("below")
    figure.colorbar(drawn, label="mean drop", extend="max")
    return figure


def write_means(folder: Path, drops: MeanDrops) -> str:
    """Write `mean.png` and `mean.json` into a folder; returns a sentence on them."""
    described = drops.describe()
    (folder / "mean.png").write_bytes(to_png(draw_means(drops)))
    (folder / "mean.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    text = f"mean of {drops.detections} detection{'s' if drops.detections > 1 else ''}"
    far = described.get("far")
    if far is None or far["drop"] < LEAST_DROP:
        return f"{text}: no patch far from them lowers their probability by {LEAST_DROP}"
    return f"{text}: of what is far, most by {place_in_words(far['right'], far['below'])}, {far['drop']:.3f} less"
